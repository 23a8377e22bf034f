"""The data of the checks: some rollouts of a model, its networks' outputs on them, its log and its replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_metra.common.counted_actions import CountedActions
from sb3_metra.common.skill_model import SkillModel, as_learnt, as_vec_env, encoder_of, require_prior
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from sb3_metra.doctor.findings import CannotTell
from sb3_metra.doctor.log import RunLog
from sb3_metra.evaluation.episodes import EpisodeRecord, StepLimit, ask, batch, run_episodes
from sb3_metra.evaluation.faithfulness import encode_trajectories
from sb3_metra.evaluation.rollout import SkillTrajectory, has_coordinates, rollout_skills
from sb3_metra.evaluation.skills import skills_to_show

N_EPISODES = 16  # rollouts, one skill each: enough for a circle, and seconds on MuJoCo
_N_RANDOM = 8  # episodes of random actions
_N_OBSERVATIONS = 32  # at which actions of different skills are compared
_MAX_TRANSITIONS = 2_048  # that networks are asked about
_SATURATED = 0.99  # of a tanh: a fiftieth of the gradient is left


class Watch(VecEnvWrapper):
    """
    Environments that keep what rollouts do not: how episodes end, clock, reward, and whether the body lies on its back.

    :param venv: environments
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.terminated = self.truncated = 0
        self.on_back: list[bool] | None = [] if ask(venv, "is_on_back") else None
        self.observations: list[np.ndarray] = []  # vectors, each (n, dim), of the steps that end no episode
        self.clock: list[np.ndarray] = []  # (n,) each, likewise
        self.rewards: list[np.ndarray] = []  # (n,) each, likewise
        self._steps = np.zeros(venv.num_envs, dtype=np.int64)

    def reset(self) -> Any:
        """As SB3's."""
        self._steps[:] = 0
        return self.venv.reset()

    def step_wait(self) -> Any:
        """As SB3's, and remember what the step says of health."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for done, info in zip(dones, infos, strict=True):
            cut = bool(info.get("TimeLimit.truncated", False))
            self.truncated += bool(done) and cut
            self.terminated += bool(done) and not cut
        if self.on_back is not None:
            lying = self.venv.get_attr("is_on_back")
            self.on_back += [bool(x) for x, done in zip(lying, dones, strict=True) if not done]
        self._steps = np.where(dones, 0, self._steps + 1)
        self.observations.append(_as_vectors(observations)[~dones])
        self.clock.append(self._steps[~dones].astype(np.float64))
        self.rewards.append(np.asarray(rewards, dtype=np.float64)[~dones])
        return observations, rewards, dones, infos


def _as_vectors(observations: Any) -> np.ndarray:
    """The parts of a batch of observations that are vectors of real numbers, side by side, (n, dim)."""
    parts = list(observations.values()) if isinstance(observations, dict) else [observations]
    vectors = [part for part in parts if part.ndim == 2 and part.dtype.kind == "f"]
    return np.concatenate([*vectors, np.zeros((len(parts[0]), 0))], axis=1)


class Examination:
    """
    A model, what it does in an environment, and what its run has logged. Everything is measured once, when a check
    first needs it. The model and PyTorch's generators do not change.

    :param model: the model to examine
    :param env: an environment, or a vectorised one; not the training one
    :param log: the log of its run
    :param n_episodes: rollouts, one skill each
    :param seed: of the environments' resets and of random actions
    :param max_episode_steps: cut episodes after as many steps; ``None``: when the environment ends them
    """

    def __init__(
        self,
        model: SkillModel,
        env: VecEnv | gym.Env,
        log: RunLog,
        n_episodes: int = N_EPISODES,
        seed: int = 0,
        max_episode_steps: int | None = None,
    ) -> None:
        self.model, self.prior, self.log = model, require_prior(model), log
        self.watch = Watch(as_vec_env(env))
        self.n_episodes, self.seed = n_episodes, seed
        self.limit = StepLimit(self.watch, max_episode_steps)

    # Rollouts

    @cached_property
    def trajectories(self) -> list[SkillTrajectory]:
        """One deterministic episode of each of some skills, spread evenly; few skills are repeated."""
        shown = skills_to_show(self.prior, self.n_episodes)
        skills = np.resize(shown, (self.n_episodes, self.prior.dim))
        return rollout_skills(self.model, self.watch, skills, seed=self.seed, max_episode_steps=self.limit.cut)

    @cached_property
    def coordinates(self) -> list[np.ndarray]:
        """Places of each rollout, each (T + 1, k)."""
        if not has_coordinates(self.trajectories):
            raise CannotTell('the environment reports no info["coordinates"]')
        return [trajectory.coordinates for trajectory in self.trajectories]

    @cached_property
    def random_records(self) -> list[EpisodeRecord]:
        """Some episodes of random actions."""
        rng, space = np.random.default_rng(self.seed), self.watch.action_space

        def act(_: Any, __: Any) -> tuple[np.ndarray, None]:
            return np.stack([_random_action(space, rng) for _ in range(self.watch.num_envs)]), None

        n = min(self.watch.num_envs, _N_RANDOM)
        with as_learnt(self.model, self.watch.venv) as env:
            env.seed(self.seed)
            return [record for _ in range(-(-_N_RANDOM // n)) for record in run_episodes(act, env, n, self.limit)]

    @cached_property
    def skill_distances(self) -> np.ndarray:
        """How far from its start each rollout ends, (n_episodes,)."""
        return np.array([np.linalg.norm(places[-1] - places[0]) for places in self.coordinates])

    @cached_property
    def random_distances(self) -> np.ndarray:
        """How far from its start each of some episodes of random actions ends, (n,)."""
        self.coordinates  # noqa: B018  (there are places)
        return np.array([np.linalg.norm(r.coordinates[-1] - r.coordinates[0]) for r in self.random_records])

    @cached_property
    def endings(self) -> tuple[int, int]:
        """How many episodes have ended by termination and by truncation."""
        self.trajectories  # noqa: B018  (they fill the watch)
        return self.watch.terminated, self.watch.truncated

    @cached_property
    def share_on_back(self) -> float | None:
        """The share of steps at which the body lies on its back; ``None`` if the environment does not report it."""
        self.trajectories  # noqa: B018
        return None if not self.watch.on_back else float(np.mean(self.watch.on_back))

    @cached_property
    def seen(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Vectors observed in the rollouts, (n, dim), and the clock and the reward of each, (n,), by their names."""
        self.trajectories  # noqa: B018
        told = {"the clock of the episode": self.watch.clock, "the environment's reward": self.watch.rewards}
        return np.concatenate(self.watch.observations), {name: np.concatenate(x) for name, x in told.items()}

    @cached_property
    def vectors(self) -> dict[str, np.ndarray]:
        """All observations of the rollouts that are vectors, as the model sees them, by key, each (n, dim)."""
        together = batch([observation for t in self.trajectories for observation in t.observations])
        parts = together if isinstance(together, dict) else {"": together}
        kept = {key: x.astype(np.float64) for key, x in parts.items() if x.ndim == 2 and x.dtype.kind == "f"}
        if not kept:
            raise CannotTell("no observation is a vector of real numbers")
        return kept

    # What the networks say

    @cached_property
    def paths(self) -> list[np.ndarray]:
        """phi of each rollout, each (T + 1, dim)."""
        encode = encoder_of(self.model)
        if encode is None:
            raise CannotTell("the method learns no phi")
        return encode_trajectories(self.trajectories, encode)

    @cached_property
    def random_paths(self) -> list[np.ndarray]:
        """phi of each episode of random actions, each (T + 1, dim)."""
        encode = encoder_of(self.model)
        assert encode is not None
        return [np.asarray(encode(batch(record.observations)), np.float64) for record in self.random_records]

    @cached_property
    def moves(self) -> np.ndarray:
        """How far phi moves over each rollout, (n_episodes, dim), of a method whose skills are directions of phi."""
        paths = self.paths
        if paths[0].shape[1] != self.prior.dim or not self._follows_displacement():
            raise CannotTell("the method does not reward phi's displacement along the skill")
        return np.stack([path[-1] - path[0] for path in paths])

    def _follows_displacement(self) -> bool:
        """Whether the reward is (phi(s') - phi(s)) . z; a model without a reward is assumed to have METRA's."""
        try:
            rewards = self.rewards
        except CannotTell:
            return True
        return bool(np.allclose(rewards, self._alignments, rtol=1e-2, atol=1e-3))

    @cached_property
    def skill_actions(self) -> np.ndarray:
        """Actions of n skills at the same m observations, as vectors in [-1, 1], (m, n, dim)."""
        skills = skills_to_show(self.prior, self.n_episodes)
        pool = [observation for t in self.trajectories for observation in t.observations]
        chosen = [pool[i] for i in np.linspace(0, len(pool) - 1, _N_OBSERVATIONS).astype(int)]
        actions = []
        for skill in skills:
            state = np.repeat(skill[None], len(chosen), axis=0)
            actions.append(self._act(batch(chosen), state))
        return np.stack(actions, axis=1)

    def _act(self, observations: Any, skills: np.ndarray) -> np.ndarray:
        actions, _ = self.model.predict(observations, state=skills, deterministic=True)
        return scale_actions(self.watch.action_space, actions)

    def _stored_actions(self, observations: Any, skills: np.ndarray) -> np.ndarray:
        """Actions as replay has them: in [-1, 1], or as they are if they are discrete, (n, dim)."""
        if isinstance(self.watch.action_space, spaces.Box):
            return self._act(observations, skills).astype(np.float32)
        actions, _ = self.model.predict(observations, state=skills, deterministic=True)
        return np.asarray(actions).reshape(len(skills), -1)

    @cached_property
    def saturation(self) -> float:
        """The share of the actor's hidden units that are saturated, of its most saturated layer of tanh."""
        actor, transitions = self._ability("actor"), self.transitions
        layers = [module for module in actor.modules() if isinstance(module, th.nn.Tanh)]
        shares: list[float] = []

        def look(_: Any, __: Any, units: th.Tensor) -> None:
            shares.append(float((units.abs() > _SATURATED).float().mean()))

        hooks = [layer.register_forward_hook(look) for layer in layers]
        try:
            with _unobserved(actor):
                actor(self._ability("policy").condition(transitions.observations, transitions.skills))
        finally:
            for hook in hooks:
                hook.remove()
        if not shares:
            raise CannotTell("the actor has no hidden layer of tanh")
        return max(shares)

    @cached_property
    def transitions(self) -> SkillReplayBufferSamples:
        """Steps of the rollouts, spread evenly, as a gradient step gets them; no rewards and no ends."""
        policy = self._ability("policy")
        starts = [(i, t) for i, trajectory in enumerate(self.trajectories) for t in range(len(trajectory))]
        size = max(
            min(len(starts), _MAX_TRANSITIONS), getattr(self.model, "batch_size", 1)
        )  # some rewards need a batch
        chosen = [starts[k] for k in np.linspace(0, len(starts) - 1, size).astype(int)]
        observations = batch([self.trajectories[i].observations[t] for i, t in chosen])
        following = batch([self.trajectories[i].observations[t + 1] for i, t in chosen])
        skills = np.stack([self.trajectories[i].skill for i, _ in chosen])
        actions = th.as_tensor(self._stored_actions(observations, skills), device=policy.device)
        zeros = th.zeros(len(chosen), 1, device=policy.device)
        here, there = (policy.prepare(policy.obs_to_tensor(x)[0]) for x in (observations, following))
        return SkillReplayBufferSamples(here, actions, there, zeros, zeros, th.as_tensor(skills, device=policy.device))

    @cached_property
    def rewards(self) -> np.ndarray:
        """The intrinsic reward of each of the transitions, (n,)."""
        return self.reward_of(self.transitions)

    def reward_of(self, transitions: SkillReplayBufferSamples) -> np.ndarray:
        """
        The intrinsic reward of transitions, the same at every call.

        :param transitions: as :attr:`transitions`
        :return: (n,)
        """
        objective, model = self._ability("objective"), self._ability_owner("q_values")
        with _unobserved(objective):
            return model.q_values((objective.reward(transitions),), transitions.skills)[:, 0].cpu().numpy()

    @cached_property
    def q_values(self) -> np.ndarray:
        """The smaller critic's value of each of the transitions, (n,)."""
        model, critic = self._ability_owner("q_values"), self._ability("critic")
        transitions, policy = self.transitions, self._ability("policy")
        with _unobserved(critic):
            values = critic(policy.condition(transitions.observations, transitions.skills), transitions.actions)
            return model.q_values(values, transitions.skills).amin(dim=1).cpu().numpy()

    @cached_property
    def _alignments(self) -> np.ndarray:
        """(phi(s') - phi(s)) . z of each of the transitions, (n,)."""
        phi, transitions = getattr(self._ability("objective"), "phi", None), self.transitions
        if phi is None:
            raise CannotTell("the method learns no phi")
        with _unobserved(phi):
            moves = phi.displacement(transitions.observations, transitions.next_observations)
            return (moves * self.prior.embed(transitions.skills)).sum(dim=1).cpu().numpy()

    # Abilities

    def _ability(self, name: str) -> Any:
        value = getattr(self.model, name, None)
        if value is None:
            raise CannotTell(f"the model has no {name}")
        return value

    def _ability_owner(self, name: str) -> Any:
        self._ability(name)
        return self.model

    def number(self, name: str) -> float:
        """
        A number that a model keeps as an attribute.

        :param name: of the attribute
        """
        return float(self._ability(name))

    @cached_property
    def reward_scale(self) -> float:
        """The largest intrinsic reward but for one in a hundred; 0 if the model has none."""
        try:
            return float(np.quantile(np.abs(self.rewards), 0.99))
        except CannotTell:
            return 0.0

    @property
    def action_dim(self) -> int:
        """Components of an action."""
        return self.skill_actions.shape[-1]

    @property
    def twin_environments(self) -> int:
        """How many training environments began their first episode in memory as another one did."""
        buffer: Any = getattr(self.model, "replay_buffer", None)
        stored = getattr(buffer, "observations", None)
        if not isinstance(stored, np.ndarray) or not buffer.size() or buffer.full:
            return 0
        return len(stored[0]) - len({start.tobytes() for start in stored[0]})


