"""Measure skills while they are learnt, without disturbing the training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, sync_envs_normalization

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.coverage import CoverageTracker
from sb3_metra.evaluation.metrics import has_coordinates, headline, judged_by, skill_metrics
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills, skills_to_show

_TENSORBOARD_ONLY = ("stdout", "log", "json", "csv")


class SkillEvalCallback(BaseCallback):
    """
    Every ``eval_freq`` environment steps, roll out skills deterministically on environments of its own, log all metrics
    of :func:`~sb3_metra.evaluation.skill_metrics` under ``eval/`` and keep the model that covers most.

    It watches the training episodes, too: ``eval/total_state_coverage`` counts the cells of all of them,
    ``eval/queue_state_coverage`` those of the most recent ones. An environment with ``info["tasks"]`` has its task
    coverage logged in the same way; without coordinates the best model is the one that achieves most tasks.

    It draws from generators of its own only, so that training gives the same weights with it and without. Among the
    logged times, ``time/cpu_seconds`` is that of the whole process without these evaluations.

    :param eval_env: an environment, or a vectorised one, that reports ``info["coordinates"]``; not the training one
    :param eval_freq: environment steps, over all training environments, between two evaluations
    :param n_skills: number of skills, one episode each
    :param seed: of the skills and of the environments' resets, the same at every evaluation
    :param cell_size: edge of a cell of coverage, in the environment's unit, or one for each column
    :param best_model_save_path: folder for ``best_model.zip``; ``None``: keep none
    :param verbose: 1 to print each result
    :param columns: which coordinates to use, by number; ``None``: all
    :param queue_episodes: how many ended training episodes count as recent
    :param figures: draw the skills and phi for TensorBoard; needs the extra ``plot``
    :param video_skills: film this many skills for TensorBoard; needs an ``eval_env`` with
        ``render_mode="rgb_array"`` and the extra ``plot``
    :param video_fps: frames per second
    """

    def __init__(
        self,
        eval_env: VecEnv | gym.Env,
        eval_freq: int = 100_000,
        n_skills: int = 48,
        seed: int = 0,
        cell_size: float | Sequence[float] = 1.0,
        best_model_save_path: str | Path | None = None,
        verbose: int = 0,
        *,
        columns: Sequence[int] | None = None,
        queue_episodes: int = 1000,
        figures: bool = False,
        video_skills: int = 0,
        video_fps: float = 20.0,
    ) -> None:
        super().__init__(verbose)
        if eval_freq < 1:
            raise ValueError(f"eval_freq must be at least 1, got {eval_freq}")
        self.eval_env = eval_env if isinstance(eval_env, VecEnv) else DummyVecEnv([lambda: eval_env])
        self.eval_freq = eval_freq
        self.n_skills = n_skills
        self.seed = seed
        self.cell_size = cell_size
        self.columns = columns
        self.queue_episodes = queue_episodes
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.figures = figures
        self.video_skills = video_skills
        self.video_fps = video_fps
        self._check_pictures()
        self.best_coverage = -1
        self.last_coverage = -1
        self.last_metrics: dict[str, float] = {}
        self.last_trajectories: list[SkillTrajectory] = []
        self._tracker: CoverageTracker | None = None
        self._next_eval = eval_freq
        self._own_cpu_seconds = 0.0

    def _check_pictures(self) -> None:
        """What pictures and videos need is asked for now, not after hours of training."""
        if self.figures:
            import sb3_metra.evaluation.plotting
        if self.video_skills:
            import sb3_metra.evaluation.video  # noqa: F401

            if self.eval_env.render_mode != "rgb_array":
                raise ValueError(
                    'eval_env must be made with render_mode="rgb_array" for video_skills, '
                    f"got {self.eval_env.render_mode!r}"
                )

    def _on_training_start(self) -> None:
        self._next_eval = (self.num_timesteps // self.eval_freq + 1) * self.eval_freq
        start = time.process_time()
        if (self.figures or self.video_skills) and not self._tensorboards():
            raise ValueError(
                "figures and video_skills need a log for TensorBoard, got none: give the model a tensorboard_log"
            )
        if self.best_model_save_path is not None and judged_by(self.model, self.eval_env) is None:
            raise ValueError(
                'eval_env must report info["coordinates"] or info["tasks"] for a best model to be kept, got neither: '
                "report one of them, or leave out best_model_save_path"
            )
        if self._tracker is None:
            self._tracker = CoverageTracker(
                self.training_env.num_envs, self.cell_size, self.columns, self.queue_episodes
            )
        self._tracker.reset(self.training_env.unwrapped.reset_infos)
        self._own_cpu_seconds += time.process_time() - start

    def _on_step(self) -> bool:
        assert self._tracker is not None
        self._tracker.step(self.locals["infos"], self.locals["dones"], self.training_env.unwrapped.reset_infos)
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

        :return: policy state coverage in cells, or task coverage where there are tasks and no coordinates; -1 where
            there is neither
        """
        start = time.process_time()
        prior: SkillPrior = self.model.skill_prior  # type: ignore[attr-defined]
        encode = getattr(self.model, "encode", None)
        skills = prior.evaluation_skills(self.n_skills, np.random.default_rng(self.seed))
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        self.last_trajectories = rollout_skills(self.model, self.eval_env, skills, seed=self.seed)
        self.last_metrics = skill_metrics(
            self.last_trajectories,
            prior,
            encode,
            cell_size=self.cell_size,
            columns=self.columns,
            constraint_norm=getattr(self.model, "constraint_norm", "sum"),
        )
        if self._tracker is not None:
            self.last_metrics |= self._tracker.metrics()
        self._log_pictures(prior)
        self._own_cpu_seconds += time.process_time() - start
        self.logger.record("time/cpu_seconds", time.process_time() - self._own_cpu_seconds, exclude="tensorboard")
        log_metrics(self.logger, self.last_metrics, self.num_timesteps)
        self._keep_the_best()
        return self.last_coverage

    def _keep_the_best(self) -> None:
        name = headline(self.last_metrics)
        self.last_coverage = -1 if name is None else int(self.last_metrics[name])
        if self.verbose:
            what = "no coverage" if name is None else f"{name.replace('_', ' ')} {self.last_coverage}"
            print(f"{self.num_timesteps} steps: {what}")
        if self.last_coverage > self.best_coverage:
            self.best_coverage = self.last_coverage
            if self.best_model_save_path is not None:
                self.model.save(self.best_model_save_path / "best_model")

    def _log_pictures(self, prior: SkillPrior) -> None:
        if self.figures:
            from sb3_metra.evaluation.plotting import plot_phi, plot_trajectories

            title = f"{self.num_timesteps} steps"
            if has_coordinates(self.last_trajectories):
                figure = plot_trajectories(self.last_trajectories, title=title, columns=self.columns)
                self.logger.record("eval/skills", Figure(figure, close=False), exclude=_TENSORBOARD_ONLY)
            if hasattr(self.model, "encode"):
                figure = plot_phi(self.last_trajectories, self.model.encode, title=title)
                self.logger.record("eval/phi", Figure(figure, close=False), exclude=_TENSORBOARD_ONLY)
        if self.video_skills:
            from sb3_metra.evaluation.video import skill_grid

            shown = skills_to_show(prior, self.video_skills)
            filmed = rollout_skills(self.model, self.eval_env, shown, frames=True, seed=self.seed)
            self._log_gif("eval/video", skill_grid(filmed))

    def _log_gif(self, tag: str, frames: list[np.ndarray]) -> None:
        """What SB3's ``Video`` comes to, which needs a moviepy below 2: TensorBoard plays an image that is a GIF."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        from sb3_metra.evaluation.video import encode_gif

        height, width, channels = frames[0].shape
        gif = encode_gif(frames, self.video_fps)
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        for output in self._tensorboards():
            output.writer._get_file_writer().add_summary(summary, self.num_timesteps)

    def _tensorboards(self) -> list[TensorBoardOutputFormat]:
        return [output for output in self.logger.output_formats if isinstance(output, TensorBoardOutputFormat)]


def log_metrics(logger: Logger, metrics: Mapping[str, float], num_timesteps: int) -> None:
    """
    Write metrics under ``eval/`` as one line of the log.

    :param logger: SB3's
    :param metrics: by name
    :param num_timesteps: environment steps so far
    """
    for name, value in metrics.items():
        logger.record(f"eval/{name}", value)
    logger.record("time/total_timesteps", num_timesteps, exclude="tensorboard")
    logger.dump(num_timesteps)
