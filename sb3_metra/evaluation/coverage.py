"""Coverage, the paper's metric of a repertoire: how many cells, or tasks, its episodes reach."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_count, check_number, check_seed, check_tasks
from sb3_metra.common.skill_model import SkillModel, check_prior
from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.rollout import SkillTrajectory, check_trajectories, rollout_skills


def cells(
    coordinates: np.ndarray, cell_size: float | Sequence[float] = 1.0, columns: Sequence[int] | None = None
) -> np.ndarray:
    """
    The cell of each place, ``floor(coordinates / cell_size)``.

    :param coordinates: places, (n, k)
    :param cell_size: edge of a cell in the environment's unit (the paper: 1), or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    :return: (n, number of columns), int64
    :raises ValueError: if there are no coordinates, they are not finite, or an argument does not fit them
    """
    places = np.asarray(coordinates)
    if places.ndim != 2 or not len(places) or places.dtype.kind not in "biuf":
        raise ValueError(
            f"coordinates must have shape (T + 1, k) for each trajectory, got {places.shape}; the environment must "
            'report info["coordinates"] at the reset and at every step'
        )
    check_grid(cell_size, columns)
    if not np.isfinite(places).all():
        raise ValueError("coordinates must be finite, got NaN or infinity")
    return _cells(places.astype(np.float64), cell_size, columns)


def _cells(places: np.ndarray, cell_size: float | Sequence[float], columns: Sequence[int] | None) -> np.ndarray:
    """:func:`cells` of finite places, with what is known to be a grid."""
    if columns is not None:
        if max(columns) >= places.shape[1]:
            raise ValueError(f"columns must be among 0 to {places.shape[1] - 1}, got {list(columns)}")
        places = places[:, list(columns)]
    edges = np.asarray(cell_size, dtype=np.float64)
    if edges.size not in (1, places.shape[1]):
        raise ValueError(
            f"cell_size must be one number or {places.shape[1]}, one for each coordinate, got {cell_size!r}"
        )
    return np.floor(places / edges).astype(np.int64)


def check_grid(cell_size: Any, columns: Any, names: tuple[str, str] = ("cell_size", "columns")) -> None:
    """
    Refuse wrong cells before there are places.

    :param cell_size: edge of a cell, or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    :param names: of the two arguments
    :raises ValueError: if an edge is not finite and greater than 0, or a column is no number
    """
    edges = [cell_size] if np.ndim(cell_size) == 0 else cell_size
    for edge in edges:
        check_number(names[0], edge)
    if np.ndim(cell_size) > 1 or not len(edges):
        raise ValueError(f"{names[0]} must be one number, or one for each coordinate, got {cell_size!r}")
    if columns is None:
        return
    if isinstance(columns, str) or np.ndim(columns) != 1 or not len(columns):
        raise ValueError(f"{names[1]} must be the numbers of at least one coordinate, got {columns!r}")
    for column in columns:
        check_count(names[1], column, low=0)
    if len(edges) not in (1, len(columns)):
        raise ValueError(f"{names[0]} must be one number or {len(columns)}, one for each coordinate, got {cell_size!r}")


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
    :raises ValueError: if a trajectory has no coordinates, or they are not finite
    """
    check_grid(cell_size, columns)
    if isinstance(coordinates, str) or not isinstance(coordinates, Iterable):
        raise ValueError(f"coordinates must be one array for each trajectory, got {coordinates!r}")
    visited = [cells(places, cell_size, columns) for places in coordinates]
    return len(np.unique(np.concatenate(visited), axis=0)) if visited else 0


def policy_state_coverage(
    model: SkillModel,
    env: VecEnv | gym.Env,
    prior: SkillPrior,
    n_skills: int = 48,
    seed: int | None = 0,
    cell_size: float | Sequence[float] = 1.0,
    max_episode_steps: int | None = None,
) -> int:
    """
    Cells visited by one deterministic episode for each of ``n_skills`` skills (METRA paper, appendix on metrics):
    skills drawn from p(z), or spread evenly if they are discrete.

    :param model: the policy
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]``
    :param prior: p(z), an algorithm's ``skill_prior``
    :param n_skills: number of skills
    :param seed: of the skills and of the environments' resets; ``None`` for another at every call
    :param cell_size: edge of a cell in the environment's unit, or one for each coordinate
    :param max_episode_steps: as for :func:`.rollout_skills`
    """
    check_grid(cell_size, None)
    skills = draw_skills(prior, n_skills, seed)
    trajectories = rollout_skills(model, env, skills, seed=seed, max_episode_steps=max_episode_steps)
    return state_coverage((trajectory.coordinates for trajectory in trajectories), cell_size)


def draw_skills(prior: SkillPrior, n_skills: int, seed: int | None) -> np.ndarray:
    """
    The skills that a repertoire is judged by.

    :param prior: p(z)
    :param n_skills: how many
    :param seed: of the draw; ``None`` for another at every call
    :return: (n_skills, skill_dim)
    :raises ValueError: if the number or the seed is wrong
    """
    check_count("n_skills", n_skills)
    return check_prior(prior).evaluation_skills(n_skills, np.random.default_rng(check_seed("seed", seed)))


