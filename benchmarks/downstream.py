"""What skills are worth: a task learnt by choosing skills, from a skill, and flat; curves over steps and CPU time.

``run`` trains one controller on one task and keeps a table and its settings; ``record`` keeps runs in docs/results.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from scipy import stats
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import sb3_metra.envs  # registers the environments
from sb3_metra import METRA
from sb3_metra.downstream import SkillActionVecWrapper, sac_from_skill  # registers the tasks
from sb3_metra.evaluation import rollout_skills
from sb3_metra.evaluation.plotting import plot_curves
from sb3_metra.hyperparams import load_settings

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "downstream"
N_ENVS = 8
EVALUATION_SEED = 10_000  # the same episodes at every evaluation, of every controller
COLUMNS = ("steps", "cpu_seconds", "mean_return", "success")

FLAT: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "sac": (SAC, "sac", {}),
    "tqc": (TQC, "sac", {}),
    "ppo": (PPO, "ppo", {"n_steps": 256, "batch_size": 64}),  # SB3's defaults: 2048 transitions a round
}
"""For each flat controller its class, the file of its settings, and what is changed of them."""
OVER_SKILLS: dict[str, dict[str, Any]] = {
    "sac_skills": {},
    "ppo_skills": {"n_steps": 16},  # 128 skills a round; the file's 512 are for runs seven times as long
}
"""What is changed of the settings over skills."""


def make_envs(env_id: str, seed: int) -> VecEnv:
    """
    A task's environments, with no monitor around them.

    :param env_id: id of the task
    :param seed: of the first environment's first reset; the others' follow
    """
    env = DummyVecEnv([partial(gym.make, env_id)] * N_ENVS)
    env.seed(seed)
    return env


def evaluate(policy: Any, env: VecEnv, n_episodes: int) -> tuple[float, float]:
    """
    Run deterministic episodes, the same ones each time.

    :param policy: whatever has SB3's ``predict``
    :param env: 8 environments
    :param n_episodes: a multiple of 8
    :return: mean return, and the share of episodes in which a goal was reached (NaN where the task has none)
    """
    returns, successes = [], []
    for start in range(0, n_episodes, N_ENVS):
        env.seed(EVALUATION_SEED + start)
        observation: Any = env.reset()
        total, running = np.zeros(N_ENVS), np.ones(N_ENVS, bool)
        while running.any():
            actions, _ = policy.predict(observation, deterministic=True)
            observation, rewards, dones, infos = env.step(actions)
            total += rewards * running
            for i in np.flatnonzero(running & dones):
                successes.append(float(infos[i].get("is_success", np.nan)))
            running &= ~dones
        returns += total.tolist()
    return float(np.mean(returns)), float(np.mean(successes))


class Curve(BaseCallback):
    """
    Evaluates at the start and as often as asked, and writes a row each time. Evaluations cost no CPU time of the run.

    :param path: CSV to write
    :param env: environments to evaluate in
    :param freq: steps of the body between evaluations
    :param n_episodes: of each evaluation
    :param step_length: steps of the body that one step of the algorithm takes
    :param first_steps: of the body, taken before
    """

    def __init__(
        self, path: Path, env: VecEnv, freq: int, n_episodes: int, step_length: int = 1, first_steps: int = 0
    ) -> None:
        super().__init__()
        self.path, self.env, self.freq, self.n_episodes = path, env, freq, n_episodes
        self.step_length, self.first_steps = step_length, first_steps
        self.rows: list[tuple[float, ...]] = []
        self._next = 0

    def _on_training_start(self) -> None:
        self._start = time.process_time()
        self._evaluate()

    def _on_step(self) -> bool:
        if self._steps >= self._next:
            self._evaluate()
        return True

    @property
    def _steps(self) -> int:
        return self.first_steps + self.num_timesteps * self.step_length

    def _evaluate(self) -> None:
        before = time.process_time()
        result = evaluate(self.model, self.env, self.n_episodes)
        self.rows.append((self._steps, before - self._start, *result))
        with self.path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([f"{value:.6g}" for value in row] for row in self.rows)
        self._next = (self._steps // self.freq + 1) * self.freq
        self._start += time.process_time() - before


def best_skill(skills: METRA, env: VecEnv, n_skills: int = 16) -> tuple[np.ndarray, int]:
    """
    The skill with the largest return of the task in one episode.

    :param skills: the skills
    :param env: the task
    :param n_skills: how many are tried
    :return: the skill, and the steps that trying took
    """
    candidates = skills.skill_prior.evaluation_skills(n_skills, np.random.default_rng(0))
    tried = rollout_skills(skills, env, candidates)
    best = max(tried, key=lambda trajectory: trajectory.episode_return)
    return best.skill, sum(len(trajectory) for trajectory in tried)


def build(
    controller: str, env_id: str, skills: METRA | None, skill_length: int, seed: int, change: dict[str, Any]
) -> tuple[BaseAlgorithm, dict[str, Any], int]:
    """
    An algorithm ready to learn.

    :param controller: ``"skills"`` chooses skills, ``"finetune"`` starts from one, the others are flat
    :param env_id: id of the task
    :param skills: for the first two
    :param skill_length: steps of the body that a chosen skill is followed
    :param seed: of everything
    :param change: settings to change
    :return: the algorithm, its settings, and the steps that were taken to choose a skill to start from
    """
    env = make_envs(env_id, seed)
    if controller == "skills":
        assert skills is not None
        algorithm, file = (PPO, "ppo_skills") if skills.skill_prior.discrete else (SAC, "sac_skills")
        changes = OVER_SKILLS[file]
        env = SkillActionVecWrapper(env, skills, skill_length)
    else:
        algorithm, file, changes = FLAT["sac" if controller == "finetune" else controller]
    settings = load_settings(env_id, file) | changes | change
    settings["policy"] = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    arguments = deepcopy({key: value for key, value in settings.items() if key not in ("n_timesteps", "n_envs")})
    if controller != "finetune":
        return algorithm(env=env, seed=seed, device="cpu", **arguments), settings, 0
    assert skills is not None
    skill, steps = best_skill(skills, make_envs(env_id, seed))
    unused = {"policy", "policy_kwargs", "learning_starts"}
    settings = {key: value for key, value in settings.items() if key not in unused} | {"skill": skill.tolist()}
    arguments = {key: value for key, value in arguments.items() if key not in unused}
    return sac_from_skill(skills, env, skill, seed=seed, **arguments), settings, steps


def discovery(folder: Path) -> dict[str, Any]:
    """
    What discovering skills took.

    :param folder: that train.py wrote
    """
    with (folder / "progress.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    return {
        "name": folder.name,
        "steps": int(float(last["time/total_timesteps"])),
        "cpu_seconds": round(float(last["time/cpu_seconds"]), 1),
        "policy_state_coverage": float(last["eval/policy_state_coverage"]),
        **{key: json.loads((folder / "settings.json").read_text())[key] for key in ("env", "seed")},
    }


def run(args: argparse.Namespace) -> None:
    """Train one controller on one task with one seed."""
    th.set_num_threads(1)
    if (args.controller in ("skills", "finetune")) != (args.skills is not None):
        raise ValueError(
            f"--skills belongs to the controllers skills and finetune, got {args.skills} for {args.controller}"
        )
    skills = METRA.load(args.skills / "model", device="cpu") if args.skills is not None else None
    model, settings, first_steps = build(args.controller, args.task, skills, args.skill_length, args.seed, args.change)
    modules = (sb3_metra, stable_baselines3, sb3_contrib, th, gym, np)
    record = {
        "task": args.task,
        "controller": args.controller,
        "label": args.label or _label(args.controller, model),
        "algorithm": type(model).__name__,
        "seed": args.seed,
        "steps": args.steps,
        "skill_length": args.skill_length if args.controller == "skills" else None,
        "episodes": args.episodes,
        "settings": settings,
        "discovery": discovery(args.skills) if args.skills is not None else None,
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in modules},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    step_length = args.skill_length if args.controller == "skills" else 1
    freq = args.eval_freq or args.steps // 10
    env = make_envs(args.task, EVALUATION_SEED)
    if args.controller == "skills":
        env = SkillActionVecWrapper(env, skills, args.skill_length)
    curve = Curve(args.out / "curve.csv", env, freq, args.episodes, step_length, first_steps)
    model.learn((args.steps - first_steps) // step_length, curve, log_interval=10**9)
    (args.out / "settings.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{args.out.name}: return {curve.rows[-1][2]:.2f}, success {curve.rows[-1][3]:.2f}, "
          f"{curve.rows[-1][1] / 60:.1f} CPU minutes", flush=True)  # fmt: skip


def _label(controller: str, model: BaseAlgorithm) -> str:
    name = type(model).__name__
    return {"skills": f"{name} over skills", "finetune": f"{name} from a skill"}.get(controller, f"{name}, flat")


Run = tuple[dict[str, Any], dict[str, np.ndarray]]


def kept() -> dict[str, dict[str, list[Run]]]:
    """Every kept run, by task and label, flat ones last."""
    runs: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    files = [path for path in sorted(RESULTS.glob("*.json")) if path.with_suffix(".csv").exists()]
    records = [(json.loads(path.read_text()), path) for path in files]
    for settings, path in sorted(records, key=lambda pair: (pair[0]["discovery"] is None, pair[0]["label"])):
        table = np.genfromtxt(path.with_suffix(".csv"), delimiter=",", names=True)
        runs[settings["task"]][settings["label"]].append((settings, {name: table[name] for name in COLUMNS}))
    return runs


def interval(values: list[float], form: str) -> str:
    """Mean and half a 95 % interval of Student's t; a dash where there is nothing to measure."""
    if np.isnan(values).all():
        return "-"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return f"{np.mean(values):{form}} ± {half:{form}}" if len(values) > 1 else f"{values[0]:{form}}"


