"""The one loop of skill discovery: when to act, store, learn and save. What is learnt is the objective's."""

from __future__ import annotations

import io
import pathlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.arguments import check_arguments, parse_target_entropy
from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.dual import DualVariable
from sb3_metra.common.frame_buffer import choose_buffer
from sb3_metra.common.networks import Representation, check_finite
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.optimization import descend, fast_kernels, is_fused, move_average, set_learning_rate
from sb3_metra.common.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SkillActor, SkillCritic, SkillPolicy
from sb3_metra.common.skills import SkillPrior, make_prior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples
from sb3_metra.common.workers import guard_workers

Self = TypeVar("Self", bound="SkillDiscovery")


class SkillDiscovery(OffPolicyAlgorithm, ABC):
    """
    Soft actor-critic over S x Z whose reward comes from a :class:`~sb3_metra.common.objective.SkillObjective`.

    One skill for each environment and episode, redrawn exactly where an episode ends. The environment's own reward is
    logged and stored, but never learnt from. The defaults are those of the METRA paper (arXiv 2310.08887, appendix on
    hyperparameters) for state observations, with 8 environments in mind: ``train_freq=200`` steps of 8 environments,
    then 50 gradient steps.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment with a Box action space, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param unit_skills: continuous skills on the unit sphere instead of Gaussian ones
    :param learning_rate: of every network and multiplier; a number, or a function of the remaining progress, 1 to 0
    :param buffer_size: transitions that are kept
    :param learning_starts: transitions to collect before the first gradient step
    :param batch_size: transitions in a gradient step of actor and critics
    :param objective_batch_size: transitions in a gradient step of the objective, at least ``batch_size``, which are
        its first ones; ``None``: as many as ``batch_size``
    :param tau: weight of the critics in the moving average of the target critics
    :param gamma: discount factor
    :param train_freq: steps of all environments between two rounds of gradient steps
    :param gradient_steps: gradient steps in a round; -1 for as many as environment steps in the round
    :param action_noise: noise added to actions while collecting
    :param replay_buffer_class: a subclass of :class:`~sb3_metra.common.buffers.SkillReplayBuffer`; ``None``: one that
        keeps each frame once where observations hold images
    :param replay_buffer_kwargs: its keyword arguments; ``dict(handle_timeout_termination=False)`` treats time limits as
        terminal, as the METRA authors' code does
    :param ent_coef: entropy coefficient: a number, ``"auto"`` to learn it from 1, ``"auto_0.01"`` to learn it from 0.01
    :param target_entropy: entropy that a learnt coefficient aims at, in nats; ``"auto"``: ``-|A|/2`` (SB3: ``-|A|``)
    :param random_warmup: act uniformly at random until ``learning_starts``, as SB3's SAC does
    :param bfloat16: run the networks under bfloat16 autocast: faster, not equivalent
    :param tf32: on CUDA, let products of matrices round to TF32, as PyTorch lets convolutions: faster, not equivalent
    :param cuda_graph: on CUDA, record the gradient step once as a graph and replay it: faster and the same, but for
        networks of one's own that wait for the GPU
    :param stats_window_size: episodes that SB3's rollout statistics average over
    :param tensorboard_log: folder for TensorBoard; ``None``: none
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 for no output, 1 for information, 2 for debugging
    :param seed: seed of every random generator
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
    :param _init_setup_model: build the networks now
    :raises ValueError: for arguments that cannot work, each named
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SkillPolicy
    actor: SkillActor
    critic: SkillCritic
    critic_target: SkillCritic
    objective: SkillObjective
    replay_buffer: SkillReplayBuffer | None

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        unit_skills: bool = True,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 10_000,
        batch_size: int = 256,
        objective_batch_size: int | None = None,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 200,
        gradient_steps: int = 50,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[SkillReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        ent_coef: str | float = "auto_0.01",
        target_entropy: str | float = "auto",
        random_warmup: bool = False,
        bfloat16: bool = False,
        tf32: bool = False,
        cuda_graph: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        prior = make_prior(skill_dim, discrete, unit_skills)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs={**(replay_buffer_kwargs or {}), "skill_dim": prior.dim},
            policy_kwargs={**(policy_kwargs or {}), "skill_prior": prior},
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        if not issubclass(self.policy_class, SkillPolicy):
            raise ValueError(
                f"policy must be a SkillPolicy, got {self.policy_class.__name__}: not a policy, or not a saved model, "
                f"of {type(self).__name__}"
            )
        self.objective_batch_size = objective_batch_size
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.random_warmup = random_warmup
        self.bfloat16 = bfloat16
        self.tf32 = tf32
        self.cuda_graph = cuda_graph
        self._last_skills: np.ndarray | None = None
        if _init_setup_model:
            self._setup_model()

    @property
    def skill_prior(self) -> SkillPrior:
        """p(z)."""
        return self.policy_kwargs["skill_prior"]

    @abstractmethod
    def make_objective(self) -> SkillObjective:
        """The objective for this algorithm's arguments, spaces and prior."""

    def make_representation(self, **kwargs: Any) -> Representation:
        """
        A map phi: S -> R^skill_dim, with the policy's kind of extractor for the observation.

        :param kwargs: arguments of :class:`~sb3_metra.common.networks.Representation` to set or to replace
        """
        extractor = {
            name: getattr(self.policy, name)
            for name in ("features_extractor_class", "features_extractor_kwargs", "normalize_images")
        }
        return Representation(self.observation_space, self.action_space, self.skill_prior.dim, **(extractor | kwargs))

    def _setup_model(self) -> None:
        check_arguments(self)
        self.replay_buffer_class, self.replay_buffer_kwargs = choose_buffer(
            self.replay_buffer_class, self.replay_buffer_kwargs, self.observation_space, self.env
        )
        super()._setup_model()
        if self.verbose >= 1:
            print(f"Using a {self.replay_buffer}")
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target
        self.objective = self.make_objective().to(self.device)
        self.objective_optimizer = self.policy.make_optimizer(self.objective, self.lr_schedule(1))
        self.entropy_dual = DualVariable.parse(self.ent_coef, name="ent_coef").to(self.device)
        # one optimiser for actor and entropy coefficient: their losses share no parameter, so one step is two
        self.actor.optimizer.add_param_group({"params": list(self.entropy_dual.parameters())})
        self._target_entropy = parse_target_entropy(self.target_entropy, get_action_dim(self.action_space))
        self._captured_step = CapturedStep(self._averaged_step)

    # Collection

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        guard_workers(vec_env := OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper))
        return vec_env

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None or self._last_skills is None:
            self._last_skills = self.skill_prior.sample(self.n_envs)
            self._last_obs = None  # an episode and its skill begin together
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's, but where a callback or an error stops it between a step and its storing, new episodes follow."""
        rollout = None
        try:
            rollout = super().collect_rollouts(*args, **kwargs)
        finally:
            if rollout is None or not rollout.continue_training:
                self._last_obs = None
        return rollout

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
        for info, skill in zip(infos, self._last_skills, strict=True):
            info["skill"] = skill
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if dones.any():
            self._last_skills = self._last_skills.copy()
            self._last_skills[dones] = self.skill_prior.sample(int(dones.sum()))

    # Learning

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Take gradient steps and log the averages of what they report.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions in a gradient step of actor and critics
        :raises ValueError: where a loss is not finite; in that gradient step nothing moves from that loss on
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.objective_optimizer, self.actor.optimizer, self.critic.optimizer])
        size = max(batch_size, self.objective_batch_size or 0)
        step = self._captured_step if self._captures else self._averaged_step
        means: list[th.Tensor] = []
        with fast_kernels(self.device, self.tf32):
            for _ in range(gradient_steps):
                batch = self.replay_buffer.sample(size, env=self._vec_normalize_env)
                means.append(step(batch, batch_size))  # type: ignore[arg-type]
        self._n_updates += gradient_steps
        if means:
            self._record(th.stack(means).mean(dim=0), gradient_steps)

    def gradient_step(self, batch: SkillReplayBufferSamples, batch_size: int | None = None) -> Info:
        """
        One step of everything that is learnt, in the authors' order: objective, critics, actor and entropy
        coefficient, target critics. The reward comes from the objective after its step.

        :param batch: transitions
        :param batch_size: how many of them, from the first, actor and critics learn from; ``None``: the algorithm's
        :return: detached tensors by name, scalars or one value a transition
        """
        observations, next_observations = map(self.policy.prepare, (batch.observations, batch.next_observations))
        batch = batch._replace(observations=observations, next_observations=next_observations)
        failed = th.zeros((), device=self.device)  # 1 from the first loss on that is not finite: then nothing moves
        info = self._descend(self.objective_optimizer, self.objective.loss, batch, failed)
        batch = batch.head(self.batch_size if batch_size is None else batch_size)
        with self._autocast():
            batch = batch._replace(rewards=self.objective.reward(batch))
        info |= self._descend(self.critic.optimizer, self.critic_loss, batch, failed)
        info |= self._descend(self.actor.optimizer, self.actor_loss, batch, failed)
        move_average(self.critic_target.parameters(), self.critic.parameters(), self.tau * (1.0 - failed))
        return info | {"intrinsic_reward": batch.rewards}

    def critic_loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        Half the mean squared error of each critic towards r + gamma (1 - d) (min_i Q_i(s', a', z) - alpha log pi).

        :param batch: transitions with intrinsic rewards
        :return: the sum over critics, and what to log
        """
        with th.no_grad():
            following = self.policy.condition(batch.next_observations, batch.skills)
            next_actions, next_log_prob = self.actor.action_log_prob(following)
            next_q = th.cat(self.critic_target(following, next_actions), dim=1).amin(dim=1, keepdim=True)
            next_value = next_q - self.entropy_dual.value * next_log_prob
            target = batch.rewards + (1.0 - batch.dones) * self.gamma * next_value
        q_values = self.critic(self.policy.condition(batch.observations, batch.skills), batch.actions)
        losses = th.stack([0.5 * F.mse_loss(q_value, target) for q_value in q_values])
        return losses.sum(), {"critic_loss": losses.detach(), "q_target": target}

    def actor_loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        alpha log pi(a|s, z) - min_i Q_i(s, a, z), plus the loss of alpha itself.

        :param batch: transitions
        :return: the sum of both losses, and what to log
        """
        current = self.policy.condition(batch.observations, batch.skills)
        actions, log_prob = self.actor.action_log_prob(current)
        q_value = th.cat(self.critic(current, actions), dim=1).amin(dim=1, keepdim=True)
        ent_coef = self.entropy_dual.value
        actor_loss = (ent_coef * log_prob - q_value).mean()
        ent_coef_loss = self.entropy_dual.loss(-log_prob - self._target_entropy)
        info = {
            "actor_loss": actor_loss.detach(),
            "ent_coef": ent_coef,
            "ent_coef_loss": ent_coef_loss.detach(),
            "entropy": -log_prob.detach(),
        }
        return actor_loss + ent_coef_loss, info

    def _autocast(self) -> th.autocast:
        return th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.bfloat16)

    def _descend(
        self, optimizer: th.optim.Optimizer, loss_fn: Any, batch: SkillReplayBufferSamples, failed: th.Tensor
    ) -> Info:
        with self._autocast():
            loss, info = loss_fn(batch)
        descend(optimizer, loss, failed)
        return info

    def _averaged_step(self, batch: SkillReplayBufferSamples, batch_size: int) -> th.Tensor:
        """A gradient step, and the average over its transitions of each number to log, (numbers,)."""
        info = self.gradient_step(batch, batch_size)
        self._logged_names = list(info)
        return th.stack([x.float().mean() for x in info.values()])

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            set_learning_rate(optimizer, learning_rate, self._captures)

    @property
    def _captures(self) -> bool:
        return self.cuda_graph and self.device.type == "cuda" and is_fused(self.objective_optimizer)

    def _record(self, means: th.Tensor, gradient_steps: int) -> None:
        """Log the averages over the last gradient steps, with one transfer from the device."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, mean in zip(self._logged_names, means.tolist(), strict=True):
            if not np.isfinite(mean):
                raise ValueError(
                    f"{name} must be finite, got {mean} in one of the last {gradient_steps} gradient steps; in that "
                    "step no weight moved from the first such number on"
                )
            self.logger.record(f"train/{name}", mean)

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
        return [*super()._excluded_save_params(), "actor", "critic", "critic_target", "_captured_step"]

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """As SB3's; what was recorded of the gradient step reads optimisers that are no more, so it is forgotten."""
        super().set_parameters(*args, **kwargs)
        self._captured_step = CapturedStep(self._averaged_step)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "objective", "entropy_dual", "actor.optimizer", "critic.optimizer", "objective_optimizer"], []
