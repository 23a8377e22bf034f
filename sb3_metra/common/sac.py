"""Soft actor-critic over S x Z on an intrinsic reward: networks, losses and the gradient step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.constructor import (
    SEED,
    check_arguments,
    check_first,
    check_rate,
    check_replay_kwargs,
    parse_target_entropy,
)
from sb3_metra.common.dual import DualVariable
from sb3_metra.common.extractors import choose_actor_extractor
from sb3_metra.common.frame_buffer import choose_buffer
from sb3_metra.common.networks import Representation
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.optimization import (
    FAILED,
    fast_kernels,
    is_fused,
    move_average,
    name_culprit,
    set_learning_rate,
    step,
)
from sb3_metra.common.policies import Actor, CnnPolicy, Critic, MlpPolicy, MultiInputPolicy, SkillPolicy
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.spaces import COUNTED, check_env
from sb3_metra.common.type_aliases import EpisodeObservations, Info, SkillReplayBufferSamples

_LARGE = 1e6  # an observation beyond this is worth a word once something is not finite


class SkillSAC(OffPolicyAlgorithm, ABC):
    """
    What is learnt: an objective, actor and critics over S x Z, an entropy coefficient. It knows nothing of episodes.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_prior: p(z)
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
    :param action_noise: noise added to continuous actions while collecting
    :param replay_buffer_class: a subclass of :class:`~sb3_metra.common.buffers.SkillReplayBuffer`; ``None``: one that
        keeps each frame once if observations hold images
    :param replay_buffer_kwargs: its keyword arguments; ``dict(handle_timeout_termination=False)`` treats time limits as
        terminal, as the METRA authors' code does
    :param ent_coef: entropy coefficient: a number, ``"auto"`` to learn it from 1, ``"auto_0.01"`` to learn it from 0.01
    :param target_entropy: entropy that a learnt coefficient aims at, in nats, or ``"auto_SHARE"``: that share of
        ``-|A|`` for continuous actions of ``|A|`` components, and of ``log |A|`` for ``|A|`` discrete ones;
        ``"auto"``: half of it (SB3: ``-|A|``)
    :param random_warmup: act uniformly at random until ``learning_starts``, as SB3's SAC does
    :param bfloat16: run the networks under bfloat16 autocast: faster, not equivalent
    :param tf32: on CUDA, let products of matrices round to TF32, as convolutions do by default: faster, not equivalent
    :param cudnn_deterministic: on CUDA, let a seed make cuDNN deterministic, as SB3 does, and slower
    :param cuda_graph: on CUDA, record the gradient step once as a graph and replay it: faster and the same, unless a
        network of your own waits for the GPU
    :param overlap: take a round's gradient steps in a thread, while the environments step through the next round; its
        actions follow weights that are one round old. As reproducible as without
    :param actor_observation: what the actor sees of a vector, of which phi and critics see all: names of components, or
        of those to hide, ``["-x", "-y"]``; a mask; or a function of tensors; ``None``: everything
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
    actor: Actor
    critic: Critic
    critic_target: Critic
    objective: SkillObjective
    replay_buffer: SkillReplayBuffer | None
    _interrupted = False  # whether ``train`` is to stop after the gradient step that it takes

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_prior: SkillPrior,
        *,
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
        cudnn_deterministic: bool = True,
        cuda_graph: bool = True,
        overlap: bool = False,
        actor_observation: Any = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        first = check_first(
            policy,
            self.policy_aliases,
            SkillPolicy,
            policy_kwargs=policy_kwargs,
            replay_buffer_kwargs=replay_buffer_kwargs,
            stats_window_size=stats_window_size,
            verbose=verbose,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        injected: dict[str, Any] = {"skill_prior": skill_prior}
        if (critic_dim := self.critic_dim(skill_prior)) != 1:
            injected["critic_dim"] = critic_dim
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
            replay_buffer_kwargs={**(first["replay_buffer_kwargs"] or {}), "skill_dim": skill_prior.dim},
            policy_kwargs={**(first["policy_kwargs"] or {}), **injected},
            stats_window_size=first["stats_window_size"],
            tensorboard_log=tensorboard_log,
            verbose=first["verbose"],
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box, *COUNTED),
        )
        self.algorithm = type(self).__name__  # the file says by this name which class it belongs to
        self.objective_batch_size = objective_batch_size
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.random_warmup = random_warmup
        self.bfloat16 = bfloat16
        self.tf32 = tf32
        self.cudnn_deterministic = cudnn_deterministic
        self.cuda_graph = cuda_graph
        self.overlap = overlap
        self.actor_observation = actor_observation
        if actor_observation is not None:
            self.policy_kwargs |= choose_actor_extractor(actor_observation, self.env, self.policy_kwargs)
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_env(env)
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    @property
    def skill_prior(self) -> SkillPrior:
        """p(z)."""
        return self.policy_kwargs["skill_prior"]

    @staticmethod
    def critic_dim(prior: SkillPrior) -> int:
        """
        Outputs of each critic: 1 for a value; successor features need as many as a skill has components.

        :param prior: p(z)
        """
        return 1

    @abstractmethod
    def make_objective(self) -> SkillObjective:
        """The objective for this algorithm's arguments, spaces and prior."""

    def make_representation(self, dim: int | None = None, **kwargs: Any) -> Representation:
        """
        A network from observations to R^dim, with the policy's kind of extractor for the observation.

        :param dim: components of its output; ``None``: as many as a skill has
        :param kwargs: arguments of :class:`~sb3_metra.common.networks.Representation` to set or to replace
        """
        names = ("features_extractor_class", "features_extractor_kwargs", "normalize_images")
        extractor = {name: getattr(self.policy, name) for name in names}
        dim = self.skill_prior.dim if dim is None else dim
        return Representation(self.observation_space, self.action_space, dim, **(extractor | kwargs))

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        As SB3's, and seed the generators that skills and replayed transitions are drawn with.

        :param seed: the seed; ``None`` leaves SB3's generators alone and draws new seeds for ours
        """
        seed = SEED("seed", seed)
        chosen = th.backends.cudnn.deterministic
        super().set_random_seed(seed)
        if not self.cudnn_deterministic:
            th.backends.cudnn.deterministic = chosen
        skills, own, replay, acting = (np.random.default_rng(x) for x in np.random.SeedSequence(seed).spawn(4))
        self.skill_rng, self.skill_prior.rng, self._replay_rng, self.acting_rng = skills, own, replay, acting
        if self.replay_buffer is not None:
            self.replay_buffer.rng = replay

    def _setup_model(self) -> None:
        if vars(self).get("observation_space") is None:
            raise ValueError("env must be an environment or its registered name, got None, which is only for loading")
        check_arguments(self)
        self.replay_buffer_class, self.replay_buffer_kwargs = choose_buffer(
            self.replay_buffer_class, self.replay_buffer_kwargs, self.observation_space, self.env
        )
        self.replay_buffer_kwargs = check_replay_kwargs(self.replay_buffer_class, self.replay_buffer_kwargs)
        try:
            super()._setup_model()
        except MemoryError as error:
            raise ValueError(f"buffer_size must fit into memory, got {self.buffer_size}: {error}") from None
        assert self.replay_buffer is not None
        self.replay_buffer.rng = self._replay_rng
        if self.verbose >= 1:
            print(f"Using a {self.replay_buffer}")
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target
        self.objective = self.make_objective().to(self.device).eval()
        self.objective_optimizer = self.policy.make_optimizer(self.objective, self.lr_schedule(1))
        self.entropy_dual = DualVariable.parse(self.ent_coef, name="ent_coef").to(self.device)
        # one optimiser for actor and entropy coefficient: their losses share no parameter, so one step is two
        self.actor.optimizer.add_param_group({"params": list(self.entropy_dual.parameters())})
        share = self.actor.default_share
        self._target_entropy = parse_target_entropy(self.target_entropy, self.actor.entropy_unit, share)
        self._captured_step = CapturedStep(self._averaged_step)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Take gradient steps and log the averages of what they report.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions in a gradient step of actor and critics
        :raises ValueError: if a loss or its gradient is not finite; the rest of that step changes nothing
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.objective_optimizer, self.actor.optimizer, self.critic.optimizer])
        size = max(batch_size, self.objective_batch_size or 0)
        gradient_step = self._captured_step if self._captures else self._averaged_step
        means: list[th.Tensor] = []
        with fast_kernels(self.device, self.tf32):
            for _ in range(gradient_steps):
                if self._interrupted:
                    break
                means.append(gradient_step(self.sample(size), batch_size))
        self._n_updates += len(means)
        if means:
            self._record(th.stack(means).mean(dim=0), gradient_steps)

    def sample(self, size: int) -> SkillReplayBufferSamples:
        """
        Transitions for a gradient step.

        :param size: how many
        """
        assert self.replay_buffer is not None
        return self.replay_buffer.sample(size, env=self._vec_normalize_env)

    def gradient_step(self, batch: SkillReplayBufferSamples, batch_size: int | None = None) -> Info:
        """
        One step of everything that is learnt, in the authors' order: objective, critics, actor and entropy
        coefficient, target critics. The reward comes from the objective after its step.

        :param batch: transitions
        :param batch_size: how many of them, from the first, actor and critics learn from; ``None``: the algorithm's
        :return: detached tensors by name, scalars or one value a transition
        """
        prepare = partial(self.policy.prepare, bfloat16=self.bfloat16)
        observations, next_observations = map(prepare, (batch.observations, batch.next_observations))
        episode = None if batch.episode is None else EpisodeObservations(*map(prepare, batch.episode))
        batch = batch._replace(observations=observations, next_observations=next_observations, episode=episode)
        failed = th.zeros((), device=self.device)  # 1 from the first loss on that is not finite: then nothing moves
        statistics = self._running_statistics()
        self.objective.train()
        info = self._step("objective", self.objective_optimizer, self.objective.loss, batch, failed)
        self.objective.eval()
        batch = self.objective.relabel(batch.head(self.batch_size if batch_size is None else batch_size))
        with self._autocast():
            batch = batch._replace(rewards=self.objective.reward(batch))
        info |= {"intrinsic_reward": self.q_values((batch.rewards,), batch.skills)}
        info |= self._step("critic", self.critic.optimizer, self.critic_loss, batch, failed)
        info |= self._step("actor", self.actor.optimizer, self.actor_loss, batch, failed)
        for statistic, before in statistics:
            statistic.copy_(th.where(failed > 0, before, statistic))
        move_average(self.critic_target.parameters(), self.critic.parameters(), self.tau * (1.0 - failed))
        for target, statistic in zip(self.critic_target.buffers(), self.critic.buffers(), strict=True):
            target.copy_(statistic)  # running statistics, as SB3 copies them
        return info

    def _running_statistics(self) -> list[tuple[th.Tensor, th.Tensor]]:
        """What networks change without an optimiser, such as batch norm's averages, each with a copy."""
        modules = (self.objective, self.actor, self.critic)
        return [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]

    def q_values(self, values: tuple[th.Tensor, ...], skills: th.Tensor) -> th.Tensor:
        """
        Q(s, a, z) of each critic.

        :param values: what the critics gave, each (batch, critic_dim), or (n_actions, batch, critic_dim)
        :param skills: (batch, skill_dim)
        :return: (batch, n_critics), or (n_actions, batch, n_critics)
        """
        return th.cat(values, dim=-1)

    def critic_loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        Half the mean squared error of each critic towards r + gamma (1 - d) (min_i Q_i(s', a', z) - alpha log pi).

        :param batch: transitions with intrinsic rewards
        :return: the sum over critics, and what to log
        """
        with th.no_grad():
            target = batch.rewards + (1.0 - batch.dones) * self.gamma * self.next_value(batch)
        q_values = self.critic(self.policy.condition(batch.observations, batch.skills), batch.actions)
        losses = th.stack([0.5 * F.mse_loss(q_value, target) for q_value in q_values])
        return losses.sum(), {"critic_loss": losses.detach(), "q_target": target}

    def next_value(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        E[min_i Q_i(s', a', z) - alpha log pi(a'|s', z)] of the target critics, over one sampled a', or over all.

        :param batch: transitions
        :return: (batch, critic_dim)
        """
        following = self.policy.condition(batch.next_observations, batch.skills)
        actions, log_prob = self.actor.action_log_prob(following)
        q_value = self.q_values(self.critic_target(following, actions), batch.skills).amin(dim=-1, keepdim=True)
        return self.actor.expectation(q_value - self.entropy_dual.value * log_prob, log_prob)

    def actor_loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        E[alpha log pi(a|s, z) - min_i Q_i(s, a, z)], over one sampled a, or over all, plus the loss of alpha itself.

        :param batch: transitions
        :return: the sum of both losses, and what to log
        """
        current = self.policy.condition(batch.observations, batch.skills)
        actions, log_prob = self.actor.action_log_prob(current)
        q_value = self.q_values(self.critic(current, actions), batch.skills).amin(dim=-1, keepdim=True)
        ent_coef, entropy = self.entropy_dual.value, self.actor.expectation(-log_prob, log_prob)
        actor_loss = self.actor.expectation(ent_coef * log_prob - q_value, log_prob).mean()
        ent_coef_loss = self.entropy_dual.loss(entropy - self._target_entropy)
        info = {
            "actor_loss": actor_loss.detach(),
            "ent_coef": ent_coef,
            "ent_coef_loss": ent_coef_loss.detach(),
            "entropy": entropy.detach(),
        }
        return actor_loss + ent_coef_loss, info

    def _autocast(self) -> th.autocast:
        return th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.bfloat16)

    def _step(
        self, name: str, optimizer: th.optim.Optimizer, loss_fn: Any, batch: SkillReplayBufferSamples, failed: th.Tensor
    ) -> Info:
        with self._autocast():
            loss, info = loss_fn(batch)
        step(optimizer, loss, failed)
        return info | {FAILED + name: failed.clone()}

    def _averaged_step(self, batch: SkillReplayBufferSamples, batch_size: int) -> th.Tensor:
        """A gradient step, and the average over its transitions of each number to log, (numbers,)."""
        info = self.gradient_step(batch, batch_size)
        self._logged_names = list(info)
        return th.stack([x.float().mean() for x in info.values()])

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        progress = self._current_progress_remaining
        learning_rate = check_rate(self.lr_schedule(progress), progress)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            set_learning_rate(optimizer, learning_rate, self._captures)

    @property
    def _captures(self) -> bool:
        return self.cuda_graph and self.device.type == "cuda" and is_fused(self.objective_optimizer)

    def _record(self, means: th.Tensor, gradient_steps: int) -> None:
        """Log the averages over the last gradient steps, with one transfer from the device."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        logged = dict(zip(self._logged_names, means.tolist(), strict=True))
        failed = [name for name in logged if name.startswith(FAILED) and logged[name] > 0]
        if failed or not np.isfinite(list(logged.values())).all():
            raise ValueError(
                f"{name_culprit(logged, failed)} in one of the last {gradient_steps} gradient steps; no "
                f"weight of that step was changed after it{self._describe_replay()}"
            )
        for name, mean in logged.items():
            if not name.startswith(FAILED):
                self.logger.record(f"train/{name}", mean)

    def _describe_replay(self) -> str:
        """The largest observation in replay, if squares of it overflow: then it is the culprit."""
        stored: Any = getattr(self.replay_buffer, "observations", None)
        arrays = stored.values() if isinstance(stored, dict) else [stored]
        sizes = [np.abs(x[: self.replay_buffer.size()]).max(initial=0.0) for x in arrays if x is not None]  # type: ignore[union-attr]
        largest = max(sizes, default=0.0)
        return f"; replay holds an observation of {largest:g}" if largest > _LARGE else ""
