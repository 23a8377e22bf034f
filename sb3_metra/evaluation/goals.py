"""Zero-shot goals: the skill that leads from here to a goal points from phi of here to phi of the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_metra.common.goal_spaces import DESIRED, at_goal, has_goal
from sb3_metra.common.inputs import check_count, check_flag, check_number, check_numbers, check_place, check_seed
from sb3_metra.common.skill_model import (
    Encoder,
    SkillModel,
    as_learnt,
    as_vec_env,
    check_encoder,
    check_prior,
    require_encoder,
    require_prior,
)
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Random
from sb3_metra.evaluation.episodes import Act, EpisodeRecord, StepLimit, batch, original, run_episodes
from sb3_metra.evaluation.rollout import shape_or_value


class GoalReacher:
    """
    A policy that goes to a goal without training: z points from phi(s) to phi(goal) (METRA paper, 5.4).

    It follows SB3's predictor protocol, so that ``evaluate_policy`` runs it. Its state is the skill it follows.

    :param model: the policy over states and skills
    :param encode: phi, from observations to (n, skill_dim), or (skill_dim,) for one observation; ``None``: the model's
    :param prior: p(z), which knows the skill of a direction; ``None``: the model's. If neither is given, a model with
        ``skill_toward(observation, goal)`` chooses the skill itself
    :param goals: the observation at the goal, or a batch of them, one for each environment
    :param hold: keep the skill chosen at an episode's start instead of choosing at every step
    :raises ValueError: if the goals are not observations, or the model has no phi
    """

    def __init__(
        self,
        model: SkillModel,
        encode: Encoder | None = None,
        prior: SkillPrior | None = None,
        goals: Any = None,
        hold: bool = False,
    ) -> None:
        self._toward = getattr(model, "skill_toward", None) if encode is None and prior is None else None
        self.model = model
        self.encode = check_encoder(require_encoder(model, "reaching goals") if encode is None else encode)
        self.prior = check_prior(require_prior(model) if prior is None else prior)
        self.hold = check_flag("hold", hold)
        self.goals = goals

    @property
    def goals(self) -> Any:
        """The goals; set them to send the policy elsewhere."""
        return self._goals

    @goals.setter
    def goals(self, goals: Any) -> None:
        try:
            self._goal_latents = np.asarray(self.encode(goals))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"goals must be observations, one or a batch of them: {error}") from error
        self._goals = goals

    def skills(self, observation: Any) -> np.ndarray:
        """
        The skills that lead to the goals.

        :param observation: one observation or a batch of n
        :return: (n, skill_dim), without the first axis for one observation and one goal
        :raises ValueError: if there are several goals, but not as many as observations
        """
        if self._toward is not None:
            try:
                return np.asarray(self._toward(observation, self._goals))
            except ValueError as error:
                raise ValueError(f"goals must be one, or one for each of the observations: {error}") from error
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
    The result of :func:`.evaluate_goals`: one episode for each of n goals.

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
        if not check_numbers("radii", radii, ndim=1).size:
            raise ValueError(f"radii must be a list of at least one distance, got {radii!r}")
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
    check_number("radius", radius)
    return np.array([(distances < radius).any() for distances in _distances(coordinates, goals)], dtype=bool)


def goal_staying_time(coordinates: Sequence[np.ndarray], goals: np.ndarray, radius: float = 3.0) -> np.ndarray:
    """
    Share of each episode's steps that end within a distance of its goal.

    :param coordinates: for each goal the agent's places, (T + 1, k)
    :param goals: (n, k)
    :param radius: distance within which a goal counts as reached
    :return: (n,), in [0, 1]
    """
    check_number("radius", radius)
    return np.array([(distances < radius).mean() for distances in _distances(coordinates, goals)])


def sample_goals(half_widths: Sequence[float], n: int = 50, rng: Random | None = None) -> np.ndarray:
    """
    Draw goals uniformly from a box about the origin.

    :param half_widths: how far the box reaches along each coordinate, such as ``env.metadata["goal_range"]``
    :param n: number of goals (CSF's authors: 50)
    :param rng: generator to draw with; ``None``: one with seed 0
    :return: (n, k)
    :raises ValueError: if a width is not finite and greater than 0, or n is no positive integer
    """
    check_count("n", n)
    widths = check_place("half_widths", half_widths)
    if (widths <= 0).any():
        raise ValueError(f"half_widths must be finite numbers greater than 0, got {half_widths!r}")
    if rng is not None and not hasattr(rng, "uniform"):
        raise ValueError(f"rng must be a generator of NumPy, got {rng!r}")
    rng = np.random.default_rng(0) if rng is None else rng
    return np.asarray(rng.uniform(-1.0, 1.0, (n, len(widths))) * widths)


def evaluate_goals(
    model: SkillModel,
    env: VecEnv | gym.Env,
    goals: np.ndarray,
    encode: Encoder | None = None,
    prior: SkillPrior | None = None,
    *,
    hold: bool = False,
    seed: int | None = 0,
    max_episode_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> GoalTrajectories:
    """
    Go to each goal for one whole, deterministic episode, in all environments at once.

    :param model: the policy over states and skills
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]`` and whose method
        ``goal_observation(goal)`` gives the observation at a place, or a goal environment, whose places are what is
        achieved; normalised as :func:`.rollout_skills` says
    :param goals: places, (n, k), such as :func:`sample_goals` or :func:`desired_goals` draws
    :param encode: phi; ``None``: the model's ``encode``
    :param prior: p(z); ``None``: the model's ``skill_prior``
    :param hold: keep the skill chosen at an episode's start (the paper: in Kitchen) instead of choosing at every step
    :param seed: of the environments' resets; ``None``: no seed
    :param max_episode_steps: as for :func:`.rollout_skills`
    :param progress: called with the number of goals that are done
    :return: goals and trajectories, whose ``metrics()`` are goal distance, success and staying time
    :raises ValueError: if goals are not a table of places, or the environment lacks something
    """
    try:
        places = np.asarray(goals, dtype=np.float64)
    except (TypeError, ValueError):
        places = np.empty(())
    if places.ndim != 2 or not places.size or not np.isfinite(places).all():
        raise ValueError(f"goals must be finite places of shape (n, k), got {shape_or_value(goals)}")

    def check(vec_env: VecEnv, _: Sequence[Any]) -> None:
        for info in vec_env.unwrapped.reset_infos if not has_goal(vec_env.observation_space) else []:
            if np.shape(info.get("coordinates", ())) != places.shape[1:]:
                raise ValueError(
                    f'goals must have as many coordinates as info["coordinates"] of env, got {places.shape[1]} and '
                    f"{info.get('coordinates')}"
                )

    reacher = _Journey(model, encode, prior, hold, check)
    records = reacher.go(env, list(places), seed, max_episode_steps, progress)
    return GoalTrajectories(places, [np.asarray(record.coordinates) for record in records])


def evaluate_task_goals(
    model: SkillModel,
    env: VecEnv | gym.Env,
    tasks: Sequence[str],
    encode: Encoder | None = None,
    prior: SkillPrior | None = None,
    *,
    hold: bool = True,
    seed: int | None = 0,
    max_episode_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """
    As :func:`.evaluate_goals` if goals are named tasks, as in Kitchen.

    :param model: the policy over states and skills
    :param env: an environment, or a vectorised one, that reports ``info["tasks"]``, which of them an episode has
        achieved so far, and whose method ``goal_observation(task)`` gives the observation with a task done
    :param tasks: the task of each episode, n of them
    :param encode: phi; ``None``: the model's ``encode``
    :param prior: p(z); ``None``: the model's ``skill_prior``
    :param hold: keep the skill chosen at an episode's start, as the paper does, instead of choosing at every step
    :param seed: of the environments' resets; ``None``: no seed
    :param max_episode_steps: as for :func:`.rollout_skills`
    :param progress: called with the number of episodes that are done
    :return: whether each episode achieved its task, (n,)
    :raises ValueError: if the environment lacks something, or a task is unknown
    """
    named = isinstance(tasks, Sequence) and all(isinstance(task, str) for task in tasks)
    if isinstance(tasks, str) or not named or not tasks:
        raise ValueError(f"tasks must be a list of at least one task's name, got {tasks!r}")

    def check(vec_env: VecEnv, chunk: Sequence[Any]) -> None:
        known = vec_env.unwrapped.reset_infos[0].get("tasks", {})
        if not known.keys() >= set(chunk):
            raise ValueError(f'tasks must be among info["tasks"] of env, {list(known)}, got {chunk}')

    reacher = _Journey(model, encode, prior, hold, check)
    records = reacher.go(env, list(tasks), seed, max_episode_steps, progress)
    return np.array([record.tasks[task] for record, task in zip(records, tasks, strict=True)], dtype=bool)


@dataclass
class _Journey:
    """
    Episodes towards goals, some at once.

    :param model: the policy
    :param encode: phi; ``None``: the model's
    :param prior: p(z); ``None``: the model's
    :param hold: keep the skill of an episode's start
    :param check: refuses goals, after a reset
    """

    model: SkillModel
    encode: Encoder | None
    prior: SkillPrior | None
    hold: bool
    check: Callable[[VecEnv, Sequence[Any]], None]

    def __post_init__(self) -> None:
        check_flag("hold", self.hold)
        if self.encode is None:
            require_encoder(self.model, "reaching goals")
        else:
            check_encoder(self.encode)
        if self.prior is None:
            require_prior(self.model)
        else:
            check_prior(self.prior)

    def go(
        self,
        env: VecEnv | gym.Env,
        goals: list[Any],
        seed: int | None,
        max_episode_steps: int | None,
        progress: Callable[[int], None] | None,
    ) -> list[EpisodeRecord]:
        """One episode towards each goal."""
        seed, given = check_seed("seed", seed), as_vec_env(env)
        if not given.has_attr("goal_observation") and not has_goal(given.observation_space):
            raise ValueError(
                "env must have a method goal_observation(goal), or be a goal environment with the observations "
                f"observation, achieved_goal and desired_goal, got one without: {given.observation_space}"
            )
        limit = StepLimit(given, max_episode_steps)
        records: list[EpisodeRecord] = []
        with as_learnt(self.model, given) as vec_env:
            if seed is not None:
                vec_env.seed(seed)
            for start in range(0, len(goals), vec_env.num_envs):
                chunk = goals[start : start + vec_env.num_envs]
                records += run_episodes(self._towards(vec_env, chunk), vec_env, len(chunk), limit)
                if progress is not None:
                    progress(len(records))
        return records

    def _towards(self, env: VecEnv, goals: list[Any]) -> Act:
        """What acts in one episode; goals are seen once the environments are reset."""
        reacher: GoalReacher | None = None

        def act(observation: Any, skills: Any) -> tuple[np.ndarray, Any]:
            nonlocal reacher
            if reacher is None:
                self.check(env, goals)
                seen = _goal_observations(env, goals, observation)
                reacher = GoalReacher(self.model, self.encode, self.prior, seen, self.hold)
            return reacher.predict(observation, skills, deterministic=True)

        return act


def desired_goals(env: VecEnv | gym.Env, n: int = 50, seed: int | None = 0) -> np.ndarray:
    """
    Goals that a goal environment asks for, one for each reset.

    :param env: an environment, or a vectorised one, with observations of the keys ``observation``, ``achieved_goal``
        and ``desired_goal``
    :param n: number of goals
    :param seed: of the resets; ``None``: no seed
    :return: (n, k)
    :raises ValueError: if it is no goal environment
    """
    check_count("n", n)
    vec_env = as_vec_env(env)
    if not has_goal(vec_env.observation_space):
        raise ValueError(f"env must be a goal environment, got observations in {vec_env.observation_space}")
    if check_seed("seed", seed) is not None:
        vec_env.seed(seed)
    drawn = [original(vec_env.reset(), vec_env)[DESIRED].copy() for _ in range(-(-n // vec_env.num_envs))]
    return np.concatenate(drawn)[:n].astype(np.float64)


def _goal_observations(env: VecEnv, goals: list[Any], observation: Any) -> Any:
    """Observations at the goals, one for each environment; spare environments follow the first."""
    padded = goals + goals[:1] * (env.num_envs - len(goals))
    if env.has_attr("goal_observation"):
        seen = batch([env.env_method("goal_observation", goal, indices=[i])[0] for i, goal in enumerate(padded)])
    else:
        here = original(observation, env)
        seen = batch([at_goal({key: x[i] for key, x in here.items()}, goal) for i, goal in enumerate(padded)])
    normalizer = unwrap_vec_normalize(env)
    return seen if normalizer is None else normalizer.normalize_obs(seen)


def _distances(coordinates: Sequence[np.ndarray], goals: np.ndarray) -> list[np.ndarray]:
    """For each goal the distance after every step, (T,)."""
    if np.ndim(goals) != 2 or not len(goals):
        raise ValueError(f"goals must be places of shape (n, k), got shape {np.shape(goals)}")
    goals = check_numbers("goals", goals)
    if isinstance(coordinates, str) or not isinstance(coordinates, Sequence | np.ndarray):
        raise ValueError(f"coordinates must hold one trajectory for each goal, got {coordinates!r}")
    if len(coordinates) != len(goals):
        raise ValueError(
            f"coordinates must hold one trajectory for each of the {len(goals)} goals, got {len(coordinates)}"
        )
    paths = [check_numbers("coordinates", places) for places in coordinates]
    for places in paths:
        if places.ndim != 2 or len(places) < 2 or places.shape[1] != goals.shape[1]:
            raise ValueError(
                f"coordinates must each have shape (T + 1, {goals.shape[1]}) with T >= 1, got {places.shape}"
            )
    return [np.linalg.norm(places[1:] - goal, axis=1) for places, goal in zip(paths, goals, strict=True)]
