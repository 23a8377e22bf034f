"""Measure skills while they are learnt, without disturbing the training."""

from __future__ import annotations

import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, sync_envs_normalization

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.coverage import state_coverage
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills


class SkillEvalCallback(BaseCallback):
    """
    Every ``eval_freq`` environment steps, roll out skills deterministically on environments of its own, log
    ``eval/policy_state_coverage`` and keep the model that covers most.

    It draws from generators of its own only, so that training gives the same weights with it and without. Among the
    logged times, ``time/cpu_seconds`` is that of the whole process without these evaluations.

    :param eval_env: an environment, or a vectorised one, that reports ``info["coordinates"]``; not the training one
    :param eval_freq: environment steps, over all training environments, between two evaluations
    :param n_skills: number of skills, one episode each
    :param seed: of the skills and of the environments' resets, the same at every evaluation
    :param cell_size: edge of a cell of coverage, in the environment's unit
    :param best_model_save_path: folder for ``best_model.zip``; ``None``: keep none
    :param verbose: 1 to print each result
    """

    def __init__(
        self,
        eval_env: VecEnv | gym.Env,
        eval_freq: int = 100_000,
        n_skills: int = 48,
        seed: int = 0,
        cell_size: float = 1.0,
        best_model_save_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if eval_freq < 1:
            raise ValueError(f"eval_freq must be at least 1, got {eval_freq}")
        self.eval_env = eval_env if isinstance(eval_env, VecEnv) else DummyVecEnv([lambda: eval_env])
        self.eval_freq = eval_freq
        self.n_skills = n_skills
        self.seed = seed
        self.cell_size = cell_size
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.best_coverage = -1
        self.last_coverage = -1
        self.last_trajectories: list[SkillTrajectory] = []
        self._next_eval = eval_freq
        self._own_cpu_seconds = 0.0

    def _on_training_start(self) -> None:
        self._next_eval = (self.num_timesteps // self.eval_freq + 1) * self.eval_freq

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """Between two rounds, when the last gradient steps are done."""
        if self.num_timesteps >= self._next_eval:
            self._next_eval = (self.num_timesteps // self.eval_freq + 1) * self.eval_freq
            self.evaluate()

    def _on_training_end(self) -> None:
        self.evaluate()

    def evaluate(self) -> int:
        """
        Measure the skills now, and log.

        :return: policy state coverage, in cells
        """
        start = time.process_time()
        prior: SkillPrior = self.model.skill_prior  # type: ignore[attr-defined]
        skills = prior.evaluation_skills(self.n_skills, np.random.default_rng(self.seed))
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        self.last_trajectories = rollout_skills(self.model, self.eval_env, skills, seed=self.seed)
        self.last_coverage = state_coverage((t.coordinates for t in self.last_trajectories), self.cell_size)
        distances = [np.linalg.norm(t.coordinates[-1] - t.coordinates[0]) for t in self.last_trajectories]
        self.logger.record("eval/policy_state_coverage", self.last_coverage)
        self.logger.record("eval/distance", float(np.mean(distances)))
        self._own_cpu_seconds += time.process_time() - start
        self.logger.record("time/cpu_seconds", time.process_time() - self._own_cpu_seconds, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose:
            print(f"{self.num_timesteps} steps: policy state coverage {self.last_coverage}")
        if self.last_coverage > self.best_coverage:
            self.best_coverage = self.last_coverage
            if self.best_model_save_path is not None:
                self.model.save(self.best_model_save_path / "best_model")
        return self.last_coverage
