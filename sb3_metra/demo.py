"""The demonstration: train METRA for a few minutes, and show what its skills do, in pictures, words and numbers."""

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, tqdm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_metra.algorithms.metra import METRA
from sb3_metra.common.inputs import check_folder, check_number, check_seed
from sb3_metra.envs.batch import make_fast_vec_env
from sb3_metra.envs.rendering import choose_gl
from sb3_metra.evaluation.coverage import draw_skills, state_coverage
from sb3_metra.evaluation.metadata import unit_of
from sb3_metra.evaluation.plotting import plot_trajectories
from sb3_metra.evaluation.report import write_report
from sb3_metra.evaluation.report_page.recording import RENDERING_HELP
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills
from sb3_metra.evaluation.runs import read_curves
from sb3_metra.evaluation.video import film_skills
from sb3_metra.headless import draw_for_films, drawing_kwargs, follow_body, leave_out_shadows
from sb3_metra.hyperparams import load_settings

N_SKILLS = 48
"""Skills that are measured and drawn, as many as in the paper."""

_SECONDS_AFTER_TRAINING = 35.0  # kept free for measuring, drawing and filming; of a short run, half the time
_N_EXPLORED = 8  # skills to record for the page, at most: one for each direction of the compass


class Deadline(BaseCallback):
    """
    Ends training when the time is over.

    :param end: point in time, on the clock of ``time.monotonic``
    """

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def _on_step(self) -> bool:
        return time.monotonic() < self.end


@dataclass(frozen=True)
class DemoResult:
    """
    The result of a demonstration.

    :param env: id of the environment
    :param seed: seed of everything
    :param timesteps: environment steps trained
    :param training_seconds: wall time of the training
    :param policy_state_coverage: cells of size 1 that 48 skills visit
    :param displacements: how far from its episode's start each skill ends, (n_skills, n_coordinates)
    :param unit: of the coordinates; empty if the environment does not say
    """

    env: str
    seed: int
    timesteps: int
    training_seconds: float
    policy_state_coverage: int
    displacements: np.ndarray
    unit: str = ""

    def describe(self) -> str:
        """The result in three sentences."""
        unit = self.unit or "units"
        if self.displacements.shape[1] == 1:
            ends = self.displacements[:, 0]
            where = f"the skills end between {ends.min():+.1f} and {ends.max():+.1f} {unit} from where they start"
        else:
            distances = np.linalg.norm(self.displacements[:, :2], axis=1)
            where = (
                f"the skills end {distances.mean():.1f} {unit} from where they start on average, "
                f"{distances.max():.1f} {unit} at most, in {self.octants()} of 8 octants"
            )
        return (
            f"Within one episode {where}.\n"
            f"{len(self.displacements)} skills visit {self.policy_state_coverage} cells of side 1: "
            "their policy state coverage.\n"
            f"Learnt from {self.timesteps} steps in {self.training_seconds:.0f} seconds, without a reward."
        )

    def octants(self) -> int:
        """In how many of the plane's eight octants skills end, of those that end at least 1 from where they start."""
        x, y = self.displacements[:, :2].T
        angles = np.arctan2(y, x)[np.hypot(x, y) >= 1.0]
        return len(np.unique(np.floor(angles / (np.pi / 4)).astype(int) % 8))

    def save(self, path: Path) -> None:
        """
        Write the result as JSON.

        :param path: file to write
        """
        values = {**vars(self), "displacements": self.displacements.tolist()}
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def run_demo(
    env_id: str = "sb3_metra/HalfCheetah-v0", seed: int = 0, out: Path | None = None, minutes: float = 3.0
) -> DemoResult:
    """
    Train with the shipped settings on two cores, until the steps or the time are over, and show the skills.

    Writes ``model.zip``, ``progress.csv``, ``skills.png``, ``skills.html``, ``result.json`` and, if the environment
    can be drawn, ``skills.mp4``, or ``skills.gif`` if no encoder for MP4 is installed.

    :param env_id: id of an environment with ``info["coordinates"]``
    :param seed: seed of everything
    :param out: folder to write to; ``None``: ``demo/`` and the environment's name
    :param minutes: wall time at most
    :return: what was found
    """
    started = time.monotonic()
    check_number("minutes", minutes)
    check_seed("seed", seed)
    budget = 60.0 * minutes
    choose_gl()
    out = Path("demo") / env_id.rpartition("/")[2] if out is None else out
    check_folder("out", out)
    print(f"METRA learns skills on {env_id} without a reward, for at most {minutes:g} minutes (seed {seed}).")
    threads = th.get_num_threads()
    th.set_num_threads(1)  # networks are small: a second thread would only get in the way
    try:
        end = started + budget - min(_SECONDS_AFTER_TRAINING, budget / 2)
        model, seconds = _train(env_id, seed, end, out)
        model.save(out / "model")
        trajectories, unit = _measure(model, env_id, seed)
        displacements = np.stack([t.coordinates[-1] - t.coordinates[0] for t in trajectories])
        coverage = state_coverage(t.coordinates for t in trajectories)
        result = DemoResult(env_id, seed, model.num_timesteps, seconds, coverage, displacements, unit)
        result.save(out / "result.json")
        title = f"{env_id}: {len(trajectories)} skills after {result.timesteps} steps"
        plot_trajectories(trajectories, path=out / "skills.png", title=title)
        _film(model, env_id, seed, _choose_skills(trajectories), out / "skills")
        _explore(model, env_id, seed, trajectories, out)
    finally:
        th.set_num_threads(threads)
    print(f"\n{result.describe()}\n\n{_how_to_see_more(env_id, out)}")
    return result


