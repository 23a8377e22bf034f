"""Roll out skills, one episode each, on any number of environments at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_metra.common.skills import SkillPrior

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


class SkillPredictor(Protocol):
    """SB3's predictor protocol with a skill as the state: every algorithm and policy of this package has it."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As SB3's ``predict``; ``state`` is the skill."""


@dataclass
class SkillTrajectory:
    """
    One episode of one skill, T steps long.

    :param skill: (skill_dim,)
    :param coordinates: where the agent was, first and final state included, (T + 1, k), in the environment's unit;
        empty where the environment tells none
    :param observations: as the policy saw them, T + 1 of them: (T + 1, \\*obs_shape), or a list of dictionaries
    :param frames: pictures of every state but the final one, each (height, width, 3) uint8; empty unless asked for
    :param episode_return: sum of the environment's own rewards
    :param tasks: whether each of the environment's tasks was achieved at any time in the episode, by name; empty where
        the environment knows none
    """

    skill: np.ndarray
    coordinates: np.ndarray
    observations: Any
    frames: list[np.ndarray] = field(default_factory=list)
    episode_return: float = 0.0
    tasks: dict[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.observations) - 1


def rollout_skills(
    model: SkillPredictor,
    env: VecEnv | gym.Env,
    skills: np.ndarray,
    *,
    deterministic: bool = True,
    frames: bool = False,
    seed: int | None = None,
    progress_bar: bool = False,
) -> list[SkillTrajectory]:
    """
    Follow each skill for one whole episode.

    :param model: the policy; drawing random numbers is left to ``deterministic=False``
    :param env: an environment, or a vectorised one of any size; a ``VecNormalize`` must not be training
    :param skills: (n, skill_dim)
    :param deterministic: take the policy's mode
    :param frames: render every state but the final one, too; the environment needs ``render_mode="rgb_array"``
    :param seed: seed of the environments' reset; ``None``: as they come. What follows the first episodes is drawn from
        there on, so that another number of environments gives other starts
    :param progress_bar: show a progress bar, on the standard error; it needs tqdm
    :return: one trajectory for each skill, in order
    :raises ValueError: where ``skills`` is not a table or of another dimension than the model's, or frames are asked of
        an environment that cannot render
    :raises ImportError: where a progress bar is asked for and tqdm is missing
    """
    vec_env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    skills = np.asarray(skills, dtype=np.float32)
    if skills.ndim != 2:
        raise ValueError(f"skills must have shape (n, skill_dim), got {skills.shape}")
    if not len(skills):
        raise ValueError("skills must hold at least one skill, got none")
    prior = getattr(model, "skill_prior", None)
    if prior is not None and skills.shape[1] != prior.dim:
        raise ValueError(f"skills must have the model's {prior.dim} components, got {skills.shape[1]}")
    if frames and vec_env.render_mode != "rgb_array":
        raise ValueError(f'env must be made with render_mode="rgb_array" for frames, got {vec_env.render_mode!r}')
    normalizer = unwrap_vec_normalize(vec_env)
    if normalizer is not None and normalizer.training:
        raise ValueError("env must be a VecNormalize with training=False, got training=True: rollouts would change it")
    if seed is not None:
        vec_env.seed(seed)
    trajectories: list[SkillTrajectory] = []
    with _ProgressBar(len(skills), progress_bar) as bar:
        for start in range(0, len(skills), vec_env.num_envs):
            chunk = skills[start : start + vec_env.num_envs]
            trajectories += _rollout_chunk(model, vec_env, chunk, deterministic, frames)
            bar.update(len(chunk))
    return trajectories


class _ProgressBar:
    """tqdm's bar over skills, or nothing that looks the same."""

    def __init__(self, total: int, shown: bool) -> None:
        if shown and tqdm is None:
            raise ImportError('progress_bar=True needs tqdm: pip install "sb3-metra[progress]"')
        self.bar = tqdm(total=total, desc="skills", unit="skill", leave=False) if shown else None

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, n: int) -> None:
        """Another ``n`` skills are done."""
        if self.bar is not None:
            self.bar.update(n)


def _rollout_chunk(
    model: SkillPredictor, env: VecEnv, skills: np.ndarray, deterministic: bool, frames: bool
) -> list[SkillTrajectory]:
    """One episode for each of at most ``num_envs`` skills; spare environments follow the first, unrecorded."""
    n = len(skills)
    padded = np.concatenate([skills, np.repeat(skills[:1], env.num_envs - n, axis=0)])
    observation = env.reset()
    records = [_Record(_single(observation, i), env.unwrapped.reset_infos[i]) for i in range(n)]
    if frames:
        _keep_frames(env, records)
    while not all(record.done for record in records):
        actions, _ = model.predict(observation, state=padded, deterministic=deterministic)
        observation, rewards, dones, infos = env.step(actions)
        for i, record in enumerate(records):
            if not record.done:
                last = infos[i]["terminal_observation"] if dones[i] else _single(observation, i)
                record.add(last, float(rewards[i]), infos[i], bool(dones[i]))
        if frames:
            _keep_frames(env, records)
    return [record.trajectory(skill) for record, skill in zip(records, skills, strict=True)]


class _Record:
    """What one environment's episode leaves behind while it runs."""

    def __init__(self, observation: Any, info: dict[str, Any]) -> None:
        self.observations = [observation]
        self.coordinates = [info["coordinates"]] if "coordinates" in info else []
        self.frames: list[np.ndarray] = []
        self.episode_return = 0.0
        self.tasks: dict[str, bool] = {}
        self.done = False

    def add(self, observation: Any, reward: float, info: dict[str, Any], done: bool) -> None:
        self.observations.append(observation)
        if "coordinates" in info:
            self.coordinates.append(info["coordinates"])
        self.episode_return += reward
        self.tasks = info.get("tasks", {})
        self.done = done

    def trajectory(self, skill: np.ndarray) -> SkillTrajectory:
        observations = self.observations if isinstance(self.observations[0], dict) else np.stack(self.observations)
        coordinates = np.asarray(self.coordinates, dtype=np.float64)
        tasks = {name: bool(achieved) for name, achieved in self.tasks.items()}
        return SkillTrajectory(skill, coordinates, observations, self.frames, self.episode_return, tasks)


def _keep_frames(env: VecEnv, records: list[_Record]) -> None:
    """Picture the running episodes. An environment resets itself at once, so that a final state has no picture."""
    images = env.get_images()
    for record, image in zip(records, images, strict=False):
        if not record.done:
            if image is None:
                raise ValueError("env must render for frames, got no picture from render()")
            record.frames.append(image)


def _single(observation: Any, index: int) -> Any:
    if isinstance(observation, dict):
        return {key: value[index].copy() for key, value in observation.items()}
    return observation[index].copy()


def skills_to_show(prior: SkillPrior, n: int) -> np.ndarray:
    """
    Skills that show a repertoire best, with no draw: discrete ones in order, directions evenly around the circle of
    the first two components, from the first axis on; with one component, negative and positive ones in turn.

    :param prior: p(z)
    :param n: number of skills, at least 1; of finitely many skills there are no more than there are
    :return: (n, skill_dim), float32
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if prior.discrete:
        return prior.evaluation_skills(min(n, prior.dim))
    directions = np.zeros((n, prior.dim))
    if prior.dim == 1:
        directions[:, 0] = np.where(np.arange(n) % 2, 1.0, -1.0)
        return prior.toward(directions[:2])
    angles = 2 * np.pi * np.arange(n) / n
    directions[:, 0], directions[:, 1] = np.cos(angles), np.sin(angles)
    return prior.toward(directions)
