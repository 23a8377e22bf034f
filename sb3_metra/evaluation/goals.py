"""Zero-shot goals: the skill that leads from here to a goal points from phi of here to phi of the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Random
from sb3_metra.evaluation.rollout import SkillPredictor

Encoder = Callable[[Any], np.ndarray]

GOAL_RANGES: dict[str, tuple[float, ...]] = {
    "sb3_metra/PointMass-v0": (7.5, 7.5),  # ours
    "sb3_metra/PixelPointMass-v0": (7.5, 7.5),  # ours
    "sb3_metra/Ant-v0": (50.0, 50.0),
    "sb3_metra/HalfCheetah-v0": (100.0,),
    "sb3_metra/QuadrupedPixels-v0": (15.0, 15.0),
    "sb3_metra/HumanoidPixels-v0": (10.0, 10.0),
}
"""How far from the origin goals are drawn along each coordinate; for MuJoCo's bodies as in the code of CSF."""


class GoalReacher:
    """
    A policy that goes where it is told, without any training: z points from phi(s) to phi(goal) (METRA paper, 5.4).

    It follows SB3's predictor protocol, so that ``evaluate_policy`` runs it. Its state is the skill it follows.

    :param model: the policy over states and skills
    :param encode: phi, from observations to (n, skill_dim), or (skill_dim,) for one observation
    :param prior: p(z), which knows the skill of a direction
    :param goals: the observation at the goal, or a batch of them, one for each environment
    :param hold: keep the skill chosen at an episode's start instead of choosing at every step
    :raises ValueError: where the goals are no observations
    """

    def __init__(
        self, model: SkillPredictor, encode: Encoder, prior: SkillPrior, goals: Any, hold: bool = False
    ) -> None:
        self.model, self.encode, self.prior, self.hold = model, encode, prior, hold
        self.goals = goals

    @property
    def goals(self) -> Any:
        """Where to go; setting it sends the policy elsewhere."""
        return self._goals

    @goals.setter
    def goals(self, goals: Any) -> None:
        try:
            self._goal_latents = np.asarray(self.encode(goals))
        except ValueError as error:
            raise ValueError(f"goals must be observations, one or a batch of them: {error}") from error
        self._goals = goals

    def skills(self, observation: Any) -> np.ndarray:
        """
        The skills that lead to the goals.

        :param observation: one observation or a batch of n
        :return: (n, skill_dim), without the first axis for one observation and one goal
        :raises ValueError: where there are several goals, but not as many as observations
        """
        latents = np.asarray(self.encode(observation))
        if self._goal_latents.ndim == 2 and len(self._goal_latents) not in (1, len(np.atleast_2d(latents))):
            raise ValueError(
                f"goals must be one, or one for each of the {len(np.atleast_2d(latents))} observations, "
                f"got {len(self._goal_latents)}"
            )
        return self.prior.toward(self._goal_latents - latents)

    def predict(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """
        As SB3's ``predict``.

        :param observation: one observation or a batch of n
        :param state: skills followed so far, (n, skill_dim); used with ``hold`` only
        :param episode_start: (n,), where an episode begins; used with ``hold`` only
        :param deterministic: the mode of the policy instead of a sample
        :return: actions and the skills that they follow
        """
        if not self.hold or state is None:
            skills = self.skills(observation)
        elif episode_start is None or not np.any(episode_start):
            skills = state
        else:
            skills = np.where(np.asarray(episode_start, bool)[..., None], self.skills(observation), state)
        return self.model.predict(observation, state=skills, deterministic=deterministic)


@dataclass
class GoalTrajectories:
    """
    What :func:`evaluate_goals` saw: one episode for each of n goals.

    :param goals: places of the goals, (n, k), in the environment's unit
    :param coordinates: for each goal the agent's places, first and final state included, (T + 1, k)
    """

    goals: np.ndarray
    coordinates: list[np.ndarray]

    def metrics(self, radii: Sequence[float] = (3.0, 1.0)) -> dict[str, float]:
        """
        Averages over the goals.

        :param radii: distances within which a goal counts as reached (3 and 1, as CSF's authors measured METRA)
        :return: ``goal_distance``, and for each radius ``goal_success_...`` and ``goal_staying_time_...``
        """
        result = {"goal_distance": float(goal_distance(self.coordinates, self.goals).mean())}
        for radius in radii:
            result[f"goal_success_{radius:g}"] = float(goal_success(self.coordinates, self.goals, radius).mean())
            staying = goal_staying_time(self.coordinates, self.goals, radius)
            result[f"goal_staying_time_{radius:g}"] = float(staying.mean())
        return result


def goal_distance(coordinates: Sequence[np.ndarray], goals: np.ndarray) -> np.ndarray:
    """
    How far from its goal each episode ends.

    :param coordinates: for each goal the agent's places, (T + 1, k)
    :param goals: (n, k)
    :return: (n,), in the unit of the coordinates
    """
    return np.array([distances[-1] for distances in _distances(coordinates, goals)])


def goal_success(coordinates: Sequence[np.ndarray], goals: np.ndarray, radius: float = 3.0) -> np.ndarray:
    """
    Whether each episode comes within a distance of its goal at any step.

    :param coordinates: for each goal the agent's places, (T + 1, k)
    :param goals: (n, k)
    :param radius: distance within which a goal counts as reached
    :return: (n,), bool
    """
    return np.array([(distances < radius).any() for distances in _distances(coordinates, goals)], dtype=bool)


def goal_staying_time(coordinates: Sequence[np.ndarray], goals: np.ndarray, radius: float = 3.0) -> np.ndarray:
    """
    Share of each episode's steps that end within a distance of its goal.

    :param coordinates: for each goal the agent's places, (T + 1, k)
    :param goals: (n, k)
    :param radius: distance within which a goal counts as reached
    :return: (n,), in [0, 1]
    """
    return np.array([(distances < radius).mean() for distances in _distances(coordinates, goals)])


def sample_goals(half_widths: Sequence[float], n: int = 50, rng: Random | None = None) -> np.ndarray:
    """
    Draw goals uniformly from a box about the origin.

    :param half_widths: how far the box reaches along each coordinate, such as ``GOAL_RANGES[env_id]``
    :param n: number of goals (CSF's authors: 50)
    :param rng: generator to draw with; ``None``: one with seed 0
    :return: (n, k)
    """
    if n < 1 or not len(half_widths) or not all(np.isfinite(width) and width > 0 for width in half_widths):
        raise ValueError(
            f"n must be at least 1 and half_widths finite numbers above 0, got n={n} and half_widths={half_widths}"
        )
    rng = np.random.default_rng(0) if rng is None else rng
    return np.asarray(rng.uniform(-1.0, 1.0, (n, len(half_widths))) * np.asarray(half_widths))


def evaluate_goals(
    model: SkillPredictor,
    env: VecEnv | gym.Env,
    goals: np.ndarray,
    encode: Encoder,
    prior: SkillPrior,
    *,
    hold: bool = False,
    seed: int | None = 0,
    progress: Callable[[int], None] | None = None,
) -> GoalTrajectories:
    """
    Go to each goal for one whole, deterministic episode, in as many environments at once as there are.

    :param model: the policy over states and skills
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]`` and whose method
        ``goal_observation(goal)`` gives the observation at a place; a ``VecNormalize`` must not be training
    :param goals: places, (n, k), such as :func:`sample_goals` draws
    :param encode: phi, an algorithm's ``encode``
    :param prior: p(z), an algorithm's ``skill_prior``
    :param hold: keep the skill chosen at an episode's start (the paper: in Kitchen) instead of choosing at every step
    :param seed: of the environments' resets; ``None``: as they come
    :param progress: called with the number of goals that are done
    :return: goals and trajectories, whose ``metrics()`` are goal distance, success and staying time
    :raises ValueError: for goals that are no table of places, and environments that lack what is needed
    """
    vec_env = _as_vec_env(env, seed)
    goals = np.asarray(goals, dtype=np.float64)
    if goals.ndim != 2 or not len(goals) or not np.isfinite(goals).all():
        raise ValueError(f"goals must be finite places of shape (n, k), got an array of shape {goals.shape}")
    coordinates: list[np.ndarray] = []
    for start in range(0, len(goals), vec_env.num_envs):
        chunk = goals[start : start + vec_env.num_envs]
        observation = vec_env.reset()
        _check_places(vec_env.unwrapped.reset_infos, goals.shape[1])
        reacher = GoalReacher(model, encode, prior, _goal_observations(vec_env, list(chunk)), hold)
        infos = _run(reacher, vec_env, observation, len(chunk))
        coordinates += [np.asarray([info["coordinates"] for info in episode], np.float64) for episode in infos]
        if progress is not None:
            progress(len(coordinates))
    return GoalTrajectories(goals, coordinates)


def evaluate_task_goals(
    model: SkillPredictor,
    env: VecEnv | gym.Env,
    tasks: Sequence[str],
    encode: Encoder,
    prior: SkillPrior,
    *,
    hold: bool = True,
    seed: int | None = 0,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """
    As :func:`evaluate_goals`, where goals are tasks with names, as in Kitchen.

    :param model: the policy over states and skills
    :param env: an environment, or a vectorised one, that reports ``info["tasks"]``, which of them an episode has
        achieved so far, and whose method ``goal_observation(task)`` gives the observation where one is done
    :param tasks: the task of each episode, n of them
    :param encode: phi, an algorithm's ``encode``
    :param prior: p(z), an algorithm's ``skill_prior``
    :param hold: keep the skill chosen at an episode's start, as the paper does, instead of choosing at every step
    :param seed: of the environments' resets; ``None``: as they come
    :param progress: called with the number of episodes that are done
    :return: whether each episode achieved its task, (n,)
    :raises ValueError: for environments that lack what is needed, and tasks that are none
    """
    vec_env = _as_vec_env(env, seed)
    achieved: list[bool] = []
    for start in range(0, len(tasks), vec_env.num_envs):
        chunk = list(tasks[start : start + vec_env.num_envs])
        observation = vec_env.reset()
        known = vec_env.unwrapped.reset_infos[0].get("tasks", {})
        if not known.keys() >= set(chunk):
            raise ValueError(f'tasks must be among info["tasks"] of env, {list(known)}, got {chunk}')
        reacher = GoalReacher(model, encode, prior, _goal_observations(vec_env, chunk), hold)
        infos = _run(reacher, vec_env, observation, len(chunk))
        achieved += [bool(episode[-1]["tasks"][task]) for episode, task in zip(infos, chunk, strict=True)]
        if progress is not None:
            progress(len(achieved))
    return np.array(achieved, dtype=bool)


def _as_vec_env(env: VecEnv | gym.Env, seed: int | None) -> VecEnv:
    """Environments that know goals, seeded, as a vectorised one."""
    vec_env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    if not vec_env.has_attr("goal_observation"):
        raise ValueError("env must have a method goal_observation(goal), got one without")
    normalizer = unwrap_vec_normalize(vec_env)
    if normalizer is not None and normalizer.training:
        raise ValueError("env must be a VecNormalize with training=False, got training=True: rollouts would change it")
    if seed is not None:
        vec_env.seed(seed)
    return vec_env


def _check_places(infos: Sequence[dict[str, Any]], n_coordinates: int) -> None:
    for info in infos:
        if np.shape(info.get("coordinates", ())) != (n_coordinates,):
            raise ValueError(
                f'goals must have as many coordinates as info["coordinates"] of env, got {n_coordinates} and '
                f"{info.get('coordinates')}"
            )


def _goal_observations(env: VecEnv, goals: list[Any]) -> Any:
    """What is seen at the goals, one for each environment; spare environments go where the first one goes."""
    padded = goals + goals[:1] * (env.num_envs - len(goals))
    seen = [env.env_method("goal_observation", goal, indices=[i])[0] for i, goal in enumerate(padded)]
    normalizer = unwrap_vec_normalize(env)
    if isinstance(seen[0], dict):
        stacked: Any = {key: np.stack([observation[key] for observation in seen]) for key in seen[0]}
    else:
        stacked = np.stack(seen)
    return stacked if normalizer is None else normalizer.normalize_obs(stacked)


def _run(reacher: GoalReacher, env: VecEnv, observation: Any, n: int) -> list[list[dict[str, Any]]]:
    """One episode of each of the first ``n`` environments: the infos of its reset and of each of its steps."""
    infos = [[info] for info in env.unwrapped.reset_infos[:n]]
    running = np.ones(n, bool)
    skills, starts = None, np.ones(env.num_envs, bool)
    while running.any():
        actions, skills = reacher.predict(observation, skills, starts, deterministic=True)
        observation, _, starts, news = env.step(actions)
        for i in np.flatnonzero(running):
            infos[i].append(news[i])
        running &= ~starts[:n]
    return infos


def _distances(coordinates: Sequence[np.ndarray], goals: np.ndarray) -> list[np.ndarray]:
    """For each goal the distance after every step, (T,)."""
    if len(coordinates) != len(goals):
        raise ValueError(
            f"coordinates must hold one trajectory for each of the {len(goals)} goals, got {len(coordinates)}"
        )
    return [
        np.linalg.norm(np.asarray(places, dtype=np.float64)[1:] - goal, axis=1)
        for places, goal in zip(coordinates, goals, strict=True)
    ]