@contextmanager
def _unobserved(module: th.nn.Module) -> Iterator[None]:
    """Evaluate without learning, and restore modes, running statistics and PyTorch's generators."""
    modes = {inner: inner.training for inner in module.modules()}
    statistics = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [x.device for x in module.parameters() if x.device.type == "cuda"][:1]
    try:
        module.eval()
        with th.no_grad(), th.random.fork_rng(devices):
            th.manual_seed(0)
            yield
    finally:
        for inner, training in modes.items():
            inner.training = training
        for buffer, before in statistics:
            buffer.copy_(before)


def scale_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """
    Actions as vectors of comparable size: within [-1, 1], or, if they are discrete, 2 apart (root mean square) if they
    differ.

    :param space: of actions
    :param actions: (n, \\*action_shape)
    :return: (n, dim)
    """
    if isinstance(space, spaces.Box):
        scaled = 2.0 * (actions - space.low) / (space.high - space.low) - 1.0
        return scaled.reshape(len(actions), -1).astype(np.float64)
    counted = CountedActions(space)
    numbers = counted.numbers(th.as_tensor(np.asarray(actions).reshape(len(actions), -1)))
    return np.sqrt(2.0 * len(counted)) * np.eye(len(counted))[numbers.numpy()]


def _random_action(space: spaces.Space, rng: np.random.Generator) -> Any:
    if isinstance(space, spaces.Box):
        return rng.uniform(space.low, space.high).astype(space.dtype)
    counted = CountedActions(space)
    return counted.actions(th.as_tensor([rng.integers(len(counted))]))[0].numpy().reshape(space.shape or ())
