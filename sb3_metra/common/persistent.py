"""A skill-conditioned SAC that can be saved and loaded. Nothing that a file holds is run, unless it is trusted."""

from __future__ import annotations

import copy
import pickle
from abc import ABC
from collections.abc import Iterable
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import ConstantSchedule, check_for_correct_spaces, get_system_info

from sb3_metra.common.archive import File
from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.loading import (
    ATTRIBUTES,
    argument_names,
    check_changes,
    check_names,
    check_parameters,
    check_saved,
    complete_parameters,
    fit_to_env,
    own_state,
    restart_multipliers,
)
from sb3_metra.common.normalization import ObservationNormalization, normalize_env
from sb3_metra.common.replay_file import check_skills, is_pickle, read_replay, write_replay
from sb3_metra.common.sac import SkillSAC
from sb3_metra.common.saved_attributes import unreadable
from sb3_metra.common.saving import read_model, read_parameters, write_model
from sb3_metra.common.training_env import is_watched

Self = TypeVar("Self", bound="PersistentSAC")


class PersistentSAC(SkillSAC, ABC):
    """
    :class:`~sb3_metra.common.sac.SkillSAC` in files: the model with its generators and statistics, and its replay.

    Parameters: see :class:`~sb3_metra.common.sac.SkillSAC`.
    """

    _normalization: ObservationNormalization | None = None  # what the model was saved with

    @property
    def normalization(self) -> ObservationNormalization | None:
        """
        What observations are normalised with: the statistics of the training environments' ``VecNormalize``, else those
        that the model was saved with; ``None`` if it learnt on observations as they are.
        """
        return ObservationNormalization.of(self._vec_normalize_env) or self._normalization

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As SB3's; if the model learnt on normalised observations, see :meth:`load`.

        :param env: the environment to learn in
        :param force_reset: begin new episodes; always if no model has learnt in these environments yet
        """
        self._normalization = self.normalization
        venv = normalize_env(self._wrap_env(env, self.verbose), self._normalization, self._n_updates > 0)
        super().set_env(venv, force_reset or not is_watched(venv))

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the model as SB3 does, and beside SB3's entries as JSON and safetensors, which :meth:`load` reads.

        An existing file is replaced only once the new one is complete and on the disk.

        :param path: the file, with or without ``.zip``, or an open one
        :param exclude: attributes to leave out, too
        :param include: attributes to save although they usually are not
        """
        names, variables = self._get_torch_save_params()
        left_out = ({*(exclude or ()), *self._excluded_save_params()}) - {*(include or ())}
        left_out |= {name.partition(".")[0] for name in [*names, *variables]}
        data = vars(self) | {
            "_normalization": self.normalization,
            "_skill_prior": self.skill_prior,
            "_replay_rng": self._replay_rng if self.replay_buffer is None else self.replay_buffer.rng,
        }
        data = {name: value for name, value in data.items() if name not in left_out}
        tensors = {name: recursive_getattr(self, name) for name in variables}
        write_model(path, data, self.get_parameters(), tensors, type(self).__name__)

    @classmethod
    def load(
        cls: type[Self],
        path: File,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model. Nothing that the file holds is run, unless it is trusted.

        The model continues with its own generators, and PyTorch's and NumPy's stay as they are. A model that learnt
        on normalised observations brings their statistics: an environment that is not normalised is wrapped with them,
        a ``VecNormalize`` that has seen nothing yet gets them, and one with statistics of its own keeps those.

        :param path: the file, with or without ``.zip``, or an open one; or the folder of an export, which holds no
            state of optimisers
        :param env: the environment to continue learning in; ``None``: only to act and to encode
        :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
        :param custom_objects: values that replace attributes of the file, by name; and classes and functions of your
            own that it names
        :param print_system_info: print the versions that are installed, and those that saved the file
        :param force_reset: begin new episodes; always if no model has learnt in these environments yet
        :param trusted: unpickle what the file does not hold as JSON, which can run any code that it brings
        :param kwargs: arguments of the constructor to change; a multiplier whose argument changes starts again
        :return: the model
        :raises ValueError: if the file is damaged, not a model of this method, or needs trust; or if an argument
            cannot change
        :raises TypeError: if there is no such argument
        """
        check_names("load", argument_names(cls), kwargs)
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            get_system_info()
        custom_objects = dict(custom_objects or {})
        if custom_objects.get("learning_rate") == 0:  # as SB3's documentation gives it for files of older Pythons
            custom_objects["learning_rate"] = ConstantSchedule(0.0)
        saved = read_model(path, custom_objects, trusted, kwargs, print_system_info)
        check_saved(cls, saved)
        changes = check_changes(cls, saved, kwargs)
        data = saved.data
        if env is not None:
            learnt = data.get("_n_updates", 0) > 0
            env = normalize_env(cls._wrap_env(env, data.get("verbose", 0)), data.get("_normalization"), learnt)
            force_reset = force_reset or not is_watched(env)
            check_for_correct_spaces(env, data["observation_space"], data["action_space"])
            fit_to_env(data, env, force_reset)
        model = cls(data["policy_class"], env, device=device, _init_setup_model=False)  # type: ignore[call-arg]
        excluded = model._excluded_save_params()
        vars(model).update({name: value for name, value in data.items() if name not in excluded})
        model._rebuild(saved.label, changes)
        parameters = complete_parameters(model, saved) if saved.exported else saved.parameters
        model._put_parameters(saved.label, restart_multipliers(model, parameters, changes))
        for name in model._get_torch_save_params()[1]:
            recursive_setattr(model, f"{name}.data", saved.variables[name].data.to(model.device))
        if "seed" in changes:
            model.set_random_seed(model.seed)
        elif env is not None and force_reset and model.seed is not None:
            env.seed(int(copy.deepcopy(model.skill_rng).integers(2**31)))  # the same file, the same episodes
        return model

    def _rebuild(self, label: str, changes: dict[str, Any]) -> None:
        """Build networks and replay from a file's attributes and from changed arguments; the generators go on."""
        self.algorithm = type(self).__name__
        for name, value in changes.items():
            setattr(self, ATTRIBUTES.get(name, name), value)
        seed, self.seed = self.seed, None
        generators: list[Any] = [vars(self).get("skill_rng"), self.skill_prior.rng, vars(self).get("_replay_rng")]
        acting = vars(self).get("acting_rng")
        with th.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            try:
                self._setup_model()
            except Exception as error:
                if changes and isinstance(error, ValueError):
                    raise
                raise unreadable(label, "a model that can be built", error) from error
        self.seed = seed
        if None not in generators:
            self.skill_rng, self.skill_prior.rng, self._replay_rng = generators
            assert self.replay_buffer is not None
            self.replay_buffer.rng = self._replay_rng
        if acting is not None:  # files of before 0.2 have none
            self.acting_rng = acting

    def save_replay_buffer(self, path: File) -> None:
        """
        Save the replay buffer as arrays and JSON, whatever the file is called.

        An existing file is replaced only once the new one is complete and on the disk.

        :param path: the file, to which ``.pkl`` is added if it has no suffix, as SB3 does, or an open one
        """
        assert self.replay_buffer is not None, "there is no replay buffer to save"
        write_replay(path, self.replay_buffer.meta(), self.replay_buffer.to_arrays())

    def load_replay_buffer(self, path: File, truncate_last_traj: bool = True, *, trusted: bool = False) -> None:
        """
        Load a replay buffer that :meth:`save_replay_buffer` wrote. Nothing that the file holds is run.

        :param path: the file, with or without ``.pkl``, or an open one
        :param truncate_last_traj: unused, kept for SB3's interface
        :param trusted: unpickle a file of before 0.2, which can run any code that it brings
        :raises ValueError: if the file is damaged, needs trust, or holds other transitions than this model's; the
            model keeps its own then
        """
        own = self.replay_buffer
        if is_pickle(path):
            self.replay_buffer = self._unpickle_replay_buffer(path, trusted)
            return
        label, meta, arrays = read_replay(path)
        if "skills" in arrays:
            check_skills(label, self.skill_prior, arrays["skills"])
        buffer = self._make_replay_buffer() if own is None else own
        try:
            buffer.load_arrays(meta, arrays)
        except (ValueError, MemoryError) as error:
            raise ValueError(f"{label} does not fit this model: {error}") from error
        self.replay_buffer = buffer

    def _unpickle_replay_buffer(self, path: File, trusted: bool) -> SkillReplayBuffer:
        label = str(getattr(path, "name", path))
        if not trusted:
            raise ValueError(
                f"{label} must be trusted before it is loaded, because it is a pickle, which can run code; if you "
                "trust whoever made it, load it with trusted=True, and save it again"
            )
        own = self.replay_buffer
        try:
            super().load_replay_buffer(path)  # type: ignore[arg-type]
        except (EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{label} is damaged: {error}") from error
        finally:
            loaded, self.replay_buffer = self.replay_buffer, own
        if not isinstance(loaded, SkillReplayBuffer):
            raise ValueError(f"{label} must hold skills of dimension {self.skill_prior.dim}, got {loaded}")
        expected = self._make_replay_buffer() if own is None else own
        for name in ("observation_space", "action_space", "n_envs"):
            if getattr(loaded, name) != getattr(expected, name):
                raise ValueError(f"{label} must have {name} {getattr(expected, name)}, got {getattr(loaded, name)}")
        check_skills(label, self.skill_prior, loaded.skills[: loaded.size()])
        return loaded

    def _make_replay_buffer(self) -> SkillReplayBuffer:
        assert self.replay_buffer_class is not None
        kwargs = {"device": self.device, "n_envs": self.n_envs, **self.replay_buffer_kwargs}
        return self.replay_buffer_class(  # type: ignore[return-value]
            self.buffer_size, self.observation_space, self.action_space, **kwargs
        )

    def set_parameters(
        self, load_path_or_dict: File | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        As SB3's, but all or nothing, and nothing that a file holds is run.

        :param load_path_or_dict: a model file, or what :meth:`get_parameters` gives
        :param exact_match: whether every parameter must be given
        :param device: unused, kept for SB3's interface: parameters go where the networks are
        :raises ValueError: if they are not finite, or not those of this model; it keeps its own then
        """
        if isinstance(load_path_or_dict, dict):
            label, parameters = "load_path_or_dict", load_path_or_dict
        else:
            label, parameters = read_parameters(load_path_or_dict)
        self._put_parameters(label, parameters, exact_match)

    def _put_parameters(self, label: str, parameters: dict[str, Any], exact_match: bool = True) -> None:
        check_parameters(label, parameters)
        own = copy.deepcopy(self.get_parameters())
        try:
            super().set_parameters(parameters, exact_match)
            self._own_optimizer_states()
        except Exception as error:
            super().set_parameters(own)  # type: ignore[arg-type]
            self._own_optimizer_states()
            kind = type(error) if type(error) in (RuntimeError, ValueError) else ValueError
            reason = " ".join(str(error).split())
            raise kind(f"{label} must hold parameters of this {type(self).__name__}: {reason}") from error
        # what was recorded of the gradient step reads optimisers that are no more
        self._captured_step = CapturedStep(self._averaged_step)

    def _own_optimizer_states(self) -> None:
        for name in self._get_torch_save_params()[0]:
            if isinstance(optimizer := recursive_getattr(self, name), th.optim.Optimizer):
                own_state(name, optimizer)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "critic", "critic_target", "_captured_step"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "objective", "entropy_dual", "actor.optimizer", "critic.optimizer", "objective_optimizer"], []
