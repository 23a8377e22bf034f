"""The one loop of skill discovery: when to act, store, learn and save. What is learnt is the objective's."""

from __future__ import annotations

import copy
import io
import os
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info, should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.archive import File
from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.checkpoint import find_checkpoint, restore_checkpoint, take_up, write_checkpoint
from sb3_metra.common.loading import (
    ATTRIBUTES,
    check_changes,
    check_names,
    check_parameters,
    check_saved,
    fit_to_env,
    own_state,
    restart_multipliers,
)
from sb3_metra.common.networks import check_finite
from sb3_metra.common.normalization import ObservationNormalization, normalize_env
from sb3_metra.common.sac import SkillSAC
from sb3_metra.common.saving import read_model, read_parameters, write_model
from sb3_metra.common.training_env import ResetWatch, copy_observation, own_observations

Self = TypeVar("Self", bound="SkillDiscovery")

_LONG_EPISODE = 1_000  # steps without an end after which a warning asks for a step limit


class SkillDiscovery(SkillSAC):
    """
    Soft actor-critic over S x Z whose reward comes from a :class:`~sb3_metra.common.objective.SkillObjective`.

    One skill for each environment and episode, redrawn exactly where an episode ends. The environment's own reward is
    logged and stored, but never learnt from. The defaults are those of the METRA paper (arXiv 2310.08887, appendix on
    hyperparameters) for state observations, with 8 environments in mind: ``train_freq=200`` steps of 8 environments,
    then 50 gradient steps.

    Parameters: see :class:`~sb3_metra.common.sac.SkillSAC`.
    """

    _last_skills: np.ndarray | None = None
    _round: tuple[int, int] = (0, 0)  # steps and episodes of the round under way
    _episode_steps: np.ndarray | None = None  # of the running episodes
    _warned_of_endless = False
    _resets: ResetWatch | None = None
    _callback: BaseCallback | None = None  # of the running or the last call of ``learn``
    _resumed: dict[str, Any] | None = None  # what the next call of ``learn`` takes up
    _initial_callbacks: dict[int, dict[str, Any]] = {}  # noqa: RUF012  # replaced, never changed
    _normalization: ObservationNormalization | None = None  # what the model was saved with

    # Collection

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return SkillSAC._wrap_env(own_observations(env), verbose, monitor_wrapper)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._watch_resets()
        if reset_num_timesteps:
            self._round = (0, 0)
            self._last_obs = None
        begin = self._last_obs is None or self._last_skills is None
        if begin:
            self._last_obs = None  # an episode and its skill begin together
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if begin:
            self._begin_episodes(self._last_obs)
        self._callback = result[1]
        take_up(self, self._callback)
        return result

    def _watch_resets(self) -> None:
        if self._resets is None or self._resets.venv is not self.env:
            if self._resets is not None:
                self._resets.close()
            assert self.env is not None, "env must be given before learning"
            self._resets = ResetWatch(self.env)

    def _begin_episodes(self, observations: Any) -> None:
        """Every environment was just reset: new skills, and nothing that spans the reset."""
        assert self._resets is not None
        assert self.replay_buffer is not None
        self.replay_buffer.end_episodes()
        self._last_obs = copy_observation(observations)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        self._last_skills = self.skill_prior.sample(self.n_envs, self.skill_rng)
        self._episode_steps = np.zeros(self.n_envs, dtype=np.int64)
        self._resets.take()

    def begin_new_episodes(self) -> None:
        """
        End the running episodes: the environments are reset before the next step, from a seed that depends on the
        model's seed and step.
        """
        assert self.env is not None
        self.env.seed(int(np.random.SeedSequence([self.seed or 0, self.num_timesteps]).generate_state(1)[0] >> 1))
        self._last_obs = None

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        As SB3's, but a transition is stored before the callback is asked, so that a run that a callback stops loses
        nothing: the next call of ``learn`` goes on in the same episode and in the same round.

        :param env: the training environments
        :param callback: called at each step
        :param train_freq: steps or episodes in a round
        :param replay_buffer: where transitions go
        :param action_noise: noise added to actions
        :param learning_starts: transitions before the first gradient step
        :param log_interval: episodes between two lines of the log
        :return: steps and episodes of the round, and whether to go on
        """
        self.policy.set_training_mode(False)
        if env.num_envs > 1 and train_freq.unit.value == "episode":
            raise ValueError(f"train_freq must count steps with {env.num_envs} environments, got {train_freq}")
        callback.on_rollout_start()
        while should_collect_more_steps(train_freq, *self._round):
            if self._last_obs is None or (self._resets is not None and self._resets.take()):
                self._begin_episodes(env.reset())
            num_collected_steps, num_collected_episodes = self._round
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            new_obs, rewards, dones, infos = self._step_envs(env, actions, buffer_actions, replay_buffer)
            num_collected_steps, num_collected_episodes = self._round = (
                num_collected_steps + 1,
                num_collected_episodes + int(dones.sum()),
            )
            callback.update_locals(locals())
            continue_training = callback.on_step()
            self._count_episodes(dones, action_noise, log_interval)
            if not continue_training:
                return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, False)
        callback.on_rollout_end()
        (steps, episodes), self._round = self._round, (0, 0)
        return RolloutReturn(steps * env.num_envs, episodes, True)

    def _step_envs(self, env: VecEnv, actions: np.ndarray, buffer_actions: np.ndarray, replay_buffer: Any) -> Any:
        """Act and store. If anything fails in between, the environments are ahead of what is known: begin anew then."""
        before, self._last_obs = self._last_obs, None
        new_obs, rewards, dones, infos = env.step(actions)
        self._last_obs, new_obs = before, copy_observation(new_obs)
        try:
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
        except BaseException:
            self._last_obs = None
            raise
        self.num_timesteps += env.num_envs
        self._update_info_buffer(infos, dones)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._on_step()
        if self._resets is not None:
            self._resets.take()  # an episode's end resets its environment
        return new_obs, rewards, dones, infos

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        check_finite(self._last_obs, "from the environment")
        if self.random_warmup and self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        assert self._last_skills is not None
        observations, _ = self.policy.obs_to_tensor(self._last_obs)
        scaled = self.policy.act(observations, self._last_skills)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1.0, 1.0)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        assert self._last_skills is not None
        own_infos = [info | {"skill": skill} for info, skill in zip(infos, self._last_skills, strict=True)]
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, own_infos)
        if dones.any():
            self._last_skills = self._last_skills.copy()
            self._last_skills[dones] = self.skill_prior.sample(int(dones.sum()), self.skill_rng)

    def _count_episodes(self, dones: np.ndarray, action_noise: ActionNoise | None, log_interval: int | None) -> None:
        for index in np.flatnonzero(dones):
            self._episode_num += 1
            if action_noise is not None:
                action_noise.reset(**({"indices": [index]} if len(dones) > 1 else {}))
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        assert self._episode_steps is not None
        self._episode_steps += 1
        self._episode_steps[dones] = 0
        if not self._warned_of_endless and self._episode_steps.max() >= _LONG_EPISODE:
            self._warned_of_endless = True
            warnings.warn(
                f"an episode has lasted {_LONG_EPISODE} steps without an end, and it follows one skill all the while: "
                "if it never ends, wrap the environment in gymnasium.wrappers.TimeLimit",
                stacklevel=2,
            )

    # Learning

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Discover skills.

        :param total_timesteps: environment steps, over all environments
        :param callback: SB3 callbacks
        :param log_interval: episodes between two lines of the log
        :param tb_log_name: name of the run for TensorBoard; ``None``: that of the algorithm
        :param reset_num_timesteps: start counting steps, and new episodes, afresh
        :param progress_bar: show a progress bar
        :return: this model
        """
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    # Saving

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
        :param force_reset: begin new episodes
        """
        self._normalization = self.normalization
        super().set_env(normalize_env(self._wrap_env(env, self.verbose), self._normalization), force_reset)

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the model as SB3 does, and beside SB3's entries as JSON and safetensors, which :meth:`load` reads.

        A file that is there already stays what it was until the new one is whole and on the disk.

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

        The model goes on with its own generators, and PyTorch's and NumPy's stay where they are. A model that learnt
        on normalised observations brings their statistics: an environment that is not normalised is wrapped with them,
        a ``VecNormalize`` that has seen nothing yet gets them, and one with statistics of its own keeps those.

        :param path: the file, with or without ``.zip``, or an open one
        :param env: the environment to go on in; ``None``: only to act and to encode
        :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
        :param custom_objects: values that replace attributes of the file, by name; and classes and functions of one's
            own that it names
        :param print_system_info: print the versions of now, and of when the file was saved
        :param force_reset: begin new episodes
        :param trusted: unpickle what the file does not hold as JSON, which can run any code that it brings
        :param kwargs: arguments of the constructor to change; a multiplier whose argument changes begins anew
        :return: the model
        :raises ValueError: if the file is not whole, not a model of this method, or needs trust; or if an argument
            cannot change
        :raises TypeError: if there is no such argument
        """
        check_names(cls, kwargs)
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            get_system_info()
        saved = read_model(path, custom_objects, trusted, kwargs, print_system_info)
        check_saved(cls, saved)
        changes = check_changes(cls, saved, kwargs)
        data = saved.data
        if env is not None:
            env = normalize_env(cls._wrap_env(env, data.get("verbose", 0)), data.get("_normalization"))
            check_for_correct_spaces(env, data["observation_space"], data["action_space"])
            fit_to_env(data, env, force_reset)
        model = cls(data["policy_class"], env, device=device, _init_setup_model=False)  # type: ignore[call-arg]
        vars(model).update(data)
        model._rebuild(changes)
        check_parameters(saved.label, saved.parameters)
        model.set_parameters(restart_multipliers(model, saved.parameters, changes))
        for name, value in saved.variables.items():
            recursive_setattr(model, f"{name}.data", value.data.to(model.device))
        if "seed" in changes:
            model.set_random_seed(model.seed)
        elif env is not None and force_reset and model.seed is not None:
            env.seed(int(copy.deepcopy(model.skill_rng).integers(2**31)))  # the same file, the same episodes
        return model

    def _rebuild(self, changes: dict[str, Any]) -> None:
        """Build networks and replay from the file's attributes and from changed arguments; the generators go on."""
        self.algorithm = type(self).__name__
        for name, value in changes.items():
            setattr(self, ATTRIBUTES.get(name, name), value)
        seed, self.seed = self.seed, None
        generators: list[Any] = [vars(self).get("skill_rng"), self.skill_prior.rng, vars(self).get("_replay_rng")]
        with th.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self._setup_model()
        self.seed = seed
        if None not in generators:
            self.skill_rng, self.skill_prior.rng, self._replay_rng = generators
            assert self.replay_buffer is not None
            self.replay_buffer.rng = self._replay_rng

    def save_checkpoint(self, folder: str | os.PathLike[str], keep: int = 2) -> pathlib.Path:
        """
        Write everything that the rest of the run depends on, see :func:`~sb3_metra.common.checkpoint.write_checkpoint`.

        :param folder: the folder of the run's checkpoints
        :param keep: number of newest checkpoints to keep
        :return: the checkpoint, a folder of its own
        """
        return write_checkpoint(self, folder, keep)

    @classmethod
    def resume(cls: type[Self], path: str | os.PathLike[str], env: GymEnv, **kwargs: Any) -> Self:
        """
        Go on from a checkpoint: on a CPU, to the bit as if the run had never stopped.

        Then call ``learn(total - model.num_timesteps, callback, reset_num_timesteps=False)`` with callbacks made as
        before; theirs go on, too.

        :param path: a checkpoint, the folder of a run's checkpoints, or the run's folder; the newest whole one is taken
        :param env: environments made as before
        :param kwargs: further arguments of :meth:`load`
        :return: the model
        :raises ValueError: if there is no whole checkpoint, or the environments are others
        """
        folder = find_checkpoint(path)
        model = cls.load(folder / "model.zip", env, **kwargs)
        restore_checkpoint(model, folder)
        return model

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer that ``save_replay_buffer`` wrote.

        :param path: its file
        :param truncate_last_traj: unused, kept for SB3's interface
        :raises ValueError: where it holds other transitions than this model's; the model keeps its own then
        """
        own = self.replay_buffer
        assert own is not None
        try:
            super().load_replay_buffer(path, truncate_last_traj)
        finally:
            loaded, self.replay_buffer = self.replay_buffer, own
        for name in ("observation_space", "action_space", "n_envs"):
            expected, got = getattr(own, name), getattr(loaded, name, None)
            if got != expected:
                raise ValueError(f"replay buffer must have {name} {expected}, got {got}")
        if not isinstance(loaded, SkillReplayBuffer) or loaded.skills.shape[-1] != self.skill_prior.dim:
            raise ValueError(f"replay buffer must hold skills of dimension {self.skill_prior.dim}, got {loaded}")
        self.replay_buffer = loaded

    def _excluded_save_params(self) -> list[str]:
        own = ["actor", "critic", "critic_target", "_captured_step", "_resets"]
        own += ["_callback", "_resumed", "_initial_callbacks"]
        return [*super()._excluded_save_params(), *own]

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

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "objective", "entropy_dual", "actor.optimizer", "critic.optimizer", "objective_optimizer"], []