def _train(env_id: str, seed: int, end: float, out: Path) -> tuple[METRA, float]:
    """
    Train with the shipped settings.

    :param env_id: id of the environment
    :param seed: seed of everything
    :param end: when to stop at the latest, on the clock of ``time.monotonic``
    :param out: folder for ``progress.csv``
    :return: the model, and the seconds it took
    """
    settings = load_settings(env_id)
    timesteps = settings.pop("n_timesteps")
    n_envs, env_kwargs = settings.pop("n_envs", 1), settings.pop("env_kwargs", None)
    env = make_fast_vec_env(env_id, n_envs, seed, n_threads=1, env_kwargs=env_kwargs)  # the other core learns
    started = time.monotonic()
    try:
        model = METRA(env=env, seed=seed, device="cpu", **({"overlap": True} | settings))
        model.set_logger(configure(str(out), ["csv"]))
        if tqdm is None:
            print('No progress bar: it needs `pip install "sb3-metra[progress]"`.')
        model.learn(timesteps, callback=Deadline(end), progress_bar=tqdm is not None)
    finally:
        env.close()
    if model.num_timesteps < timesteps:
        print(f"The time ran out after {model.num_timesteps} of {timesteps} steps.")
    return model, time.monotonic() - started


def _measure(model: METRA, env_id: str, seed: int) -> tuple[list[SkillTrajectory], str]:
    """Follow 48 skills for one episode each, as ``sb3-metra evaluate`` does with the same seed; and tell the unit."""
    skills = draw_skills(model.skill_prior, N_SKILLS, seed)
    env = make_fast_vec_env(env_id, n_envs=1)
    try:
        return rollout_skills(model, env, skills, seed=seed), unit_of(env)
    finally:
        env.close()


def _choose_skills(trajectories: list[SkillTrajectory]) -> np.ndarray:
    """
    The skills to film: those that get farthest along each axis, both ways.

    :param trajectories: one of each skill
    :return: (at most 4, skill_dim), without repetition
    """
    displacements = np.stack([t.coordinates[-1] - t.coordinates[0] for t in trajectories])[:, :2]
    chosen = [*displacements.argmin(axis=0), *displacements.argmax(axis=0)]
    return np.stack([trajectories[i].skill for i in dict.fromkeys(chosen)])


def _film(model: METRA, env_id: str, seed: int, skills: np.ndarray, path: Path) -> None:
    """
    Write a video of skills side by side, or say in one sentence why there is none.

    :param model: the trained model
    :param env_id: id of the environment
    :param seed: seed of the episodes
    :param skills: (n, skill_dim)
    :param path: file to write, without its ending: ``.mp4``, or ``.gif`` where no encoder for MP4 is installed
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of GLFW, whose last word is the error
            env = gym.make(env_id, **drawing_kwargs(env_id, 320, 240))
            try:
                leave_out_shadows(env)
                follow_body(env)
                trajectories = rollout_skills(model, env, skills, frames=True, seed=seed)
            finally:
                env.close()
    except Exception as error:  # OpenGL fails in many ways, and the video is all that is lost
        print(f"No video, because drawing failed ({error or type(error).__name__}): {RENDERING_HELP}.")
        return
    fps = env.metadata.get("render_fps", 20)
    try:
        film_skills(trajectories, path.with_suffix(".mp4"), fps)
    except (ImportError, OSError, ValueError):  # no encoder for MP4
        path.with_suffix(".mp4").unlink(missing_ok=True)
        film_skills(trajectories, path.with_suffix(".gif"), fps)


def _explore(model: METRA, env_id: str, seed: int, trajectories: list[SkillTrajectory], out: Path) -> None:
    """
    Write the page on which the skills can be explored, and say in a sentence each what it lacks.

    :param model: the trained model
    :param env_id: id of the environment
    :param seed: seed of the episodes
    :param trajectories: of the skills that were measured
    :param out: folder to write to
    """
    env = make_vec_env(env_id, n_envs=1, env_kwargs=drawing_kwargs(env_id))
    try:
        for inner in env.envs:  # type: ignore[attr-defined]
            draw_for_films(inner)
            follow_body(inner)
        report = write_report(
            model,
            env,
            out / "skills.html",
            n_skills=_N_EXPLORED,
            measured=trajectories,
            seed=seed,
            curves=read_curves(out),
            about={"command": f"sb3-metra demo --env {env_id} --seed {seed}"},
        )
    finally:
        env.close()
    for note in report.notes:
        print(note)


def _how_to_see_more(env_id: str, out: Path) -> str:
    """What was written, and commands to continue with."""
    other = "sb3_metra/HalfCheetah-v0" if env_id == "sb3_metra/PointMass-v0" else "sb3_metra/PointMass-v0"
    files = "\n".join(f"  {path}" for path in sorted(out.iterdir()) if path.is_file())
    return f"""\
Written:
{files}
Explore the skills: open {out / "skills.html"} in a browser.
See more:
  sb3-metra evaluate {out / "model.zip"} --env {env_id} --seed 1
  sb3-metra demo --env {other}
  sb3-metra train --env sb3_metra/Ant-v0 --progress"""
