"""Roll out skills, one episode each, on any number of environments at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_flag, check_numbers, check_seed
from sb3_metra.common.skill_model import SkillModel, as_learnt, as_vec_env
from sb3_metra.evaluation.episodes import EpisodeRecord, StepLimit, run_episodes

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


@dataclass
class SkillTrajectory:
    """
    One episode of one skill, T steps long.

    :param skill: (skill_dim,)
    :param coordinates: where the agent was, first and final state included, (T + 1, k), in the environment's unit;
        empty if the environment reports none
    :param observations: as the policy saw them, T + 1 of them: (T + 1, \\*obs_shape), or a list of dictionaries
    :param frames: pictures of every state but the final one, each (height, width, 3) uint8; empty unless asked for
    :param episode_return: sum of the environment's own rewards
    :param tasks: whether each of the environment's tasks was achieved at any time in the episode, by name; empty if
        the environment has none
    """

    skill: np.ndarray
    coordinates: np.ndarray
    observations: Any
    frames: list[np.ndarray] = field(default_factory=list)
    episode_return: float = 0.0
    tasks: dict[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.observations) - 1


def check_trajectories(trajectories: Any, name: str = "trajectories") -> None:
    """
    Refuse anything but what :func:`rollout_skills` returns.

    :param trajectories: the given value
    :param name: of the argument
    :raises ValueError: if it holds no trajectory, or something else
    """
    if isinstance(trajectories, SkillTrajectory) or not isinstance(trajectories, Sequence) or not trajectories:
        raise ValueError(f"{name} must hold at least one trajectory of rollout_skills, got {trajectories!r}")
    for other in (one for one in trajectories if not isinstance(one, SkillTrajectory)):
        raise ValueError(f"{name} must hold trajectories of rollout_skills, got a {type(other).__name__}")


def has_coordinates(trajectories: Sequence[SkillTrajectory]) -> bool:
    """
    Whether the environment reports ``info["coordinates"]``, at resets and steps.

    :param trajectories: what :func:`rollout_skills` returns
    """
    return all(t.coordinates.ndim == 2 and len(t.coordinates) == len(t) + 1 for t in trajectories)


def rollout_skills(
    model: SkillModel,
    env: VecEnv | gym.Env,
    skills: np.ndarray,
    *,
    deterministic: bool = True,
    frames: bool = False,
    seed: int | None = None,
    max_episode_steps: int | None = None,
    progress_bar: bool = False,
) -> list[SkillTrajectory]:
    """
    Follow each skill for one whole episode.

    :param model: the policy, which draws random numbers only with ``deterministic=False``
    :param env: an environment, or a vectorised one of any size. A model that learnt on normalised observations sees
        them normalised by its stored statistics, whatever ``VecNormalize`` there is. A model without any sees them as
        ``env`` normalises them, which must not be training
    :param skills: (n, skill_dim)
    :param deterministic: take the policy's mode
    :param frames: render every state but the final one, too; the environment needs ``render_mode="rgb_array"``
    :param seed: seed of the environments' reset; ``None``: no seed. Another number of environments
        gives other starts
    :param max_episode_steps: cut episodes after as many steps; ``None``: when the environment ends them, see
        ``sb3_metra.evaluation.episodes.PATIENCE``
    :param progress_bar: show a progress bar, on the standard error; it needs tqdm
    :return: one trajectory for each skill, in order
    :raises ValueError: if ``skills`` is not a table of the model's skills, frames are asked of an environment that
        cannot render, an episode has no end, or places are reported at some steps only
    :raises ImportError: if a progress bar is asked for and tqdm is missing
    """
    skills, seed = check_skills(model, skills), check_seed("seed", seed)
    for name, flag in (("deterministic", deterministic), ("frames", frames), ("progress_bar", progress_bar)):
        check_flag(name, flag)
    given = as_vec_env(env)
    limit = StepLimit(given, max_episode_steps)
    if frames and given.render_mode != "rgb_array":
        raise ValueError(f'env must be made with render_mode="rgb_array" for frames, got {given.render_mode!r}')
    trajectories: list[SkillTrajectory] = []
    with as_learnt(model, given) as vec_env, Progress(len(skills), "skill", progress_bar) as progress:
        if seed is not None:
            vec_env.seed(seed)
        for start in range(0, len(skills), vec_env.num_envs):
            chunk = skills[start : start + vec_env.num_envs]
            trajectories += _rollout_chunk(model, vec_env, chunk, deterministic, frames, limit)
            progress.update(len(chunk))
    return trajectories


def check_skills(model: SkillModel, skills: Any) -> np.ndarray:
    """
    Refuse anything but a table of a model's skills.

    :param model: what follows them
    :param skills: the given value
    :return: (n, skill_dim), float32
    :raises ValueError: if they have another shape, or cannot come from the model's prior
    """
    try:
        table = check_numbers("skills", skills)
    except ValueError:
        if np.ndim(skills) != 2:
            raise ValueError(f"skills must have shape (n, skill_dim), got {shape_or_value(skills)}") from None
        raise
    if table.ndim != 2:
        raise ValueError(f"skills must have shape (n, skill_dim), got {shape_or_value(skills)}")
    if not len(table):
        raise ValueError("skills must hold at least one skill, got none")
    prior = getattr(model, "skill_prior", None)
    if prior is None:
        return table.astype(np.float32)
    if table.shape[1] != prior.dim:
        raise ValueError(f"skills must have the model's {prior.dim} components, got {table.shape[1]}")
    return prior.validate(table)


def shape_or_value(value: Any) -> Any:
    """
    The shape of a refused array, or the value.

    :param value: the given value
    """
    return value.shape if isinstance(value, np.ndarray) else repr(value)


class Progress:
    """
    tqdm's progress bar, or a stand-in that shows nothing.

    :param total: how many things there are
    :param unit: what they are, such as ``"skill"``
    :param shown: show it
    :raises ImportError: if it is to be shown and tqdm is missing
    """

    def __init__(self, total: int, unit: str, shown: bool) -> None:
        if shown and tqdm is None:
            raise ImportError('progress_bar=True needs tqdm: pip install "sb3-metra[progress]"')
        self.bar = tqdm(total=total, desc=f"{unit}s", unit=unit, leave=False) if shown else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, n: int) -> None:
        """
        :param n: how many more are done
        """
        if self.bar is not None:
            self.bar.update(n)


def _rollout_chunk(
    model: SkillModel, env: VecEnv, skills: np.ndarray, deterministic: bool, frames: bool, limit: StepLimit
) -> list[SkillTrajectory]:
    """One episode for each of at most ``num_envs`` skills; spare environments follow the first, unrecorded."""
    n = len(skills)
    padded = np.concatenate([skills, np.repeat(skills[:1], env.num_envs - n, axis=0)])

    def act(observation: Any, _: Any) -> tuple[np.ndarray, Any]:
        return model.predict(observation, state=padded, deterministic=deterministic)

    records = run_episodes(act, env, n, limit, frames=frames)
    return [_trajectory(record, skill) for record, skill in zip(records, skills, strict=True)]


def _trajectory(record: EpisodeRecord, skill: np.ndarray) -> SkillTrajectory:
    observations = record.observations
    stacked = observations if isinstance(observations[0], dict) else np.stack(observations)
    coordinates = np.asarray(record.coordinates, dtype=np.float64)
    return SkillTrajectory(skill, coordinates, stacked, record.frames, record.episode_return, record.tasks)
