"""Every public function of evaluation and of downstream tasks answers bad input at once, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_metra import downstream, evaluation
from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.downstream import tasks
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation import (
    aggregate,
    callbacks,
    coverage,
    faithfulness,
    goals,
    metrics,
    plotting,
    report,
    rollout,
    runs,
    video,
)
from sb3_metra.evaluation.skills import skill_angles
from tests.toys import Chores, Follower, goal_points, tiny_model

NAN, INF = math.nan, math.inf
ENVS = [None, 3, "sb3_metra/PointMass-v0", PointMassEnv, gym.vector.SyncVectorEnv([PointMassEnv])]
MODELS = [None, 3, "model.zip", PointMassEnv()]
PRIORS = [None, 2, "sphere", SpherePrior]
COUNTS = [0, -1, 2.5, NAN, INF, "3", None, True, [1]]
LIMITS = [count for count in COUNTS if count is not None]  # where None means that there is none
NUMBERS = [0, -1.0, NAN, INF, "1", None, True]
SEEDS = [-1, 2.5, "1", 2**40, NAN, True]
FLAGS = ["no", "false", None, 2, 0.5]
CELLS = [0, -1.0, NAN, INF, "1", None, [], [1.0, -1.0], [[1.0]], [1.0, 1.0, 1.0]]
COLUMNS = [[], [-1], [0.5], ["x"], "0", 0, [9], [[0]], [True]]
EARLY_COLUMNS = [columns for columns in COLUMNS if columns != [9]]  # what can be known before there is a place
THEMES = ["blue", None, 3, "Light"]
PATHS = [3, "", None]
PICTURES = [3, "", "picture", "picture.docx", "/proc/1/picture.png"]
TRAJECTORIES = [[], None, 3, "trajectories", [None], [np.zeros((3, 2))]]
SKILLS = [
    None,
    3,
    "skills",
    np.ones(2),
    np.ones((2, 3)),
    np.zeros((0, 2)),
    np.full((1, 2), NAN),
    np.array([[3.0, 4.0]]),  # of norm 5
    [["a", "b"]],
]
ACTIONS = ["north", None, [NAN, 1.0], [INF, 0.0], np.zeros(3), 1.0]


class Walker(Follower):
    """Follows skills on the plane, and its phi is the place."""

    def encode(self, observation: Any) -> np.ndarray:
        return np.asarray(observation, dtype=np.float64)


def model(prior: Any = None) -> Walker:
    return Walker(PointMassEnv(), SpherePrior(2) if prior is None else prior)


def discrete() -> Walker:
    return model(OneHotPrior(2))


def env(n: int = 1, **kwargs: Any) -> Any:
    return goal_points(n, 6, **kwargs)


def trajectories(n: int = 2, **kwargs: Any) -> list[Any]:
    return rollout.rollout_skills(model(), env(**kwargs), np.eye(2, dtype=np.float32)[:n], seed=0)


def filmed() -> list[Any]:
    pictures = {"render_mode": "rgb_array", "width": 16, "height": 16}
    return rollout.rollout_skills(model(), env(**pictures), np.eye(2, dtype=np.float32), seed=0, frames=True)


def chores() -> Any:
    return gym.wrappers.TimeLimit(Chores(), 6)


def point_task() -> Any:
    return gym.wrappers.TimeLimit(tasks.GoalTask(PointMassEnv(), 5.0, 1.0), 6)


TINY_MODEL = tiny_model(goal_points(1))
PHI = [np.cumsum(np.ones((4, 2)), axis=0)]
STARTED = {"model": model, "env": env}
ENCODERS = [3, "phi"]
COORDINATES = [np.zeros((3, 2)), np.ones((3, 2))]
GOALS = np.ones((2, 2))
CURVES = {"metra": [(np.arange(3.0), np.arange(3.0))]}
CURVE_TABLES = [
    {"metra": []},
    {"metra": [(np.zeros(2), np.zeros(3))]},
    {"metra": [(np.zeros(2), np.full(2, NAN))]},
    {"metra": [3]},
    {},
    3,
    None,
]
PLACES = [
    3,
    None,
    "here",
    np.zeros(2),
    np.zeros((0, 2)),
    np.full((1, 2), NAN),
    np.full((1, 2), INF),
    [["a", "b"]],
    np.zeros((1, 3)),
]

TABLE: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]] = {
    "rollout_skills": (
        evaluation.rollout_skills,
        STARTED | {"skills": np.eye(2)},
        {
            "model": [model(SpherePrior(3))],
            "env": [*ENVS, gym.make("Pendulum-v1")],
            "skills": SKILLS,
            "deterministic": FLAGS,
            "frames": [*FLAGS, True],
            "seed": SEEDS,
            "max_episode_steps": LIMITS,
            "progress_bar": FLAGS,
        },
    ),
    "evaluate_skills": (
        evaluation.evaluate_skills,
        STARTED,
        {
            "model": MODELS,
            "env": ENVS,
            "n_skills": COUNTS,
            "seed": SEEDS,
            "phi": FLAGS,
            "max_episode_steps": LIMITS,
            "progress_bar": FLAGS,
            "cell_size": CELLS,
            "columns": COLUMNS,
            "constraint_norm": ["max", 2],
        },
    ),
    "policy_state_coverage": (
        evaluation.policy_state_coverage,
        STARTED | {"prior": SpherePrior(2)},
        {
            "env": ENVS,
            "prior": PRIORS,
            "n_skills": COUNTS,
            "seed": SEEDS,
            "cell_size": CELLS,
            "max_episode_steps": LIMITS,
        },
    ),
    "judged_by": (metrics.judged_by, STARTED, {"model": MODELS, "env": ENVS}),
    "skill_metrics": (
        evaluation.skill_metrics,
        {"trajectories": trajectories, "prior": SpherePrior(2), "encode": np.asarray},
        {
            "trajectories": TRAJECTORIES,
            "prior": PRIORS[1:],
            "encode": ENCODERS,
            "cell_size": CELLS,
            "columns": COLUMNS,
            "constraint_norm": ["max", None],
        },
    ),
    "skill_table": (
        evaluation.skill_table,
        {"trajectories": trajectories, "prior": SpherePrior(2), "encode": np.asarray},
        {
            "trajectories": TRAJECTORIES,
            "prior": PRIORS[1:],
            "encode": ENCODERS,
            "cell_size": CELLS,
            "columns": COLUMNS,
        },
    ),
    "cells": (
        coverage.cells,
        {"coordinates": np.zeros((3, 2))},
        {"coordinates": [*PLACES[:7], "places"], "cell_size": CELLS, "columns": COLUMNS},
    ),
    "state_coverage": (
        evaluation.state_coverage,
        {"coordinates": COORDINATES},
        {
            "coordinates": [3, None, [np.zeros(2)], [np.full((1, 2), NAN)], [3], ["here"]],
            "cell_size": CELLS,
            "columns": COLUMNS,
        },
    ),
    "achieved_tasks": (evaluation.achieved_tasks, {}, {"trajectories": [*TRAJECTORIES, trajectories]}),
    "task_coverage": (evaluation.task_coverage, {}, {"trajectories": [*TRAJECTORIES, trajectories]}),
    "CoverageTracker": (
        evaluation.CoverageTracker,
        {"n_envs": 1},
        {"n_envs": COUNTS, "cell_size": CELLS[:9], "columns": EARLY_COLUMNS, "queue_episodes": COUNTS},
    ),
    "SkillEvalCallback": (
        evaluation.SkillEvalCallback,
        {"eval_env": env},
        {
            "eval_env": ENVS,
            "eval_freq": COUNTS,
            "n_skills": COUNTS,
            "seed": SEEDS,
            "cell_size": CELLS[:9],
            "best_model_save_path": [3, "", "/proc/1/models", __file__],
            "columns": EARLY_COLUMNS,
            "max_episode_steps": LIMITS,
            "queue_episodes": COUNTS,
            "figures": FLAGS,
            "video_skills": [-1, 2.5, "2", None, 2],
            "video_fps": NUMBERS,
        },
    ),
    "share_environment": (callbacks.share_environment, {"first": env, "second": env}, {}),
    "skills_to_show": (
        evaluation.skills_to_show,
        {"prior": SpherePrior(3)},
        {"prior": PRIORS, "n": LIMITS, "seed": SEEDS},
    ),
    "sample_goals": (
        evaluation.sample_goals,
        {"half_widths": (5.0, 5.0)},
        {"half_widths": [3, (), None, (0.0,), (-1.0,), (NAN,), (INF,), "55", [[1.0]]], "n": COUNTS, "rng": [3, "rng"]},
    ),
    "evaluate_goals": (
        evaluation.evaluate_goals,
        STARTED | {"goals": GOALS},
        {
            "model": MODELS,
            "env": [*ENVS, chores()],
            "goals": PLACES,
            "encode": ENCODERS,
            "prior": PRIORS[1:],
            "hold": FLAGS,
            "seed": SEEDS,
            "max_episode_steps": LIMITS,
        },
    ),
    "evaluate_task_goals": (
        goals.evaluate_task_goals,
        {"model": model, "env": chores, "tasks": ["east"]},
        {
            "model": MODELS,
            "env": [*ENVS, env()],
            "tasks": ["east", [], None, 3, ["west"], [3], [[]]],
            "hold": FLAGS,
            "seed": SEEDS,
            "max_episode_steps": LIMITS,
        },
    ),
    "GoalReacher": (
        evaluation.GoalReacher,
        {"model": TINY_MODEL, "encode": TINY_MODEL.encode, "prior": SpherePrior(2), "goals": np.zeros(2, np.float32)},
        {
            "goals": [None, 3, "there", np.zeros(5), np.full(2, NAN), np.full(2, INF)],
            "prior": PRIORS[1:],
            "hold": FLAGS,
        },
    ),
    "GoalTrajectories.metrics": (
        goals.GoalTrajectories(GOALS, COORDINATES).metrics,
        {},
        {"radii": [(), (0.0,), (-1.0,), (NAN,), "3", ("3",), None, 3.0]},
    ),
    **{
        name: (
            getattr(goals, name),
            {"coordinates": COORDINATES, "goals": GOALS},
            {
                "coordinates": [3, None, COORDINATES[:1], [np.zeros((3, 1))] * 2, [np.zeros((1, 2))] * 2, ["a", "b"]],
                "goals": [3, None, np.ones(2), np.ones((3, 2)), [["a", "b"]] * 2, np.full((2, 2), NAN)],
                **({} if name == "goal_distance" else {"radius": NUMBERS}),
            },
        )
        for name in ("goal_distance", "goal_success", "goal_staying_time")
    },
    "encode_trajectories": (
        faithfulness.encode_trajectories,
        {"trajectories": trajectories, "encode": np.asarray},
        {"trajectories": TRAJECTORIES, "encode": [*ENCODERS, None]},
    ),
    "displacement_cosine": (
        faithfulness.displacement_cosine,
        {"trajectories": trajectories, "encode": np.asarray, "prior": SpherePrior(2)},
        {"trajectories": TRAJECTORIES, "encode": [*ENCODERS, None], "prior": [*PRIORS, SpherePrior(3)]},
    ),
    "path_cosine": (
        faithfulness.path_cosine,
        {"paths": PHI, "skills": [np.eye(2)[0]], "prior": SpherePrior(2)},
        {"paths": [[], [np.zeros(3)], [np.zeros((1, 2))], 3, None, [np.zeros((3, 5))]], "prior": PRIORS},
    ),
    "constraint_violation": (
        faithfulness.constraint_violation,
        {"paths": PHI},
        {"paths": [[], [np.zeros(3)], [np.zeros((1, 2))], 3, None], "norm": ["max", None]},
    ),
    "temporal_correlation": (
        faithfulness.temporal_correlation,
        {"paths": PHI},
        {
            "paths": [[], [np.zeros(3)], [np.zeros((1, 2))], 3, None],
            "method": ["kendall", None],
            "max_pairs": COUNTS,
            "seed": SEEDS,
        },
    ),
    "plot_trajectories": (
        plotting.plot_trajectories,
        {"trajectories": trajectories},
        {"trajectories": TRAJECTORIES, "path": PICTURES, "columns": COLUMNS, "theme": THEMES},
    ),
    "plot_small_multiples": (
        plotting.plot_small_multiples,
        {"trajectories": trajectories},
        {"trajectories": TRAJECTORIES, "path": PICTURES, "columns": COLUMNS, "theme": THEMES},
    ),
    "plot_phi": (
        plotting.plot_phi,
        {"trajectories": trajectories, "encode": np.asarray},
        {
            "trajectories": TRAJECTORIES,
            "encode": [*ENCODERS, None],
            "path": PICTURES,
            "projection": ["tsne", None],
            "theme": THEMES,
        },
    ),
    "plot_curves": (
        plotting.plot_curves,
        {"curves": CURVES},
        {"curves": CURVE_TABLES, "path": PICTURES, "interval": ["best", 3], "theme": THEMES},
    ),
    "plot_training": (
        plotting.plot_training,
        {"progress": {"time/total_timesteps": np.arange(2.0), "train/dual_lambda": np.ones(2)}},
        {"progress": [{}, None, 3, {"train/dual_lambda": np.ones(2)}], "path": PICTURES, "theme": THEMES},
    ),
    "plot_goals": (
        plotting.plot_goals,
        {"coordinates": COORDINATES, "goals": GOALS},
        {"coordinates": [3, COORDINATES[:1]], "goals": [3, np.ones(2)], "path": PICTURES, "radius": NUMBERS},
    ),
    "skill_colors": (
        plotting.skill_colors,
        {"skills": np.eye(2)},
        {"skills": [3, None, "z", np.ones(2), np.zeros((0, 2)), np.full((1, 2), NAN)], "theme": THEMES},
    ),
    "skill_angles": (skill_angles, {}, {"skills": [3, None, "z", np.ones(2), np.full((1, 2), NAN)]}),
    "film_skills": (
        video.film_skills,
        {"trajectories": filmed, "path": "skills.gif"},
        {
            "trajectories": [*TRAJECTORIES, trajectories],
            "path": [*PATHS, "skills.webm", "skills", "/proc/1/skills.gif"],
            "fps": NUMBERS,
        },
    ),
    "skill_grid": (video.skill_grid, {}, {"trajectories": [*TRAJECTORIES, trajectories]}),
    "aggregate_runs": (
        aggregate.aggregate_runs,
        {"scores": {"metra": [1.0, 2.0]}},
        {
            "scores": [{"metra": []}, {"metra": [NAN]}, {"metra": ["a"]}, {"metra": np.zeros((1, 1, 1))}, 3, None, {}],
            "reps": COUNTS,
            "confidence": [*NUMBERS, 1.0, 1.5],
            "seed": [*SEEDS, None],
        },
    ),
    "aggregate_curves": (
        aggregate.aggregate_curves,
        {"curves": np.ones((2, 3))},
        {
            "curves": [3, None, np.full((2, 3), NAN), np.zeros((0, 3)), "curves"],
            "statistic": ["best", None],
            "reps": COUNTS,
            "confidence": [*NUMBERS, 1.0],
            "seed": [*SEEDS, None],
        },
    ),
    "read_log": (runs.read_log, {}, {"path": [*PATHS, "nowhere", __file__]}),
    "read_curves": (runs.read_curves, {}, {"folder": PATHS}),
    "curve": (
        runs.curve,
        {"log": {"time/total_timesteps": np.ones(2), "eval/distance": np.ones(2)}, "metric": "distance"},
        {"log": [{}, None, 3], "metric": ["lenght", 3, None], "x": ["stps", 3, None]},
    ),
    "write_report": (
        report.write_report,
        STARTED | {"path": "page.html"},
        {
            "model": MODELS,
            "env": ENVS,
            "path": [*PATHS, "/proc/1/page.html", Path(__file__).parent],
            "skills": [s for s in SKILLS if s is not None and not (isinstance(s, np.ndarray) and s.shape == (2,))],
            "n_skills": LIMITS,
            "measured": [m for m in TRAJECTORIES if m is not None],
            "seed": SEEDS,
            "curves": [3, {"a": 3}],
            "unit": [3],
            "film": FLAGS,
            "max_episode_steps": LIMITS,
            "max_megabytes": NUMBERS,
            "progress_bar": FLAGS,
        },
    ),
    "skill_action_space": (downstream.skill_action_space, {}, {"prior": PRIORS}),
    "to_skills": (
        downstream.to_skills,
        {"prior": SpherePrior(2), "actions": np.ones(2)},
        {"prior": PRIORS, "actions": ACTIONS},
    ),
    "to_skills, discrete": (
        downstream.to_skills,
        {"prior": OneHotPrior(3)},
        {"actions": [-1, 3, 0.7, NAN, INF, "1", None, [0, 5]]},
    ),
    "SkillActionWrapper": (
        downstream.SkillActionWrapper,
        {"env": point_task, "model": model},
        {
            "env": [*ENVS[:4], env(), gym.make("Pendulum-v1")],
            "model": MODELS,
            "skill_length": COUNTS,
            "observation_key": [3],
        },
    ),
    "SkillActionVecWrapper": (
        downstream.SkillActionVecWrapper,
        {"venv": env, "model": model},
        {"venv": [*ENVS, PointMassEnv()], "model": MODELS, "skill_length": COUNTS, "observation_key": [3]},
    ),
    "sac_from_skill": (
        downstream.sac_from_skill,
        {"model": TINY_MODEL, "env": PointMassEnv, "skill": np.eye(2)[0]},
        {
            "model": MODELS,
            "env": [*ENVS, gym.make("Pendulum-v1")],
            "skill": [3, None, "z", np.ones(2), np.eye(2), np.full(2, NAN), np.zeros(3)],
            "critics": FLAGS,
            "observation_key": [3],
        },
    ),
    "GoalTask": (
        tasks.GoalTask,
        {"env": PointMassEnv, "goal_range": 5.0, "radius": 1.0},
        {
            "env": [*ENVS, gym.make("Pendulum-v1")],
            "goal_range": NUMBERS,
            "radius": NUMBERS,
            "new_goal_every": LIMITS,
            "reward": ["dense", None, 3],
            "relative_goal": FLAGS,
        },
    ),
    "AchieveTask": (tasks.AchieveTask, {}, {"env": [*ENVS, PointMassEnv()]}),
    "HurdleTask": (tasks.HurdleTask, {}, {"env": [*ENVS, PointMassEnv()]}),
    "make_goal_task": (
        tasks.make_goal_task,
        {"body": "PointMass", "goal_range": 5.0, "radius": 1.0},
        {"body": ["Pointmass", 3, None, ""]},
    ),
    "make_achieve_task": (tasks.make_achieve_task, {}, {"body": ["Kitchn", 3, None, "PointMass"]}),
}

ALIASES = {  # what an answer may call the argument instead
    "prior": {"prior", "skill_prior"},
    "eval_env": {"env"},
    "radii": {"radius"},
    "coordinates": {"places"},
    "actions": {"action"},
    "skills": {"skill"},
    "first": {"env"},
    "curves": {"run", "scores"},
    "paths": {"path"},
    "scores": {"score"},
    "norm": {"constraint_norm"},
    "log": {"log", "column"},
    "metric": {"column"},
    "x": {"column"},
    "folder": {"folder", "path"},
    "path": {"RUN", "log"},
    "body": {"env"},
    "trajectories": {"measured", "clips"},
    "measured": {"trajectories"},
    "model": {"skills"},
    "env": {"model", "venv", "goals", "spec"},
    "venv": {"model"},
}


def make_argument(name: str, what: Any) -> Any:
    """What the table holds under a name, or what it makes."""
    return what() if callable(what) and name != "encode" else what


def answer(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> str | None:
    """What is wrong with the answer to a bad argument of this name; ``None`` if it is one sentence about it."""
    try:
        function(**arguments)
    except ValueError as error:
        message = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "taken"
    named = any(word in message for word in {name} | ALIASES.get(name, set()))
    clear = named and "\n" not in message and (" must " in message or " needs " in message)
    return None if clear and not list(Path().iterdir()) else f"unclear, or something was written: {message}"


@pytest.mark.parametrize(("name", "argument"), [(name, arg) for name, (_, _, args) in TABLE.items() for arg in args])
def test_bad_input_is_answered_in_a_sentence(
    name: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer names the argument, and comes before anything is written."""
    monkeypatch.chdir(tmp_path)
    function, good, bad = TABLE[name]
    wrong = {}
    for value in bad[argument]:
        others = {key: make_argument(key, what) for key, what in good.items() if key != argument}
        given = trajectories() if value is trajectories else value
        if (fault := answer(function, argument, others | {argument: given})) is not None:
            wrong[repr(value)] = fault
    assert wrong == {}


def test_good_input_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table changes one by one works as it is."""
    monkeypatch.chdir(tmp_path)
    spaces_of_tasks = spaces.Dict
    for name in ("rollout_skills", "evaluate_skills", "policy_state_coverage", "skill_metrics", "skill_table", "cells"):
        function, good, _ = TABLE[name]
        function(**{key: make_argument(key, what) for key, what in good.items()})
    assert isinstance(point_task().observation_space, spaces_of_tasks)
