"""Coverage, the paper's metric of a repertoire: how many cells, or tasks, its episodes reach."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.rollout import SkillPredictor, SkillTrajectory, rollout_skills


def cells(
    coordinates: np.ndarray, cell_size: float | Sequence[float] = 1.0, columns: Sequence[int] | None = None
) -> np.ndarray:
    """
    The cell of each place, ``floor(coordinates / cell_size)``.

    :param coordinates: places, (n, k)
    :param cell_size: edge of a cell in the environment's unit (the paper: 1), or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    :return: (n, number of columns), int64
    :raises ValueError: where there are no coordinates, they are not finite, or an argument does not fit them
    """
    places = np.asarray(coordinates, dtype=np.float64)
    if places.ndim != 2 or not len(places):
        raise ValueError(
            f"coordinates must have shape (T + 1, k) for each trajectory, got {places.shape}; the environment has "
            'to report them as info["coordinates"] at every step and at the reset'
        )
    if columns is not None:
        if not columns or not all(0 <= column < places.shape[1] for column in columns):
            raise ValueError(f"columns must be among 0 to {places.shape[1] - 1}, got {list(columns)}")
        places = places[:, list(columns)]
    edges = np.asarray(cell_size, dtype=np.float64)
    if not np.isfinite(edges).all() or (edges <= 0).any():
        raise ValueError(f"cell_size must be a finite number greater than 0, got {cell_size!r}")
    if edges.ndim > 1 or edges.size not in (1, places.shape[1]):
        raise ValueError(f"cell_size must be one number or {places.shape[1]}, one a coordinate, got {cell_size!r}")
    if not np.isfinite(places).all():
        raise ValueError("coordinates must be finite, got NaN or infinity")
    return np.floor(places / edges).astype(np.int64)


def state_coverage(
    coordinates: Iterable[np.ndarray],
    cell_size: float | Sequence[float] = 1.0,
    columns: Sequence[int] | None = None,
) -> int:
    """
    Number of distinct cells that trajectories visit.

    :param coordinates: for each trajectory its places, first and final state included, (T + 1, k)
    :param cell_size: edge of a cell in the environment's unit (the paper: 1), or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    :raises ValueError: where a trajectory has no coordinates, or they are not finite
    """
    for edge in np.ravel(cell_size).tolist():
        cells(np.zeros((1, 1)), edge)  # a bad size is refused without trajectories, too
    visited = [cells(places, cell_size, columns) for places in coordinates]
    return len(np.unique(np.concatenate(visited), axis=0)) if visited else 0


def policy_state_coverage(
    model: SkillPredictor,
    env: VecEnv | gym.Env,
    prior: SkillPrior,
    n_skills: int = 48,
    seed: int | None = 0,
    cell_size: float | Sequence[float] = 1.0,
) -> int:
    """
    Cells visited by one deterministic episode for each of ``n_skills`` skills (METRA paper, appendix on metrics):
    skills drawn from p(z), or spread evenly where they are discrete.

    :param model: the policy
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]``
    :param prior: p(z), an algorithm's ``skill_prior``
    :param n_skills: number of skills
    :param seed: of the skills and of the environments' resets; ``None`` for another at every call
    :param cell_size: edge of a cell in the environment's unit, or one for each coordinate
    """
    skills = prior.evaluation_skills(n_skills, np.random.default_rng(seed))
    trajectories = rollout_skills(model, env, skills, seed=seed)
    return state_coverage((trajectory.coordinates for trajectory in trajectories), cell_size)


def achieved_tasks(trajectories: Iterable[SkillTrajectory]) -> list[str]:
    """
    Which of the environment's tasks at least one episode achieves.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :return: names, in the environment's order
    :raises ValueError: where the environment reports no tasks
    """
    trajectories = list(trajectories)
    if not trajectories or not all(trajectory.tasks for trajectory in trajectories):
        raise ValueError('trajectories must have tasks, got none: the environment reports no info["tasks"]')
    return [name for name in trajectories[0].tasks if any(t.tasks[name] for t in trajectories)]


def task_coverage(trajectories: Iterable[SkillTrajectory]) -> int:
    """
    How many of the environment's tasks at least one episode achieves: the paper's metric in Kitchen.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :raises ValueError: where the environment reports no tasks
    """
    return len(achieved_tasks(trajectories))


class VisitCounter:
    """
    How many distinct things episodes reach: all episodes so far, and the most recent ones.

    Each thing is kept once, and each recent episode keeps references to those it reached.

    :param n_envs: number of episodes that run at the same time
    :param queue_episodes: how many ended episodes count as recent, beside those under way
    """

    def __init__(self, n_envs: int, queue_episodes: int) -> None:
        if queue_episodes < 1:
            raise ValueError(f"queue_episodes must be at least 1, got {queue_episodes}")
        self._recent: dict[Hashable, int] = {}  # in how many recent episodes each thing is
        self._running: list[dict[Hashable, None] | None] = [None] * n_envs
        self._ended: deque[tuple[Hashable, ...]] = deque()
        self._queue_episodes = queue_episodes
        self.queue = 0

    @property
    def total(self) -> int:
        """Distinct things that any episode has reached."""
        return len(self._recent)

    def begin(self, index: int) -> None:
        """
        An episode of one environment begins, and the one before it has ended.

        :param index: of the environment
        """
        ended, self._running[index] = self._running[index], {}
        if ended is not None:
            self._ended.append(tuple(ended))
        while len(self._ended) > self._queue_episodes:
            for thing in self._ended.popleft():
                self._recent[thing] -= 1
                self.queue -= self._recent[thing] == 0

    def visit(self, index: int, thing: Hashable) -> None:
        """
        The episode of one environment reaches something.

        :param index: of the environment
        :param thing: what it reaches
        """
        reached = self._running[index]
        assert reached is not None, "an episode begins before it reaches anything"
        if thing not in reached:
            reached[thing] = None
            count = self._recent.get(thing, 0)
            self._recent[thing] = count + 1
            self.queue += count == 0


class CoverageTracker:
    """
    Coverage of the episodes of training, fed step by step from the infos of vectorised environments.

    ``total_state_coverage`` counts the cells of all episodes so far, ``queue_state_coverage`` those of the most recent
    ones; ``total_task_coverage`` and ``queue_task_coverage`` the tasks.

    :param n_envs: number of environments
    :param cell_size: edge of a cell in the environment's unit, or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    :param queue_episodes: how many ended episodes count as recent, beside those under way
    """

    def __init__(
        self,
        n_envs: int,
        cell_size: float | Sequence[float] = 1.0,
        columns: Sequence[int] | None = None,
        queue_episodes: int = 1000,
    ) -> None:
        self.cell_size = cell_size
        self.columns = columns
        self._counters = {name: VisitCounter(n_envs, queue_episodes) for name in ("state", "task")}
        self._seen: set[str] = set()

    def reset(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """
        New episodes begin in all environments.

        :param infos: of the reset, a vectorised environment's ``reset_infos``
        """
        for index, info in enumerate(infos):
            self._begin(index, info)

    def step(
        self, infos: Sequence[Mapping[str, Any]], dones: Sequence[bool] | np.ndarray, resets: Sequence[Mapping]
    ) -> None:
        """
        One step of all environments. Where an episode ends, the step's info is that of its last state, and the next
        episode has begun already.

        :param infos: of the step
        :param dones: where an episode ended
        :param resets: of the resets that followed, a vectorised environment's ``reset_infos``; read where one ended
        """
        places = [info["coordinates"] for info in infos if "coordinates" in info]
        if len(places) == len(infos):
            self._seen.add("state")
            for index, cell in enumerate(cells(np.stack(places), self.cell_size, self.columns).tolist()):
                self._counters["state"].visit(index, tuple(cell))
        for index, (info, done) in enumerate(zip(infos, dones, strict=True)):
            self._visit_tasks(index, info)
            if done:
                self._begin(index, resets[index])

    def _begin(self, index: int, info: Mapping[str, Any]) -> None:
        for counter in self._counters.values():
            counter.begin(index)
        if "coordinates" in info:
            self._seen.add("state")
            (cell,) = cells(np.asarray(info["coordinates"])[None], self.cell_size, self.columns).tolist()
            self._counters["state"].visit(index, tuple(cell))

    def _visit_tasks(self, index: int, info: Mapping[str, Any]) -> None:
        for name, achieved in info.get("tasks", {}).items():
            self._seen.add("task")
            if achieved:
                self._counters["task"].visit(index, name)

    def metrics(self) -> dict[str, int]:
        """Coverage by name; what the environments do not report is left out."""
        return {
            f"{which}_{name}_coverage": getattr(counter, which)
            for name, counter in self._counters.items()
            if name in self._seen
            for which in ("total", "queue")
        }