def row(label: str, runs: list[Run]) -> str:
    """
    A line of a task's table. Results are those of the last three evaluations together.

    :param label: of the controller
    :param runs: one for each seed
    """
    steps, minutes = runs[0][1]["steps"][-1], np.mean([table["cpu_seconds"][-1] for _, table in runs]) / 60
    found = runs[0][0]["discovery"]
    before = (0.0, 0.0) if found is None else (found["steps"], found["cpu_seconds"] / 60)
    results = [
        interval([float(table[name][-3:].mean()) for _, table in runs], form)
        for name, form in (("mean_return", ".1f"), ("success", ".2f"))
    ]
    totals = f"{(steps + before[0]) / 1e6:.2f}M | {minutes + before[1]:.1f}"
    return f"| {label} | {len(runs)} | {' | '.join(results)} | {steps / 1e3:.0f}k | {minutes:.1f} | {totals} |"


def record(args: argparse.Namespace) -> None:
    """Keep runs, print tables, draw curves."""
    RESULTS.mkdir(exist_ok=True)
    for folder in args.runs:
        if not (folder / "settings.json").exists():
            raise ValueError(f"RUN must be the folder of a run that has ended, got {folder}")
        for name, ending in (("curve.csv", "csv"), ("settings.json", "json")):
            (RESULTS / f"{folder.name}.{ending}").write_text((folder / name).read_text())
    for task, groups in kept().items():
        print(
            f"\n{task}\n\n| controller | seeds | return | success | steps | CPU minutes | in all | CPU minutes in all |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for label, runs in groups.items():
            print(row(label, runs))
        draw(task, groups)


def draw(task: str, groups: dict[str, list[Run]]) -> None:
    """
    A task's curves over steps and CPU minutes, and over steps once more from the beginning of skill discovery.

    :param task: id of the task
    :param groups: runs by label
    """
    name = task.removeprefix("sb3_metra/").removesuffix("-v0")
    for picture, x, xlabel, scale in (
        ("steps", "steps", "environment steps", 1.0),
        ("cpu_minutes", "cpu_seconds", "CPU minutes", 60.0),
        ("steps_in_all", "steps", "environment steps, skill discovery included", 1.0),
    ):
        curves = defaultdict(list)
        for label, runs in groups.items():
            for settings, table in runs:
                before = settings["discovery"]["steps"] if picture == "steps_in_all" and settings["discovery"] else 0
                curves[label].append(((table[x] + before) / scale, table["mean_return"]))
        figure = plot_curves(curves, None, xlabel, "return of an episode", interval="mean")
        (axes,) = figure.axes
        lowest = min(float(y.min()) for runs_of_one in curves.values() for _, y in runs_of_one)
        axes.set_ylim(bottom=min(0.0, 1.05 * lowest))
        axes.get_legend().remove()  # it would lie on the curves
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(RESULTS / f"{name}_{picture}.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    one = modes.add_parser("run", help="one task, one controller, one seed")
    one.add_argument("task", help="id of the task")
    one.add_argument("controller", choices=["skills", "finetune", *FLAT])
    one.add_argument("--out", type=Path, required=True, help="folder for curve.csv and settings.json")
    one.add_argument("--skills", type=Path, help="folder of train.py with the skills")
    one.add_argument(
        "--skill-length", type=int, default=25, help="steps that a skill is followed (default: %(default)s)"
    )
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=int, default=100_000, help="of the body (default: %(default)s)")
    one.add_argument("--eval-freq", type=int, help="steps of the body between evaluations; default: a tenth of all")
    one.add_argument("--episodes", type=int, default=48, help="of an evaluation (default: %(default)s)")
    one.add_argument("--change", type=ast.literal_eval, default={}, help="settings to change, as a Python dict")
    one.add_argument("--label", help="what to call it in tables and pictures")
    one.set_defaults(mode=run)
    keep = modes.add_parser("record", help="keep runs in docs/results, print tables, draw curves")
    keep.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folder of a run to keep")
    keep.set_defaults(mode=record)
    args = parser.parse_args()
    mode: Callable[[argparse.Namespace], None] = args.mode
    mode(args)


if __name__ == "__main__":
    main()
