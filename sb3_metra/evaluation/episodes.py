"""One episode in each of several environments at once, up to a limit, and its record."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_metra.common.goal_spaces import ACHIEVED, has_goal
from sb3_metra.common.inputs import check_count, check_place, check_tasks

#: From observations and the state after the step before, ``None`` at first, to actions and the new state.
Act = Callable[[Any, Any], tuple[np.ndarray, Any]]

PATIENCE = 1_000
"""Steps after which an episode counts as endless, unless its environment names a greater limit."""


class StepLimit:
    """
    When to cut episodes, and when to stop waiting for their end.

    :param env: the environments
    :param max_episode_steps: cut episodes after as many steps; ``None``: wait for their end, up to a limit
    :raises ValueError: if the limit is no positive integer
    """

    def __init__(self, env: VecEnv, max_episode_steps: int | None = None) -> None:
        self.cut = None if max_episode_steps is None else check_count("max_episode_steps", max_episode_steps)
        self.patience = max(PATIENCE, named_limit(env))

    def reached(self, steps: int) -> bool:
        """
        Whether episodes that go on are cut now.

        :param steps: that they have taken
        :raises ValueError: if there is no limit and they seem to have no end
        """
        if self.cut is None and steps >= self.patience:
            raise ValueError(
                "max_episode_steps must be given for an environment without a time limit, got None and an episode of "
                f"more than {steps} steps: pass it, or use gymnasium.wrappers.TimeLimit"
            )
        return self.cut is not None and steps >= self.cut


def named_limit(env: VecEnv) -> int:
    """
    The time limit of environments, in steps; 0 if they report none.

    :param env: the environments
    """
    limits = [getattr(spec, "max_episode_steps", None) for spec in ask(env, "spec")]
    return max((limit for limit in [*limits, *ask(env, "_max_episode_steps")] if limit is not None), default=0)


def ask(env: VecEnv, name: str) -> list[Any]:
    """
    An attribute of each environment; empty if they do not have it.

    :param env: environments
    :param name: of the attribute
    """
    try:
        return env.get_attr(name) if env.has_attr(name) else []
    except NotImplementedError:
        return []


class EpisodeRecord:
    """
    The record of one episode while it runs.

    :param observation: first observation
    :param info: of the reset
    :raises ValueError: if the info holds a place that is not valid
    """

    def __init__(self, observation: Any, info: dict[str, Any]) -> None:
        self.observations = [observation]
        self.coordinates: list[np.ndarray] = []
        self.frames: list[np.ndarray] = []
        self.episode_return = 0.0
        self.tasks: dict[str, bool] = {}
        self.done = False
        self._has_coordinates = "coordinates" in info
        self._read(info)

    def add(self, observation: Any, reward: float, info: dict[str, Any], done: bool) -> None:
        """
        Another step.

        :param observation: what followed
        :param reward: the environment's own
        :param info: of the step
        :param done: whether the episode has ended
        :raises ValueError: if places or tasks are reported at some steps only
        """
        self.observations.append(observation)
        self.episode_return += reward
        self.done = done
        self._read(info)

    def _read(self, info: dict[str, Any]) -> None:
        step = len(self.observations) - 1
        if ("coordinates" in info) != self._has_coordinates:
            raise ValueError(
                'info["coordinates"] must be reported at the reset and at every step, or never, got '
                f"{'none' if self._has_coordinates else 'some'} at step {step} and "
                f"{'some' if self._has_coordinates else 'none'} at the reset"
            )
        if self._has_coordinates:
            place = check_place(f'info["coordinates"] at step {step}', info["coordinates"])
            if self.coordinates and place.shape != self.coordinates[0].shape:
                raise ValueError(
                    f'info["coordinates"] must have the shape that it has at the reset, {self.coordinates[0].shape}, '
                    f"got {place.shape} at step {step}"
                )
            self.coordinates.append(place)
        tasks = check_tasks(f'info["tasks"] at step {step}', info.get("tasks", {}))
        if self.tasks.keys() - tasks.keys():
            raise ValueError(f'info["tasks"] must hold {list(self.tasks)} at every step, got {list(tasks)} at {step}')
        self.tasks = tasks


def run_episodes(act: Act, env: VecEnv, n: int, limit: StepLimit, *, frames: bool = False) -> list[EpisodeRecord]:
    """
    Run one episode in each of the first ``n`` environments; the others act, too, but are not recorded.

    :param act: what acts
    :param env: environments
    :param n: number of episodes, at most as many as environments
    :param limit: when to cut them
    :param frames: picture every state but the final one
    :return: a record of each
    :raises ValueError: if an episode has no end, or an environment reports what cannot be read
    """
    observation, state = env.reset(), None
    first = [_single(observation, i) for i in range(n)]
    infos = env.unwrapped.reset_infos
    records = [EpisodeRecord(seen, _with_place(info, seen, env)) for seen, info in zip(first, infos, strict=False)]
    if frames:
        _keep_frames(env, records)
    for steps in count(1):
        actions, state = act(observation, state)
        observation, rewards, dones, infos = env.step(actions)
        for i, record in enumerate(records):
            if not record.done:
                last = infos[i]["terminal_observation"] if dones[i] else _single(observation, i)
                record.add(last, float(rewards[i]), _with_place(infos[i], last, env), bool(dones[i]))
        if all(record.done for record in records) or limit.reached(steps):
            break
        if frames:
            _keep_frames(env, records)
    return records


def _keep_frames(env: VecEnv, records: list[EpisodeRecord]) -> None:
    """Picture the running episodes. An environment resets itself at once, so that a final state has no picture."""
    images = env.get_images()
    for record, image in zip(records, images, strict=False):
        if not record.done:
            if image is None:
                raise ValueError("env must render for frames, got no picture from render()")
            record.frames.append(image)


def _with_place(info: dict[str, Any], observation: Any, env: VecEnv) -> dict[str, Any]:
    """What an environment reports; in a goal environment the place is what is achieved, unless it reports another."""
    if "coordinates" in info or not has_goal(observation):
        return info
    return info | {"coordinates": np.array(original(observation, env)[ACHIEVED], np.float64)}


def original(observation: Any, env: VecEnv) -> Any:
    """
    An observation as it was before it was normalised.

    :param observation: one, or a batch
    :param env: the environments that gave it
    """
    normalizer = unwrap_vec_normalize(env)
    return observation if normalizer is None else normalizer.unnormalize_obs(observation)


def _single(observation: Any, index: int) -> Any:
    if isinstance(observation, dict):
        return {key: value[index].copy() for key, value in observation.items()}
    return observation[index].copy()


def batch(observations: Any) -> Any:
    """
    Observations of a trajectory, or a list of them, as one batch.

    :param observations: (n, \\*obs_shape), or n observations, which may be dictionaries
    """
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.asarray(observations)
