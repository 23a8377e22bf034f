"""rl_zoo3's runs: settings that are checked, checkpoints, and what was learnt kept. A run can resume from there."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3.exp_manager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_metra.collectors import RayCollectors
from sb3_metra.collectors.settings import make_env, read_collectors
from sb3_metra.common.checkpoint import RunCheckpointCallback, find_checkpoint
from sb3_metra.common.files import write_json
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.workers import WorkerError
from sb3_metra.envs.batch import BatchVecEnv, can_batch, spare_threads
from sb3_metra.zoo_files import current_files
from sb3_metra.zoo_input import check_settings, check_settings_file, read_numbers

_WORDS = "arguments.json"  # beside rl_zoo3's args.yml, which only an unsafe loader reads

_words: list[str] | None = None  # of the run that begins
_run: Path | None = None  # that goes on


@contextmanager
def remembered(arguments: Sequence[str], paper: bool) -> Iterator[None]:
    """
    While it is open, a run keeps its arguments.

    :param arguments: the words of the command line
    :param paper: whether the authors' settings were asked for
    """
    global _words
    _words = [*(["--paper"] if paper else []), *arguments]
    try:
        yield
    finally:
        _words = None


@contextmanager
def going_on(run: str) -> Iterator[list[str]]:
    """
    While it is open, training resumes a run.

    :param run: its folder
    :return: its arguments
    :raises ValueError: if there is no such run, or no complete checkpoint in it
    """
    global _run
    found = sorted(Path(run).glob(f"*/{_WORDS}"))
    if not found:
        raise ValueError(
            f"--resume must be the folder of a run that `sb3-metra train --save-freq N` began, got {run!r}."
        )
    find_checkpoint(run)
    _run = Path(run)
    try:
        yield json.loads(found[0].read_text(encoding="utf-8"))
    finally:
        _run = None


class RunManager(rl_zoo3.exp_manager.ExperimentManager):
    """
    rl_zoo3's, which checks the settings that it reads, simulates bodies in a batch, and keeps what was learnt if a
    worker ends training.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if _run is not None:
            self.save_path = str(_run)
            self.params_path = f"{self.save_path}/{self.env_name}"

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        check_settings_file(self.config)
        settings, saved = super().read_hyperparameters()
        self._overlap = bool(settings.get("overlap"))
        return check_settings(settings, self.n_timesteps), read_numbers(saved)

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        """As rl_zoo3's; collectors are made of their number, or their arguments by name."""
        own, env_wrapper, callbacks, vec_env_wrapper = super()._preprocess_hyperparams(hyperparams)
        if own.get("collectors") is not None:
            named = read_collectors(own["collectors"])
            if self.optimize_hyperparameters or vec_env_wrapper is not None:
                other = "--optimize" if self.optimize_hyperparameters else "a vec_env_wrapper"
                raise ValueError(f"collectors must be left out with {other}, got {own['collectors']!r}")
            spec = gym.spec(self.env_name.gym_id)
            own["collectors"] = RayCollectors(partial(make_env, spec, self.env_kwargs, env_wrapper), **named)
        return own, env_wrapper, callbacks, vec_env_wrapper

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As rl_zoo3's, in a batch where MuJoCo can simulate them together and nobody asked for workers or wrappers."""
        chosen, env_kwargs = self.vec_env_class, self.eval_env_kwargs if eval_env else self.env_kwargs
        own_kwargs = self.vec_env_kwargs
        plain = chosen is DummyVecEnv and self.env_wrapper is None and self.vec_env_wrapper is None
        if plain and can_batch(self.env_name.gym_id, env_kwargs):
            self.vec_env_class = BatchVecEnv
            self.vec_env_kwargs = {"n_threads": spare_threads(self._overlap)}
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            self.vec_env_class, self.vec_env_kwargs = chosen, own_kwargs

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        """As rl_zoo3's, whose arguments do not reach so far as to say whether the files are trusted."""
        algorithm = rl_zoo3.ALGOS[self.algo]
        if not issubclass(algorithm, SkillDiscovery):
            return super()._load_pretrained_agent(hyperparams, env)
        own = {name: x for name, x in hyperparams.items() if name not in ("policy", "policy_kwargs")}
        own |= {"tensorboard_log": self.tensorboard_log, "verbose": self.verbose, "device": self.device}
        path, files = Path(self.trained_agent), current_files()
        model = files.load(algorithm, path, env=env, seed=self.seed, **own)
        replay = path.parent / "replay_buffer.pkl"
        if replay.exists():
            model.load_replay_buffer(replay, trusted=files.trusted)
        print(f"Continuing with {path}, {'with' if replay.exists() else 'without'} replay")
        return model

    def create_callbacks(self) -> None:
        super().create_callbacks()
        if self.save_freq > 0 and _words is not None:
            checkpoints = RunCheckpointCallback(self.save_freq, Path(self.save_path) / "checkpoints")
            self.callbacks.append(checkpoints)

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """As rl_zoo3's, but a resumed run takes its model from its newest checkpoint."""
        result = super().setup_experiment()
        if result is None or _run is None:
            return result
        new, saved = result
        assert isinstance(new, SkillDiscovery)
        env: Any = new.get_env()
        model = type(new).resume(_run, env, device=self.device, collectors=new.collectors)
        model.verbose, model.tensorboard_log = new.verbose, new.tensorboard_log
        return model, saved

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        super()._save_config(saved_hyperparams)
        if _words is not None and _run is None:
            write_json(Path(self.params_path) / _WORDS, [*_words, "--seed", str(self.seed)])

    def learn(self, model: BaseAlgorithm) -> None:
        """
        As rl_zoo3's, but a resumed run takes the steps that are left, and a lost worker loses no model.

        :param model: the model
        :raises ValueError: if no steps are left
        """
        if _run is not None and isinstance(model, SkillDiscovery):
            if model.num_timesteps >= self.n_timesteps:
                raise ValueError(
                    f"-n must be more than the {model.num_timesteps} steps that the run has taken, got "
                    f"{self.n_timesteps}."
                )
            self.n_timesteps -= model.num_timesteps
        try:
            super().learn(model)
        except WorkerError:
            self.save_trained_model(model)
            raise
        finally:
            if isinstance(model, SkillDiscovery) and model.collectors is not None:
                model.collectors.close()