def achieved_tasks(trajectories: Sequence[SkillTrajectory] | Iterator[SkillTrajectory]) -> list[str]:
    """
    Which of the environment's tasks at least one episode achieves.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :return: names, in the environment's order
    :raises ValueError: if the environment reports no tasks
    """
    trajectories = list(trajectories) if isinstance(trajectories, Iterator) else trajectories
    check_trajectories(trajectories)
    if not all(trajectory.tasks for trajectory in trajectories):
        raise ValueError('trajectories must have tasks, got none: the environment reports no info["tasks"]')
    return [name for name in trajectories[0].tasks if any(t.tasks[name] for t in trajectories)]


def task_coverage(trajectories: Sequence[SkillTrajectory] | Iterator[SkillTrajectory]) -> int:
    """
    How many of the environment's tasks at least one episode achieves: the paper's metric in Kitchen.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :raises ValueError: if the environment reports no tasks
    """
    return len(achieved_tasks(trajectories))


class VisitCounter:
    """
    How many distinct things episodes reach: all episodes so far, and the most recent ones.

    Each thing is kept once, and each recent episode keeps references to those it reached.

    :param n_envs: number of episodes that run at the same time
    :param queue_episodes: number of ended episodes that count as recent, beside the running ones
    """

    def __init__(self, n_envs: int, queue_episodes: int) -> None:
        check_count("n_envs", n_envs)
        check_count("queue_episodes", queue_episodes)
        self._recent: dict[Hashable, int] = {}  # in how many recent episodes each thing is
        self._running: list[dict[Hashable, None] | None] = [None] * n_envs
        self._ended: deque[tuple[Hashable, ...]] = deque()
        self._queue_episodes = queue_episodes
        self.queue = 0

    @property
    def total(self) -> int:
        """Distinct things that any episode has reached."""
        return len(self._recent)

    def get_state(self) -> dict[str, Any]:
        """What was reached, as plain values."""
        things = list(self._recent)
        number = {thing: i for i, thing in enumerate(things)}
        return {
            "things": [list(thing) if isinstance(thing, tuple) else thing for thing in things],
            "recent": list(self._recent.values()),
            "running": [None if episode is None else [number[thing] for thing in episode] for episode in self._running],
            "ended": [[number[thing] for thing in episode] for episode in self._ended],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Restore what was reached.

        :param state: what :meth:`get_state` returned, also after it was JSON
        """
        things = [tuple(thing) if isinstance(thing, list) else thing for thing in state["things"]]
        self._recent = dict(zip(things, state["recent"], strict=True))
        self._running = [None if steps is None else {things[i]: None for i in steps} for steps in state["running"]]
        self._ended = deque(tuple(things[i] for i in episode) for episode in state["ended"])
        self.queue = sum(count > 0 for count in state["recent"])

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
    :param queue_episodes: number of ended episodes that count as recent, beside the running ones
    """

    def __init__(
        self,
        n_envs: int,
        cell_size: float | Sequence[float] = 1.0,
        columns: Sequence[int] | None = None,
        queue_episodes: int = 1000,
    ) -> None:
        check_grid(cell_size, columns)
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
        One step of all environments. If an episode ends, the step's info is that of its last state, and the next
        episode has already begun.

        :param infos: of the step
        :param dones: where an episode ended
        :param resets: of the resets that followed, a vectorised environment's ``reset_infos``; read where one ended
        """
        told = sum("coordinates" in info for info in infos)
        if told not in (0, len(infos)) or (not told and "state" in self._seen):
            raise ValueError(
                f'info["coordinates"] must be reported at the reset and at every step, or never, got {told} of '
                f"{len(infos)} at one step"
            )
        if told:
            self._seen.add("state")
            for index, cell in enumerate(self._cells([info["coordinates"] for info in infos])):
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
            (cell,) = self._cells([info["coordinates"]])
            self._counters["state"].visit(index, tuple(cell))

    def _cells(self, places: list[Any]) -> list[list[int]]:
        try:
            table = np.array(places, dtype=np.float64)
        except (TypeError, ValueError):
            table = np.empty(0)
        if table.ndim != 2 or not np.isfinite(table).all():
            raise ValueError(
                'info["coordinates"] must be finite numbers of shape (k,), such as [x, y], the same k in every '
                f"environment, got {places[:4]}"
            )
        return _cells(table, self.cell_size, self.columns).tolist()

    def _visit_tasks(self, index: int, info: Mapping[str, Any]) -> None:
        if "tasks" not in info:
            return
        for name, achieved in check_tasks('info["tasks"]', info["tasks"]).items():
            self._seen.add("task")
            if achieved:
                self._counters["task"].visit(index, name)

    def get_state(self) -> dict[str, Any]:
        """What was counted, as plain values."""
        return {"seen": sorted(self._seen), **{name: counter.get_state() for name, counter in self._counters.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Restore what was counted, in the middle of the same episodes.

        :param state: what :meth:`get_state` returned, also after it was JSON
        """
        self._seen = set(state["seen"])
        for name, counter in self._counters.items():
            counter.set_state(state[name])

    def metrics(self) -> dict[str, int]:
        """Coverage by name; what the environments do not report is left out."""
        return {
            f"{which}_{name}_coverage": getattr(counter, which)
            for name, counter in self._counters.items()
            if name in self._seen
            for which in ("total", "queue")
        }
