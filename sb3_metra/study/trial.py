"""One run, from its settings to a model; a study has many, ``benchmarks/train.py`` one."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

import sb3_metra.envs  # registers the environments
from sb3_metra.algorithms import ALGORITHMS
from sb3_metra.collectors import Collectors, RayCollectors
from sb3_metra.collectors.settings import make_env, read_collectors
from sb3_metra.common.checkpoint import RunCheckpointCallback, find_checkpoint
from sb3_metra.common.files import write_json
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.envs import find_spec
from sb3_metra.envs.batch import make_fast_vec_env, spare_threads
from sb3_metra.envs.vec import make_pixel_vec_env
from sb3_metra.evaluation.callbacks import SkillEvalCallback
from sb3_metra.study.progress import ProgressLog

METHODS: dict[str, type[SkillDiscovery]] = {name.lower(): x for name, x in ALGORITHMS.items()}
"""The algorithms under the names that studies and ``--algo`` know."""

NOT_THE_MODELS = ("n_timesteps", "n_envs", "env_kwargs", "collectors")
"""Settings that are no arguments of an algorithm, or are made into one."""

SETTINGS, PROGRESS, MODEL, CHECKPOINTS = "settings.json", "progress.csv", "model.zip", "checkpoints"


@dataclass(frozen=True)
class Trial:
    """
    What defines a run: the same trial gives the same result.

    :param method: name of the algorithm in lower case
    :param env: id of the environment, or a task of dm_control in pixels, ``dmc/DOMAIN-TASK``
    :param seed: of the model and the environments
    :param steps: environment steps
    :param settings: rl-zoo3's ``n_envs`` and ``env_kwargs``, ``collectors``, and the algorithm's arguments
    :param change: the name of what was changed in the settings
    :param eval_freq: environment steps between two evaluations
    :param eval_episodes: episodes of an evaluation, one for each skill
    :param cell_size: edge of a cell of coverage
    :param eval_env_kwargs: arguments of the environments that coverage is measured in
    """

    method: str
    env: str
    seed: int
    steps: int
    settings: dict[str, Any]
    change: str = ""
    eval_freq: int = 100_000
    eval_episodes: int = 48
    cell_size: float = 1.0
    eval_env_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name for files and tables, such as ``metra_sb3_metra-Ant-v0_s0``."""
        env = self.env.replace("/", "-").replace(":", "-")
        return "_".join(part for part in (self.method, env, self.change, f"s{self.seed}") if part)


@dataclass(frozen=True)
class Trained:
    """
    What a run left in memory.

    :param model: the model
    :param coverage: the evaluations
    :param steps: environment steps of this process
    :param seconds: seconds of this process, by the clock
    """

    model: SkillDiscovery
    coverage: SkillEvalCallback
    steps: int
    seconds: float


class TimedCheckpoint(RunCheckpointCallback):
    """
    Writes a checkpoint from time to time and at the end, and ends training when the time is over.

    :param folder: where checkpoints go
    :param minutes: wall time to train for; ``None``: no limit
    :param every: minutes between two checkpoints; 0: none
    :param log: counts CPU seconds on
    :param coverage: knows the CPU seconds of this process
    """

    def __init__(
        self, folder: Path, minutes: float | None, every: float, log: ProgressLog, coverage: SkillEvalCallback
    ) -> None:
        super().__init__(1, folder, keep=1)
        self.every, self.log, self.coverage = every, log, coverage
        self.started = self.kept = time.monotonic()
        self.minutes = float("inf") if minutes is None else minutes

    def get_state(self) -> dict[str, float]:
        """What counts on; the clock is not part of a run."""
        spent = self.log.spent + self.coverage.cpu_seconds
        return {"last_saved": self.last_saved, "n_calls": self.n_calls, "cpu_seconds": spent}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.last_saved, self.n_calls = state["last_saved"], state["n_calls"]
        self.log.spent = state.get("cpu_seconds", 0.0)

    def _on_step(self) -> bool:
        return time.monotonic() - self.started < 60 * self.minutes

    def _on_rollout_start(self) -> None:
        if self.every and time.monotonic() - self.kept > 60 * self.every:
            self.save()

    def _on_training_end(self) -> None:
        if self.every:
            self.save()

    def save(self) -> None:
        """Write a checkpoint now."""
        super().save()
        self.kept = time.monotonic()


class _Reporter(BaseCallback):
    """
    Passes on each evaluation except the last one, after which the model is still to be saved.

    :param coverage: the evaluations, a callback before this one
    :param log: where they are logged
    :param hand_on: called with steps, coverage and CPU seconds
    """

    def __init__(
        self, coverage: SkillEvalCallback, log: ProgressLog, hand_on: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__()
        self.coverage, self.log, self.hand_on, self.seen = coverage, log, hand_on, len(log.rows)

    def get_state(self) -> dict[str, Any]:
        """It has none."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """It has none."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if len(self.log.rows) > self.seen:
            self.seen = len(self.log.rows)
            spent = self.log.spent + self.coverage.cpu_seconds
            coverage = self.coverage.last_coverage
            self.hand_on({"steps": self.num_timesteps, "coverage": coverage, "cpu_seconds": spent})


def make_envs(
    env_id: str,
    n_envs: int,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    n_threads: int | None = None,
) -> VecEnv:
    """
    Environments that MuJoCo draws in a process each, its bodies in a batch, others in turn.

    :param env_id: id of the environment, or ``dmc/DOMAIN-TASK``
    :param n_envs: number of environments
    :param seed: of the first one
    :param env_kwargs: their arguments
    :param n_threads: threads of a batch; ``None``: one for each core
    """
    if env_id.startswith("dmc/"):
        from sb3_metra.envs.dmc import make_pixel_env

        return make_pixel_vec_env(make_pixel_env, n_envs, seed=seed, env_kwargs=_of_suite(env_id, env_kwargs))
    if env_id.endswith("Pixels-v0"):
        return make_pixel_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)
    return make_fast_vec_env(env_id, n_envs, seed=seed, n_threads=n_threads, env_kwargs=env_kwargs)


