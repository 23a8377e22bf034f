"""``sb3-metra goals``: send a saved model's skills to goals and print how near they come as JSON."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.commands.loading import load_model, parse_keyword_arguments
from sb3_metra.commands.pretrained import MODEL_HELP
from sb3_metra.common.goal_spaces import DESIRED, has_goal
from sb3_metra.common.inputs import check_count, check_place, check_seed, path_of
from sb3_metra.common.skill_model import SkillModel, require_encoder
from sb3_metra.evaluation.goals import desired_goals, evaluate_goals, evaluate_task_goals, sample_goals
from sb3_metra.evaluation.metadata import goal_range_of


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra goals",
        description="Send a saved model's skills to goals, without training, and print how near they come as JSON.",
    )
    parser.add_argument("model", type=path_of, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--env", required=True, metavar="ID", help="environment")
    parser.add_argument("--n-goals", type=int, default=50, help="goals, one episode each (default: %(default)s)")
    parser.add_argument(
        "--range",
        type=float,
        nargs="+",
        metavar="X",
        help="how far goals lie at most along every coordinate, or along each; default: the environment's",
    )
    parser.add_argument(
        "--hold",
        action=argparse.BooleanOptionalAction,
        help="keep an episode's first skill (default: only if goals are tasks, as in the paper)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of goals and environment (default: %(default)s)")
    parser.add_argument("--n-envs", type=int, default=8, help="environments at once (default: %(default)s)")
    parser.add_argument(
        "--plot", type=path_of, metavar="FILE", help="where to draw the paths to the goals: PNG, SVG or PDF"
    )
    parser.add_argument(
        "--max-episode-steps",
        type=int,
        metavar="N",
        help="steps after which episodes are cut",
    )
    parser.add_argument(
        "--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python"
    )
    parser.add_argument("--device", default="auto", help="PyTorch device (default: %(default)s)")
    parser.add_argument(
        "--trust", action="store_true", help="unpickle what an old model's files hold, which can run any code"
    )
    options = parser.parse_args(arguments)
    with redirect_stdout(sys.stderr):
        result = measure_goals(
            options.model,
            options.env,
            n_goals=options.n_goals,
            goal_range=options.range,
            hold=options.hold,
            seed=options.seed,
            n_envs=options.n_envs,
            plot=options.plot,
            max_episode_steps=options.max_episode_steps,
            env_kwargs=parse_keyword_arguments(options.env_kwargs),
            device=options.device,
            trusted=options.trust,
        )
    print(json.dumps(result, indent=2))


def measure_goals(
    path: Path,
    env_id: str,
    n_goals: int = 50,
    goal_range: list[float] | None = None,
    hold: bool | None = None,
    seed: int = 0,
    n_envs: int = 8,
    plot: Path | None = None,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
    trusted: bool = False,
    max_episode_steps: int | None = None,
) -> dict[str, Any]:
    """
    Measure how a saved model reaches goals.

    :param path: the saved model
    :param env_id: id of the environment
    :param n_goals: number of goals, one episode each
    :param goal_range: how far goals lie at most, one width for every coordinate or one for each; ``None``: the paper's,
        if there is one
    :param hold: keep the skill chosen at an episode's start instead of choosing at every step; ``None``: only if goals
        are tasks
    :param seed: seed of goals and environment
    :param n_envs: environments at once
    :param plot: where to draw the paths to the goals
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :param trusted: unpickle what the files hold, which can run any code that they bring
    :param max_episode_steps: cut episodes after as many steps; ``None``: when the environment ends them
    :return: the metrics, and what they were measured with
    """
    check_count("--n-goals", n_goals)
    check_count("--n-envs", n_envs)
    check_seed("--seed", seed)
    if max_episode_steps is not None:
        check_count("--max-episode-steps", max_episode_steps)
    if goal_range is not None and (check_place("--range", goal_range) <= 0).any():
        raise ValueError(f"--range must be finite numbers greater than 0, got {goal_range}")
    if plot is not None:
        from sb3_metra.evaluation.plotting.style import check_picture

        check_picture("--plot", plot)
    n_envs = min(n_envs, n_goals)
    model, env = load_model(path, env_id, n_envs=n_envs, env_kwargs=env_kwargs, device=device, trusted=trusted)
    try:
        require_encoder(model, "reaching goals")
        env.reset()
        tasks = list(env.unwrapped.reset_infos[0].get("tasks", ()))
        hold = bool(tasks) if hold is None else hold
        common: dict[str, Any] = {"hold": hold, "seed": seed, "progress": _show_progress(n_goals)}
        common["max_episode_steps"] = max_episode_steps
        if tasks:
            result = _achieve_tasks(model, env, tasks, n_goals, goal_range is not None or plot is not None, common)
        else:
            own = goal_range is None and has_goal(env.observation_space)
            half_widths = None if own else half_widths_of(env, env_id, goal_range)
            result = _reach_places(model, env, half_widths, n_goals, plot, common)
    finally:
        env.close()
    return {
        **result,
        "n_goals": n_goals,
        "hold": hold,
        "seed": seed,
        "n_envs": n_envs,
        "env": env_id,
        "env_kwargs": env_kwargs or {},
        "model": str(path),
    }


def half_widths_of(env: VecEnv, env_id: str, goal_range: list[float] | None) -> list[float]:
    """
    How far goals lie from the origin along each coordinate.

    :param env: environments that were reset, whose metadata may have a ``"goal_range"``
    :param env_id: their id
    :param goal_range: what was asked for, one for every coordinate or one for each; ``None``: what the environment has
    :raises ValueError: if it has none, or other coordinates
    """
    half_widths = goal_range_of(env) if goal_range is None else goal_range
    if half_widths is None:
        raise ValueError(f"--range must be given for an environment that has none of its own, got none for {env_id}.")
    space, place = env.observation_space, env.unwrapped.reset_infos[0].get("coordinates")
    if isinstance(space, spaces.Dict) and has_goal(space):
        place = space[DESIRED].sample()
    n = len(half_widths) if place is None else np.size(place)
    if len(half_widths) not in (1, n):
        raise ValueError(
            f"--range must be one width, or one for each of the {n} coordinates of {env_id}, got {half_widths}"
        )
    return [float(half_width) for half_width in half_widths] * (n // len(half_widths))


def _reach_places(
    model: SkillModel,
    env: VecEnv,
    half_widths: list[float] | None,
    n_goals: int,
    plot: Path | None,
    common: dict[str, Any],
) -> dict[str, Any]:
    """Places from a box about the origin, or those that a goal environment asks for."""
    if half_widths is None:
        goals = desired_goals(env, n_goals, common["seed"])
    else:
        goals = sample_goals(half_widths, n_goals, np.random.default_rng(common["seed"]))
    trajectories = evaluate_goals(model, env, goals, **common)
    if plot is not None:
        from sb3_metra.evaluation.plotting import plot_goals

        plot_goals(trajectories.coordinates, trajectories.goals, plot)
    return {**trajectories.metrics(), "range": half_widths}


def _achieve_tasks(
    model: SkillModel, env: VecEnv, tasks: list[str], n_goals: int, misplaced: bool, common: dict[str, Any]
) -> dict[str, Any]:
    """Each task in turn, until there have been ``n_goals`` episodes."""
    if misplaced:
        raise ValueError(
            f"--range and --plot are for goals that are places, but those of this environment are {tasks}."
        )
    goals = [tasks[i % len(tasks)] for i in range(n_goals)]
    achieved = evaluate_task_goals(model, env, goals, **common)
    by_task = {task: float(achieved[[goal == task for goal in goals]].mean()) for task in tasks if task in goals}
    return {"goal_success": float(achieved.mean()), "goal_success_by_task": by_task}


def _show_progress(n_goals: int) -> Any:
    """A line that counts the goals, on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int) -> None:
        print(f"\r{done} of {n_goals} goals", end="" if done < n_goals else "\n", file=sys.stderr, flush=True)

    return show
