"""METRA inside rl_zoo3: its own train and enjoy, judged by coverage. The only module that imports rl_zoo3.

rl_zoo3 keeps its algorithms in dictionaries, which :func:`register` extends. It judges an agent by the environment's
reward, for the best model and in a search for hyperparameters. Skills have no reward, so :func:`train` uses policy
state coverage instead: while it is open, :func:`judged_by_coverage` replaces rl_zoo3's two evaluation callbacks, which
it finds by name. Everything else is rl_zoo3's.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv

try:
    import optuna
    import rl_zoo3
    import rl_zoo3.enjoy
    import rl_zoo3.exp_manager
    import rl_zoo3.hyperparams_opt
    import rl_zoo3.train
    import rl_zoo3.utils
    from optuna import Trial
    from rl_zoo3.callbacks import TrialEvalCallback
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise ImportError(
        f'The commands train and enjoy need rl_zoo3 ({error}): install it with `pip install "sb3-metra[zoo]"`.'
    ) from error

import sb3_metra.envs  # noqa: F401  registers the environments
from sb3_metra import algorithms
from sb3_metra.commands.loading import check_device, find_statistics, load_algorithm
from sb3_metra.common.files import atomic_path
from sb3_metra.common.workers import WorkerVecEnv
from sb3_metra.downstream import TASKS, SkillActionVecWrapper
from sb3_metra.evaluation.callbacks import SkillEvalCallback
from sb3_metra.hyperparams import settings_path
from sb3_metra.zoo_files import RunFiles, check_own_words, reading
from sb3_metra.zoo_input import check_words
from sb3_metra.zoo_runs import RunManager, going_on, remembered

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {name.lower(): x for name, x in algorithms.ALGORITHMS.items()}
"""This package's algorithms under the names that ``--algo`` knows."""

_TRAIN_DEFAULTS = {
    "--env": "sb3_metra/PointMass-v0",
    "--eval-freq": "100000",
    "--eval-episodes": "48",  # one for each of the paper's 48 skills
}
_TASK_SETTINGS = {"sac": "sac", "tqc": "sac", "ppo": "ppo"}
"""Whose shipped settings the algorithms of rl_zoo3 that have some take for downstream tasks."""
_LOG_FOLDER = "logs"  # rl_zoo3's train writes there, and its enjoy looks elsewhere


class CoverageEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback`` with policy state coverage in place of the mean reward; task coverage if an environment
    reports ``info["tasks"]`` and no coordinates.

    Each of the ``n_eval_episodes`` episodes follows one skill, always the same ones. ``last_mean_reward`` and
    ``best_mean_reward`` keep their names, and hold coverage. An environment that reports neither is judged by its
    reward, and one line says so.
    """

    skills: SkillEvalCallback

    def _init_callback(self) -> None:
        super()._init_callback()
        self.skills = SkillEvalCallback(self.eval_env, n_skills=self.n_eval_episodes)
        self.skills.init_callback(self.model)
        if self.skills.judged_by is None:
            print(
                'Judging by the environment\'s reward: it has no info["coordinates"] to measure coverage with, '
                'and no info["tasks"].'
            )
        elif self.best_model_save_path is not None:
            self.skills.keep_best_in(self.best_model_save_path)

    def _on_training_start(self) -> None:
        self.skills.on_training_start(self.locals, self.globals)

    def on_step(self) -> bool:
        """As SB3's; the coverage of training is counted at every step, which rl_zoo3's own class does not hand on."""
        self.skills.update_locals(self.locals)
        self.skills.on_step()
        return super().on_step()

    def _on_step(self) -> bool:
        if self.skills.judged_by is None:
            return super()._on_step()
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            return self._judge(self.skills.judged_by)
        return True

    def _judge(self, name: str) -> bool:
        """Measure the skills, log it and keep the model if coverage is the best so far."""
        before = self.best_mean_reward
        self.last_mean_reward = float(self.skills.evaluate())
        self.best_mean_reward = max(before, self.last_mean_reward)
        if self.log_path is not None:
            self.evaluations_timesteps.append(self.num_timesteps)
            self.evaluations_results.append([self.last_mean_reward])
            with atomic_path(self.log_path + ".npz") as aside:
                np.savez(aside, timesteps=self.evaluations_timesteps, results=self.evaluations_results)
        if self.verbose >= 1:
            print(f"Eval num_timesteps={self.num_timesteps}, {name}={self.skills.last_coverage}")
        go_on = True
        if self.last_mean_reward > before and self.callback_on_new_best is not None:
            go_on = self.callback_on_new_best.on_step()
        return go_on and self._on_event()


class TrialCoverageEvalCallback(TrialEvalCallback, CoverageEvalCallback):
    """
    rl_zoo3's callback of a search for hyperparameters, which reports coverage.

    Python's method resolution does the work: what rl_zoo3's class calls ``super()`` is here ``CoverageEvalCallback``.
    """


@contextmanager
def _replaced(module: ModuleType, **ours: Any) -> Iterator[None]:
    """
    While it is open, a module finds something of ours by names of its own.

    :param module: the module
    :param ours: what it finds, by name
    """
    theirs = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(theirs)


@contextmanager
def judged_by_coverage() -> Iterator[None]:
    """While it is open, rl_zoo3 keeps the best model, and searches for hyperparameters, by coverage."""
    ours = {"EvalCallback": CoverageEvalCallback, "TrialEvalCallback": TrialCoverageEvalCallback}
    with _replaced(rl_zoo3.exp_manager, **ours):
        yield


@contextmanager
def _read_files(files: RunFiles) -> Iterator[None]:
    """While it is open, rl_zoo3 gets at a run's files this way."""
    ours = {name: SimpleNamespace(load=partial(files.load, algorithm)) for name, algorithm in ALGORITHMS.items()}
    with (
        reading(files),
        _replaced(rl_zoo3.enjoy, ALGOS=rl_zoo3.ALGOS | ours, yaml=files.yaml),
        _replaced(rl_zoo3.utils, VecNormalize=files.VecNormalize, yaml=files.yaml),
        _replaced(rl_zoo3.exp_manager, VecNormalize=files.VecNormalize),
    ):
        yield


@contextmanager
def _guarded_workers() -> Iterator[None]:
    """While it is open, rl_zoo3's worker processes are guarded, and what was learnt is kept if one fails."""
    with (
        _replaced(rl_zoo3.exp_manager, SubprocVecEnv=WorkerVecEnv),
        _replaced(rl_zoo3.train, ExperimentManager=RunManager),
    ):
        yield


