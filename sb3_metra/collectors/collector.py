"""One collector: environments, an actor, and whole episodes of both."""

from __future__ import annotations

import platform
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.arrays import map_arrays
from sb3_metra.common.collectors import Answer, Episode, Infos, Kit, Order, Weights, join
from sb3_metra.common.env_state import get_env_state, set_env_state
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.spaces import check_finite
from sb3_metra.common.training_env import copy_observation


class Collector:
    """
    Runs episodes in environments of its own, side by side: each step is one call of the actor for all of them.

    :param kit: what it is made of
    :raises ValueError: if an environment cannot be built here, or is another one than the model's
    """

    def __init__(self, kit: Kit) -> None:
        self._policy, self._max_steps = kit.policy, kit.max_episode_steps
        self._round: int | None = None
        self._envs = [_make_env(kit) for _ in range(kit.n_envs)]
        self._observations: list[Any] = [None] * kit.n_envs  # the first ones of the next episodes, each a batch of one

    def collect(self, order: Order, weights: Weights) -> Answer:
        """
        Run an episode in each environment.

        :param order: what is asked for
        :param weights: of the actor
        :raises ValueError: for an episode that does not end, and for what an environment returns that does not fit
        """
        if order.round != self._round:
            self._policy.actor.load_state_dict({name: th.tensor(x) for name, x in weights.items()})
            self._round = order.round
        if order.begin is not None:
            self._begin(**order.begin)
        with th.random.fork_rng(devices=[]):
            th.set_rng_state(th.from_numpy(order.random_state.copy()))
            tapes = self._run(order.skills)
            random_state = th.get_rng_state().numpy()
        return Answer([tape.episode() for tape in tapes], random_state)

    def get_states(self) -> list[Any] | None:
        """The state of each environment, and its first observation; ``None`` if one keeps it to itself."""
        states = [get_env_state(env) for env in self._envs]
        if any(state["base"] is None for state in states):
            return None
        return [{"env": x, "observation": y} for x, y in zip(states, self._observations, strict=True)]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _begin(self, seeds: list[int | None] | None = None, states: list[Any] | None = None) -> None:
        for index, env in enumerate(self._envs):
            if seeds is not None and seeds[index] is not None:
                env.seed(seeds[index])
            self._observations[index] = copy_observation(env.reset())
            if states is not None:
                set_env_state(env, states[index]["env"])
                self._observations[index] = states[index]["observation"]

    def _run(self, skills: np.ndarray) -> list[_Tape]:
        tapes = [_Tape(skill, first) for skill, first in zip(skills, self._observations, strict=True)]
        running = list(range(len(tapes)))
        while running:
            observations = join(tapes[index].observations[-1] for index in running)
            check_finite(observations, f"from an environment of a collector on {platform.node()}")
            scaled = self._policy.act(self._policy.obs_to_tensor(observations)[0], skills[running])
            actions = self._policy.unscale_action(scaled)
            for row, index in enumerate(running):
                outcome = self._envs[index].step(actions[row : row + 1])
                self._observations[index] = tapes[index].keep(scaled[row], *outcome)
            running = [index for index in running if not tapes[index].ended]
            if running and len(tapes[running[0]].actions) >= self._max_steps:
                raise ValueError(
                    f"env must end its episodes within max_episode_steps={self._max_steps}, got one that goes on: wrap "
                    "it in gymnasium.wrappers.TimeLimit"
                )
        return tapes


class _Tape:
    """
    An episode that is being run.

    :param skill: (skill_dim,)
    :param first: its first observation, a batch of one
    """

    def __init__(self, skill: np.ndarray, first: Any) -> None:
        self.skill, self.observations, self.ended = skill, [first], False
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.infos: list[dict[str, Any]] = []

    def keep(self, action: np.ndarray, observation: Any, reward: Any, done: Any, info: Any) -> Any:
        """
        Keep a step of a VecEnv of one environment.

        :param action: in [-1, 1], or a discrete one, (\\*action_shape)
        :param observation: a batch of one, as the rest
        :param reward: the environment's
        :param done: whether the episode ended
        :param info: what the environment returned
        :return: the observation in memory of its own
        """
        own, told = copy_observation(observation), dict(info[0])
        self.ended = bool(done[0])
        last = map_arrays(lambda x: np.asarray(x)[None], told.pop("terminal_observation")) if self.ended else own
        self.observations.append(last)
        self.actions.append(action)
        self.rewards.append(reward[0])
        self.infos.append(told)
        return own

    def episode(self) -> Episode:
        """All of it."""
        arrays = np.stack(self.actions), np.array(self.rewards)
        return Episode(self.skill, join(self.observations), *arrays, Infos(self.infos))


def _make_env(kit: Kit) -> VecEnv:
    """An environment as the model would wrap it."""
    here = platform.node()
    try:
        made = gym.make(kit.env) if isinstance(kit.env, str) else kit.env()
        env = SkillDiscovery._wrap_env(made)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"env must be an environment that collectors can build, got on {here} {reason}") from error
    if env.num_envs != 1:
        raise ValueError(f"env must make one environment, got {env.num_envs}")
    for name in ("observation_space", "action_space"):
        if getattr(env, name) != getattr(kit, name):
            raise ValueError(
                f"env must have the {name} of the model, {getattr(kit, name)}, got {getattr(env, name)} on {here}"
            )
    return env
