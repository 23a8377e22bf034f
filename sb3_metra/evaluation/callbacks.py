"""Measure skills while they are learnt, without disturbing the training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_metra.common.inputs import check_count, check_flag, check_number, check_seed
from sb3_metra.common.skill_model import SkillModel, as_vec_env, encoder_of
from sb3_metra.evaluation.best_model import BestModel
from sb3_metra.evaluation.coverage import CoverageTracker, check_grid, draw_skills
from sb3_metra.evaluation.episodes import StepLimit
from sb3_metra.evaluation.metadata import env_id_of
from sb3_metra.evaluation.metrics import constraint_norm_of, headline, judged_by, skill_metrics
from sb3_metra.evaluation.rollout import SkillTrajectory, has_coordinates, rollout_skills
from sb3_metra.evaluation.skills import skills_to_show

#: The formats of SB3's logger that pictures and texts are kept out of.
TENSORBOARD_ONLY = ("stdout", "log", "json", "csv")


class SkillEvalCallback(BaseCallback):
    """
    Every ``eval_freq`` environment steps, roll out skills deterministically, log all metrics
    of :func:`.skill_metrics` under ``eval/`` and keep the model that covers most.

    ``eval/total_state_coverage`` counts the cells of all training episodes, ``eval/queue_state_coverage`` those of the
    most recent ones. ``info["tasks"]`` is counted in the same way; without coordinates the best model is the one that
    achieves most tasks. ``time/cpu_seconds`` is that of the process without these evaluations.

    It uses its own random generators, so training gives the same weights with it and without.

    :param eval_env: an environment, or a vectorised one, that reports ``info["coordinates"]``; not the training one
    :param eval_freq: environment steps, over all training environments, between two evaluations
    :param n_skills: number of skills, one episode each
    :param seed: of the skills and of the environments' resets, the same at every evaluation
    :param cell_size: edge of a cell of coverage, in the environment's unit, or one for each column
    :param best_model_save_path: folder for ``best_model.zip`` and its score, ``best_model.json``; ``None``: keep none.
        A score of an earlier session that lies there counts. If the model cannot be written, a warning says so
    :param verbose: 1 to print each result
    :param columns: which coordinates to use, by number; ``None``: all
    :param max_episode_steps: cut the evaluation's episodes after as many steps; ``None``: when ``eval_env`` ends them
    :param queue_episodes: how many ended training episodes count as recent
    :param figures: draw the skills and phi for TensorBoard; needs the extra ``plot``
    :param video_skills: film this many skills for TensorBoard; needs an ``eval_env`` with
        ``render_mode="rgb_array"`` and the extra ``plot``
    :param video_fps: frames per second
    :raises ValueError: if an argument is wrong; the message names it
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
        max_episode_steps: int | None = None,
        queue_episodes: int = 1000,
        figures: bool = False,
        video_skills: int = 0,
        video_fps: float = 20.0,
    ) -> None:
        super().__init__(verbose)
        self.eval_env = as_vec_env(eval_env)
        self.eval_freq = check_count("eval_freq", eval_freq)
        self.n_skills = check_count("n_skills", n_skills)
        self.seed = check_seed("seed", seed)
        check_grid(cell_size, columns)
        self.cell_size = cell_size
        self.columns = None if columns is None else list(columns)
        self.max_episode_steps = StepLimit(self.eval_env, max_episode_steps).cut
        self.queue_episodes = check_count("queue_episodes", queue_episodes)
        self.figures = check_flag("figures", figures)
        self.video_skills = check_count("video_skills", video_skills, low=0)
        self.video_fps = check_number("video_fps", video_fps)
        self._check_pictures()
        self.best_model: BestModel | None = None
        self.best_coverage = -1
        if best_model_save_path is not None:
            self.keep_best_in(best_model_save_path)
        self.last_coverage = -1
        self.last_metrics: dict[str, float] = {}
        self.last_trajectories: list[SkillTrajectory] = []
        self.judged_by: str | None = None
        self._probed = self._handed_over = self._episodes_were_cut = self._goes_on = False
        self._tracker: CoverageTracker | None = None
        self._next_eval = eval_freq
        self._own_cpu_seconds = 0.0

    def keep_best_in(self, folder: str | Path) -> None:
        """
        Keep the best model in a folder from now on.

        :param folder: for ``best_model.zip`` and ``best_model.json``
        :raises ValueError: if it cannot be written to
        """
        names = ("n_skills", "seed", "cell_size", "columns", "max_episode_steps")
        measured_with = {name: _plain(getattr(self, name)) for name in names}
        measured_with |= {"env": env_id_of(self.eval_env), "n_envs": self.eval_env.num_envs}
        self.best_model = BestModel(folder, measured_with)
        self.best_coverage = self.best_model.score

    def _check_pictures(self) -> None:
        """Check the needs of pictures and videos now, not after hours of training."""
        if self.figures:
            import sb3_metra.evaluation.plotting
        if self.video_skills:
            import sb3_metra.evaluation.video  # noqa: F401

            if self.eval_env.render_mode != "rgb_array":
                raise ValueError(
                    'eval_env must be made with render_mode="rgb_array" for video_skills, '
                    f"got {self.eval_env.render_mode!r}"
                )

    def get_state(self) -> dict[str, Any]:
        """The state of the callback, as plain values: scores, and the coverage of training."""
        best = self.best_model
        ended = self.model.num_timesteps >= self.model._total_timesteps  # and measured at the end
        return {
            "best_coverage": self.best_coverage,
            "last_coverage": self.last_coverage,
            "next_eval": self._after(self.model.num_timesteps) if ended else self._next_eval,
            "best_model": None if best is None else {"metric": best.metric, "score": best.score},
            "tracker": None if self._tracker is None else self._tracker.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state in the middle of a run.

        :param state: what :meth:`get_state` returned
        """
        self.best_coverage, self.last_coverage = state["best_coverage"], state["last_coverage"]
        if self.best_model is not None and state["best_model"] is not None:
            self.best_model.metric, self.best_model.score = state["best_model"]["metric"], state["best_model"]["score"]
        if state["tracker"] is not None:
            self._tracker = self._new_tracker()
            self._tracker.set_state(state["tracker"])
            self._next_eval, self._goes_on = state["next_eval"], True

    def _new_tracker(self) -> CoverageTracker:
        return CoverageTracker(self.training_env.num_envs, self.cell_size, self.columns, self.queue_episodes)

    def _init_callback(self) -> None:
        """Try one episode of one skill, so that errors show before the training, not after hours of it."""
        if share_environment(self.training_env, self.eval_env) and not self._handed_over:
            self._handed_over = True
            warnings.warn(
                "eval_env should be an environment of its own, got the one that the model is trained on: every "
                "evaluation ends the running training episodes",
                stacklevel=2,
            )
        if self._probed or (self._handed_over and self.best_model is None):
            return
        self._probed, start = True, time.process_time()
        self._sync_normalization()
        how = {"cell_size": self.cell_size, "columns": self.columns, "max_episode_steps": self.max_episode_steps}
        self.judged_by = judged_by(self.model, self.eval_env, **how)  # type: ignore[arg-type]
        self._own_cpu_seconds += time.process_time() - start
        if self.best_model is not None and self.judged_by is None:
            raise ValueError(
                'eval_env must report info["coordinates"] or info["tasks"] for a best model to be kept, got neither: '
                "report one of them, or leave out best_model_save_path"
            )

    def _on_training_start(self) -> None:
        if (self.figures or self.video_skills) and not self._tensorboards():
            raise ValueError(
                "figures and video_skills need a log for TensorBoard, got none: give the model a tensorboard_log"
            )
        if self._goes_on:  # in the middle of episodes
            self._goes_on = False
            return
        self._next_eval = self._after(self.num_timesteps)
        if self._tracker is None:
            self._tracker = self._new_tracker()
        self._tracker.reset(self.training_env.unwrapped.reset_infos)

    def _on_step(self) -> bool:
        assert self._tracker is not None
        resets = self.training_env.unwrapped.reset_infos
        if self._episodes_were_cut:  # by an evaluation on the training environment
            self._tracker.reset(resets)
            self._episodes_were_cut = False
        self._tracker.step(self.locals["infos"], self.locals["dones"], resets)
        return True

    def _on_rollout_start(self) -> None:
        """Between two rounds, when the last gradient steps are done."""
        if self.num_timesteps >= self._next_eval:
            self._next_eval = self._after(self.num_timesteps)
            self.evaluate()

    def _after(self, steps: int) -> int:
        """When the next evaluation is due after some steps."""
        return (steps // self.eval_freq + 1) * self.eval_freq

    def _on_training_end(self) -> None:
        self.evaluate()

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process until now, without the evaluations."""
        return time.process_time() - self._own_cpu_seconds

    def evaluate(self) -> int:
        """
        Measure the skills now, and log.

        :return: policy state coverage in cells, or task coverage if there are tasks and no coordinates; -1 if
            there is neither
        """
        start = time.process_time()
        model: SkillModel = self.model  # type: ignore[assignment]
        self._sync_normalization()
        skills = draw_skills(model.skill_prior, self.n_skills, self.seed)
        self.last_trajectories = self._roll_out(skills)
        self.last_metrics = skill_metrics(
            self.last_trajectories,
            model.skill_prior,
            encoder_of(model),
            cell_size=self.cell_size,
            columns=self.columns,
            constraint_norm=constraint_norm_of(model),
        )
        if self._tracker is not None:
            self.last_metrics |= self._tracker.metrics()
        self._log_pictures(model)
        self._own_cpu_seconds += time.process_time() - start
        self.logger.record("time/cpu_seconds", self.cpu_seconds, exclude="tensorboard")
        log_metrics(self.logger, self.last_metrics, self.num_timesteps)
        self._keep_the_best()
        return self.last_coverage

    def _sync_normalization(self) -> None:
        """A model that carries no statistics of its own is measured with those of its training environment."""
        if getattr(self.model, "normalization", None) is None and self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)

    def _roll_out(self, skills: np.ndarray, frames: bool = False) -> list[SkillTrajectory]:
        self._episodes_were_cut = self._handed_over
        model: SkillModel = self.model  # type: ignore[assignment]
        limit = self.max_episode_steps
        return rollout_skills(model, self.eval_env, skills, frames=frames, seed=self.seed, max_episode_steps=limit)

    def _keep_the_best(self) -> None:
        name = headline(self.last_metrics)
        self.last_coverage = -1 if name is None else int(self.last_metrics[name])
        if self.verbose:
            what = "no coverage" if name is None else f"{name.replace('_', ' ')} {self.last_coverage}"
            print(f"{self.num_timesteps} steps: {what}")
        if self.best_model is not None and name is not None:
            self.best_model.offer(self.model, name, self.last_coverage)
        self.best_coverage = max(self.best_coverage, self.last_coverage)

    def _log_pictures(self, model: SkillModel) -> None:
        if self.figures:
            from sb3_metra.evaluation.plotting import plot_phi, plot_trajectories

            title = f"{self.num_timesteps} steps"
            if has_coordinates(self.last_trajectories):
                figure = plot_trajectories(self.last_trajectories, title=title, columns=self.columns)
                self.logger.record("eval/skills", Figure(figure, close=False), exclude=TENSORBOARD_ONLY)
            encode = encoder_of(model)
            if encode is not None:
                figure = plot_phi(self.last_trajectories, encode, title=title)
                self.logger.record("eval/phi", Figure(figure, close=False), exclude=TENSORBOARD_ONLY)
        if self.video_skills:
            from sb3_metra.evaluation.video import skill_grid

            filmed = self._roll_out(skills_to_show(model.skill_prior, self.video_skills), frames=True)
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


def share_environment(first: VecEnv, second: VecEnv) -> bool:
    """
    Whether stepping one vectorised environment moves the other.

    :param first: one vectorised environment
    :param second: another one
    """

    def inside(env: VecEnv) -> set[int]:
        base = env.unwrapped
        return {id(base), *(id(single.unwrapped) for single in getattr(base, "envs", []))}

    return not inside(first).isdisjoint(inside(second))


def _plain(value: Any) -> Any:
    """As JSON reads it back."""
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic | Sequence) else value


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
