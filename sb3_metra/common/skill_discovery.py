"""The one loop of skill discovery: when to act, store and learn. What is learnt is the objective's."""

from __future__ import annotations

import inspect
import os
import pathlib
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.arguments import check_table, full_signature
from sb3_metra.common.checkpoint import find_checkpoint, restore_checkpoint, take_up, write_checkpoint
from sb3_metra.common.checks import MAX_MAGNITUDE, MAX_OBSERVATION
from sb3_metra.common.collecting import CollectingSAC
from sb3_metra.common.constructor import LEARN, check_folder, check_train_freq
from sb3_metra.common.loading import check_names
from sb3_metra.common.spaces import check_finite, check_step
from sb3_metra.common.training_env import (
    EpisodeWatch,
    check_answer,
    check_same_spaces,
    copy_observation,
    own_observations,
    warn_of_lost_statistics,
)
from sb3_metra.common.workers import guard_workers

Self = TypeVar("Self", bound="SkillDiscovery")

_LONG_EPISODE = 1_000  # steps without an end after which a warning asks for a step limit


class SkillDiscovery(CollectingSAC):
    """
    Soft actor-critic over S x Z whose reward comes from a :class:`~sb3_metra.common.objective.SkillObjective`.

    One skill for each environment and episode, redrawn exactly where an episode ends. The environment's own reward is
    logged and stored, but never learnt from. The defaults are those of the METRA paper (arXiv 2310.08887, appendix on
    hyperparameters) for state observations, with 8 environments in mind: ``train_freq=200`` steps of 8 environments,
    then 50 gradient steps.

    Parameters: see :class:`~sb3_metra.common.sac.SkillSAC`.
    """

    _round: tuple[int, int] = (0, 0)  # steps and episodes of the round under way
    _episode_steps: np.ndarray | None = None  # of the running episodes
    _warned_of_endless = False
    _watch: EpisodeWatch | None = None
    _callback: BaseCallback | None = None  # of the running or the last call of ``learn``
    _resumed: dict[str, Any] | None = None  # what the next call of ``learn`` takes up
    __signature__: ClassVar[inspect.Signature]
    _initial_callbacks: dict[int, dict[str, Any]] = {}  # noqa: RUF012  # replaced, never changed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = full_signature(cls)  # for help, notebooks and documentation

    def __new__(cls: type[Self], *args: Any, **kwargs: Any) -> Self:
        """
        :param args: of the constructor
        :param kwargs: of the constructor
        :raises TypeError: for a name that the constructor does not know
        """
        constructor = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if constructor.__module__.startswith("sb3_metra."):  # others may take what they like
            check_names(cls.__name__, list(cls.__signature__.parameters), kwargs)
        return super().__new__(cls)

    def infer_skill(self, **prompt: Any) -> np.ndarray:
        """
        The skill that answers a prompt: an ability of methods with phi.

        :param prompt: a goal, a reward or a trajectory
        :raises ValueError: because this method learns no phi
        """
        raise ValueError(f"model must learn phi to infer skills, got one of {type(self).__name__}, which learns none")

    def export(
        self, folder: str | pathlib.Path, *, skills: Mapping[str, Any] | None = None, license: str | None = None
    ) -> str:
        """
        Write the skills to a folder from which they run anywhere: ONNX, weights, a contract, and a player that needs
        NumPy and onnxruntime alone.

        :param folder: where to write; made if it is missing
        :param skills: skills by name, for the contract; ``None``: both ways along each axis, or each discrete skill
        :param license: licence of the weights, such as ``"MIT"``; ``None``: the contract names none
        :return: SHA-256 of the contract ``skills.json``, which holds those of the other files
        :raises ValueError: if ONNX cannot express a network
        """
        from sb3_metra.export import export_skills

        return export_skills(self, folder, skills=skills, license=license)

    # Collection

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        vec_env = CollectingSAC._wrap_env(own_observations(env), verbose, monitor_wrapper)
        guard_workers(vec_env, check=check_answer)
        check_same_spaces(vec_env)
        warn_of_lost_statistics(vec_env)
        return vec_env

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._watch_env()
        self._open_collectors()
        if reset_num_timesteps:
            self._round = (0, 0)
            self._last_obs = None
        begin = self._last_obs is None or self._last_skills is None
        if begin:
            self._last_obs = None  # an episode and its skill begin together
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if begin:
            self._begin_episodes(self._last_obs)
        assert self.replay_buffer is not None
        self.replay_buffer.max_observation = MAX_OBSERVATION if self._vec_normalize_env is None else MAX_MAGNITUDE
        self._callback = result[1]
        take_up(self, self._callback)
        return result

    def _watch_env(self) -> None:
        if self._watch is None or self._watch.venv is not self.env:
            if self._watch is not None:
                self._watch.close()
            if self.env is None:
                raise ValueError("env must be given before learning, got None: pass it to load, or call set_env")
            self._watch = EpisodeWatch(self.env)

    def _begin_episodes(self, observations: Any) -> None:
        """Every environment was just reset: new skills, and nothing that spans the reset."""
        assert self._watch is not None
        assert self.replay_buffer is not None
        self.replay_buffer.end_episodes()
        self._last_obs = copy_observation(observations)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        self._last_skills = self._draw_skills(self.n_envs)
        self._episode_steps = np.zeros(self.n_envs, dtype=np.int64)
        self._watch.take()

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
        nothing: the next call of ``learn`` continues the same episode and the same round.

        :param env: the training environments; collectors stand in for them
        :param callback: called at each step
        :param train_freq: steps or episodes in a round
        :param replay_buffer: where transitions go
        :param action_noise: noise added to actions
        :param learning_starts: transitions before the first gradient step
        :param log_interval: episodes between two lines of the log
        :return: steps and episodes of the round, and whether to continue
        """
        self.policy.set_training_mode(False)
        check_train_freq(train_freq, env.num_envs)
        env = self.stepped
        callback.on_rollout_start()
        with self._learner or nullcontext():
            while should_collect_more_steps(train_freq, *self._round):
                if self._last_obs is None or (self._watch is not None and self._watch.take()):
                    self._begin_episodes(env.reset())
                self._begin_step(begins=self._round == (0, 0))
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
                    if continue_training is None:
                        warnings.warn(
                            f"learning stops after {self.num_timesteps} steps, because a callback returned None: let "
                            "it return True to continue, or False to stop",
                            stacklevel=3,
                        )
                    return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, False)
        callback.on_rollout_end()
        (steps, episodes), self._round = self._round, (0, 0)
        return RolloutReturn(steps * env.num_envs, episodes, True)

    def _step_envs(self, env: VecEnv, actions: np.ndarray, buffer_actions: np.ndarray, replay_buffer: Any) -> Any:
        """Act and store. If anything fails in between, the environments are ahead: then begin new episodes."""
        before, self._last_obs = self._last_obs, None
        if len(returned := env.step(actions)) != 4:
            raise ValueError(
                f"step of a VecEnv must return (observations, rewards, dones, infos), got {len(returned)} values"
            )
        new_obs, rewards, dones, infos = returned
        self._last_obs, new_obs = before, copy_observation(new_obs)
        try:
            dones = check_step(new_obs, rewards, dones, infos, env)
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
        except BaseException:
            self._last_obs = None
            raise
        self.num_timesteps += env.num_envs
        self._update_info_buffer(infos, dones)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._on_step()
        if self._watch is not None:
            self._watch.take()  # what this step did
        return new_obs, rewards, dones, infos

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """As SB3's, but what an environment itself calls ``"episode"`` is not taken for ``Monitor``'s."""
        theirs = [isinstance(info.get("episode", {}), dict) for info in infos]
        if not all(theirs):
            infos = [x if its else x | {"episode": None} for x, its in zip(infos, theirs, strict=True)]
        super()._update_info_buffer(infos, dones)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        check_finite(self._last_obs, "from the environment")
        if self.random_warmup and self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        assert self._last_skills is not None
        policy, scaled = self._act(self._last_obs, self._last_skills)
        if action_noise is not None:
            scaled = np.clip(scaled + self._draw_noise(action_noise), -1.0, 1.0)
        return policy.unscale_action(scaled), scaled

    def _draw_noise(self, action_noise: ActionNoise) -> np.ndarray:
        """SB3's noise comes from NumPy's global state, in whose place stands the model's generator meanwhile."""
        theirs = np.random.mtrand.get_bit_generator()
        np.random.mtrand.set_bit_generator(self.acting_rng.bit_generator)
        try:
            return action_noise()
        finally:
            np.random.mtrand.set_bit_generator(theirs)

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
        if any(dones.tolist()):
            self._last_skills = self._last_skills.copy()
            self._last_skills[dones] = self._draw_skills(int(dones.sum()))

    def _count_episodes(self, dones: np.ndarray, action_noise: ActionNoise | None, log_interval: int | None) -> None:
        assert self._episode_steps is not None
        self._episode_steps += 1
        for index in (index for index, done in enumerate(dones.tolist()) if done):
            self._episode_steps[index] = 0
            self._episode_num += 1
            if action_noise is not None:
                action_noise.reset(**({"indices": [index]} if len(dones) > 1 else {}))
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        seldom = self.num_timesteps // len(dones) % 100 == 0
        if seldom and not self._warned_of_endless and self._episode_steps.max() >= _LONG_EPISODE:
            self._warned_of_endless = True
            warnings.warn(
                f"an episode has lasted {_LONG_EPISODE} steps without an end, following one skill throughout: "
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
        :param reset_num_timesteps: start counting steps, and new episodes, afresh; a run that :meth:`.resume` took up
            goes on in any case
        :param progress_bar: show a progress bar
        :return: this model
        :raises ValueError: for an argument that does not fit, or an environment that returns what does not
        """
        own: dict[str, Any] = {
            "total_timesteps": total_timesteps,
            "callback": callback,
            "log_interval": log_interval,
            "tb_log_name": tb_log_name,
            "reset_num_timesteps": reset_num_timesteps,
            "progress_bar": progress_bar,
        }
        own = check_table(LEARN, own)
        own["reset_num_timesteps"] = own["reset_num_timesteps"] and self._resumed is None
        if own["tb_log_name"] is None:
            own["tb_log_name"] = type(self).__name__
        if self.tensorboard_log is not None:
            check_folder("tensorboard_log", self.tensorboard_log)
        return super().learn(**own)

    # Saving

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

        Then call ``learn(total - model.num_timesteps, callback)`` with callbacks made as before; they continue, too.

        :param path: a checkpoint, or the folder of a run or of its checkpoints, to take the newest complete one of
        :param env: environments made as before
        :param kwargs: further arguments of ``load``
        :return: the model
        :raises ValueError: if there is no complete checkpoint, or the environments differ
        """
        folder = find_checkpoint(path)
        if env is None:
            raise ValueError("env must be given to resume, made as that of the checkpoint was, got None")
        model = cls.load(folder / "model.zip", env, **kwargs)
        restore_checkpoint(model, folder)
        return model

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: neither the callbacks of ``learn`` nor the watch over these environments."""
        return vars(self) | {"_callback": None, "_watch": None}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_watch", "_callback", "_resumed", "_initial_callbacks"]