def sample_metra_params(trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Draw METRA's hyperparameters for one trial, except the kind of skills (``skill_dim``, ``discrete``).

    :param trial: Optuna's trial
    :param n_actions: number of action components (unused: rl_zoo3's signature)
    :param n_envs: number of environments (unused)
    :param additional_args: rl_zoo3's information about hindsight replay (unused)
    :return: arguments of METRA
    """
    params = {
        "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
        "dual_lambda": trial.suggest_float("dual_lambda", 0.3, 30.0, log=True),
        "dual_slack": trial.suggest_float("dual_slack", 1e-5, 1e-1, log=True),
        "objective_batch_size_pow": trial.suggest_int("objective_batch_size_pow", 8, 11),
        "gradient_steps": trial.suggest_int("gradient_steps", 10, 100, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.003, 0.05, log=True),
        "policy_width": trial.suggest_categorical("policy_width", [64, 128, 256, 512]),
        "phi_width": trial.suggest_categorical("phi_width", [64, 128, 256, 512]),
    }
    converted = convert_metra_params(params)
    trial.set_user_attr("gamma", converted["gamma"])
    trial.set_user_attr("objective_batch_size", converted["objective_batch_size"])
    return converted


def convert_metra_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn Optuna's parameters of a trial into arguments of METRA, also for ``--trial-id``.

    :param sampled_params: a trial's parameters
    :return: arguments of METRA
    """
    params = sampled_params.copy()
    params["gamma"] = 1.0 - params.pop("one_minus_gamma")
    params["objective_batch_size"] = 2 ** params.pop("objective_batch_size_pow")
    params["policy_kwargs"] = {"net_arch": [params.pop("policy_width")] * 2}
    params["phi_kwargs"] = {"net_arch": [params.pop("phi_width")] * 2}
    return params


def register() -> None:
    """Put this package's algorithms and METRA's sampler into rl_zoo3's dictionaries; doing so again changes nothing."""
    rl_zoo3.ALGOS.update(ALGORITHMS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER["metra"] = sample_metra_params
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER["metra"] = convert_metra_params


def follow_skills(env: VecEnv, model: str, skill_length: int = 25) -> SkillActionVecWrapper:
    """
    Environments whose actions are a saved model's skills: what ``vec_env_wrapper`` names in rl_zoo3's settings.

    :param env: tasks
    :param model: path of the saved model, a zip file
    :param skill_length: steps of the environments that a skill is followed
    :raises ValueError: if there is no such model, or it learnt on normalised observations and lacks their statistics
    """
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"--skills must be a saved model, a zip file, got {model!r}, which is no file.")
    skills = load_algorithm(path)
    if getattr(skills, "normalization", None) is None and find_statistics(path) is not None:
        raise ValueError(
            f"--skills must carry the statistics of the observations that it learnt on, got {model!r}, which has them "
            "only in a file beside it: save it again with this version of sb3_metra."
        )
    return SkillActionVecWrapper(env, skills, skill_length)


def train(arguments: Sequence[str]) -> None:
    """
    Run rl_zoo3's train, with the shipped settings and coverage for METRA's defaults, and with skills for actions.

    :param arguments: rl_zoo3's own; ``--paper`` for the authors' settings; ``--skills`` and ``--skill-length`` for an
        algorithm that chooses the skills of a saved model; ``--resume`` to continue a run; ``--trust`` to run code
        in the files of ``-i`` and ``--resume``
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--paper", action="store_true")
    own.add_argument("--skills", metavar="MODEL")
    own.add_argument("--skill-length", type=int, metavar="K")
    own.add_argument("--resume", metavar="RUN")
    own.add_argument("--trust", action="store_true")
    options, arguments = own.parse_known_args(arguments)
    if options.resume is not None:
        with going_on(options.resume) as words:
            if not options.trust:
                check_own_words(options.resume, words)
            train([*words, *arguments, *(["--trust"] if options.trust else [])])
        return
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default="metra")
    parser.add_argument("--env")
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-i", "--trained-agent")
    known, _ = parser.parse_known_args(arguments)
    if known.trained_agent:
        _check_trust(known.algo, options.trust)
    if options.paper and (known.conf_file is not None or known.algo not in ALGORITHMS):
        raise ValueError(
            f"--paper chooses the shipped settings of one of {sorted(ALGORITHMS)}, which --algo {known.algo} or "
            f"--conf-file {known.conf_file} contradicts: leave one of them out."
        )
    if known.algo in ALGORITHMS:
        if options.skills is not None or options.skill_length is not None:
            raise ValueError(f"--skills needs an --algo that chooses them, such as sac or ppo, got {known.algo}.")
        defaults = {"--algo": known.algo, "--conf-file": str(settings_path(known.algo, options.paper))}
        _open_storage(arguments)
        with judged_by_coverage(), remembered(arguments, options.paper):
            _run("train", [*_words(defaults | _TRAIN_DEFAULTS), *arguments], options.trust)
    else:
        skills = _skill_arguments(options.skills, options.skill_length, arguments)
        _run("train", [*_words(_task_defaults(known, options.skills is not None)), *skills], options.trust)


def _task_defaults(known: argparse.Namespace, with_skills: bool) -> dict[str, str]:
    """Settings and evaluation of a task for an algorithm of rl_zoo3's own; elsewhere rl_zoo3's defaults."""
    if known.env not in TASKS and not with_skills:
        return {}
    defaults = {"--eval-episodes": "40"} | ({"--eval-freq": "2000"} if with_skills else {})
    if known.conf_file is None and known.algo in _TASK_SETTINGS:
        name = _TASK_SETTINGS[known.algo] + ("_skills" if with_skills else "")
        defaults["--conf-file"] = str(settings_path(name))
    return defaults


def _skill_arguments(model: str | None, skill_length: int | None, arguments: Sequence[str]) -> list[str]:
    """Say with rl_zoo3's ``--hyperparams`` that actions are skills, among those that are there already."""
    if model is None:
        if skill_length is not None:
            raise ValueError(f"--skill-length needs --skills, got --skill-length {skill_length} without.")
        return list(arguments)
    if not Path(model).is_file():
        raise ValueError(f"--skills must be a saved model, a zip file, got {model!r}, which is no file.")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-params", "--hyperparams", nargs="+", default=[])
    known, rest = parser.parse_known_args(arguments)
    keywords: dict[str, Any] = {"model": str(Path(model).resolve())}
    if skill_length is not None:
        keywords["skill_length"] = skill_length
    return [
        *rest,
        "--hyperparams",
        *known.hyperparams,
        f"vec_env_wrapper:{ {'sb3_metra.zoo.follow_skills': keywords} }",
    ]


def _open_storage(arguments: Sequence[str]) -> None:
    """Make the tables and the study of a search in a database: of workers that begin at once, only one can do so."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-optimize", "--optimize", "--optimize-hyperparameters", action="store_true")
    parser.add_argument("--storage")
    parser.add_argument("--study-name")
    known, _ = parser.parse_known_args(arguments)
    if not known.optimize or "://" not in (known.storage or "") or known.study_name is None:
        return
    for wait in (0.5, 1.0, 2.0, None):
        try:
            optuna.create_study(
                storage=known.storage, study_name=known.study_name, direction="maximize", load_if_exists=True
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            if wait is None:
                reason = " ".join(str(error).split())
                raise ValueError(f"--storage must be a database, got {known.storage!r}: {reason}") from error
            time.sleep(random.uniform(0.5, 1.0) * wait)
        else:
            return


def enjoy(arguments: Sequence[str]) -> None:
    """
    Run rl_zoo3's enjoy on a run of :func:`train`.

    :param arguments: rl_zoo3's own; ``--trust`` to unpickle what the run's files hold
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--trust", action="store_true")
    options, arguments = parser.parse_known_args(arguments)
    parser.add_argument("--algo", default="metra")
    _check_trust(parser.parse_known_args(arguments)[0].algo, options.trust)
    defaults = ["--algo", "metra", "--env", _TRAIN_DEFAULTS["--env"], "--folder", _LOG_FOLDER]
    _run("enjoy", [*defaults, *arguments], options.trust)


def _check_trust(algorithm: str, trusted: bool) -> None:
    if algorithm in rl_zoo3.ALGOS.keys() - ALGORITHMS and not trusted:
        raise ValueError(
            f"--algo {algorithm} must be trusted, because its saved models are pickles, which can run code: add "
            "--trust to load them."
        )


def _words(arguments: dict[str, str]) -> list[str]:
    return [word for pair in arguments.items() for word in pair]


def _run(script: str, arguments: Sequence[str], trusted: bool = False) -> None:
    """
    Call one of rl_zoo3's scripts, which read ``sys.argv``; of an argument given twice they take the last.

    :param script: ``train`` or ``enjoy``
    :param arguments: the script's arguments
    :param trusted: whether a run's files may run code
    """
    register()
    check_device(check_words(arguments, vars(rl_zoo3.utils)))
    argv = sys.argv
    sys.argv = [f"sb3-metra {script}", *arguments]
    try:
        with _guarded_workers(), _read_files(RunFiles(trusted)):
            {"train": rl_zoo3.train.train, "enjoy": rl_zoo3.enjoy.enjoy}[script]()
    finally:
        sys.argv = argv