def _of_suite(env_id: str, env_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    domain, task = env_id.removeprefix("dmc/").split("-")
    return {"domain": domain, "task": task} | (env_kwargs or {})


def _make_collectors(trial: Trial) -> Collectors | None:
    """What runs the episodes elsewhere, in environments as those of :func:`make_envs`."""
    if (named := trial.settings.get("collectors")) is None:
        return None
    env_kwargs = trial.settings.get("env_kwargs")
    make: Callable[[], Any]
    if trial.env.startswith("dmc/"):
        from sb3_metra.envs.dmc import make_pixel_env

        make = partial(make_pixel_env, **_of_suite(trial.env, env_kwargs))
    else:
        make = partial(make_env, find_spec(trial.env), env_kwargs)
    return RayCollectors(make, **read_collectors(named))


def train(
    trial: Trial,
    folder: Path,
    device: str = "cpu",
    *,
    minutes: float | None = None,
    checkpoint_minutes: float = 0.0,
    verbose: int = 0,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
) -> Trained:
    """
    Train a trial, from its newest checkpoint if there is one. The folder gets ``settings.json``, ``progress.csv``,
    ``best_model.zip``, checkpoints and, at the end, ``model.zip``.

    :param trial: what to train
    :param folder: of this run alone
    :param device: of PyTorch
    :param minutes: wall time to train for; ``None``: no limit
    :param checkpoint_minutes: minutes between two checkpoints; 0: none
    :param verbose: 1 to print each evaluation
    :param on_evaluation: called with the steps, coverage and CPU seconds of each evaluation but the last one
    :return: the model and its evaluations; all environments and collectors are closed
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, describe(trial, device))
    n_envs = trial.settings.get("n_envs", 1)
    n_threads = spare_threads(bool(trial.settings.get("overlap")))
    with ExitStack() as stack:
        env = make_envs(trial.env, n_envs, trial.seed, trial.settings.get("env_kwargs"), n_threads)
        stack.callback(env.close)
        eval_env = make_envs(trial.env, n_envs, env_kwargs=trial.eval_env_kwargs)
        stack.callback(eval_env.close)
        if (collectors := _make_collectors(trial)) is not None:
            stack.callback(collectors.close)
        model = _begin_or_resume(trial, folder / CHECKPOINTS, env, device, collectors)
        coverage = SkillEvalCallback(
            eval_env,
            trial.eval_freq,
            trial.eval_episodes,
            cell_size=trial.cell_size,
            best_model_save_path=folder,
            verbose=verbose,
        )
        log = ProgressLog(folder / PROGRESS, model.num_timesteps)
        keeper = TimedCheckpoint(folder / CHECKPOINTS, minutes, checkpoint_minutes, log, coverage)
        callbacks = [coverage, keeper]
        if on_evaluation is not None:
            callbacks.append(_Reporter(coverage, log, on_evaluation))
        model.set_logger(Logger(str(folder), [log]))
        before = model.num_timesteps
        if before < trial.steps:
            model.learn(trial.steps - before, callbacks, log_interval=10**9, reset_num_timesteps=before == 0)
        model.save(folder / MODEL)
    return Trained(model, coverage, model.num_timesteps - before, time.monotonic() - keeper.started)


def _begin_or_resume(
    trial: Trial, checkpoints: Path, env: VecEnv, device: str, collectors: Collectors | None
) -> SkillDiscovery:
    algorithm = METHODS[trial.method]
    given: dict[str, Any] = {"device": device, "collectors": collectors}
    if any(checkpoints.glob("step_*")):
        try:
            return algorithm.resume(find_checkpoint(checkpoints), env, **given)
        except ValueError as error:
            if "whole" not in str(error):
                raise
            warnings.warn(f"{trial.name} starts again, because {error}", stacklevel=3)
    return algorithm(env=env, seed=trial.seed, **given, **model_arguments(trial.settings))


def model_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """
    The algorithm's arguments among settings.

    :param settings: in rl-zoo3's syntax; a learning rate such as ``lin_3e-4`` falls to 0
    """
    arguments = {name: x for name, x in settings.items() if name not in NOT_THE_MODELS}
    rate = arguments.get("learning_rate")
    if isinstance(rate, str) and rate.startswith("lin_"):
        arguments["learning_rate"] = LinearSchedule(float(rate.removeprefix("lin_")), 0.0, 1.0)
    return arguments


def describe(trial: Trial, device: str) -> dict[str, Any]:
    """
    What ``settings.json`` says of a run.

    :param trial: the run
    :param device: of PyTorch
    """
    record = {
        "algorithm": trial.method,
        "env": trial.env,
        "seed": trial.seed,
        "change": trial.change,
        "steps": trial.steps,
        "settings": trial.settings,
        "device": device,
    }
    if device != "cpu" and th.cuda.is_available():
        record["gpu"] = th.cuda.get_device_name()
    modules = (sb3_metra, stable_baselines3, th, gymnasium, np)
    return record | {
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in modules},
    }
