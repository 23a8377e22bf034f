"""Which skills a report shows, and following them: one episode each, filmed where the environment can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.rollout import SkillPredictor, SkillTrajectory, rollout_skills

Encode = Callable[[Any], np.ndarray]
Tick = Callable[[int], Any]

RENDERING_HELP = (
    "on Debian or Ubuntu, `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0` lets MuJoCo draw without "
    "a screen"
)
"""What to do where drawing fails, as the end of a sentence."""

_N_ON_CIRCLE, _N_IN_SPACE, _N_DISCRETE = 24, 32, 48
_N_CANDIDATES = 2048
_PICTURES = 100  # in a film, about
_ENCODED_AT_ONCE = 256


def spread_skills(prior: SkillPrior, n: int | None = None, seed: int = 0) -> np.ndarray:
    """
    Skills spread evenly: every discrete one, both ends of a line, points on a circle from 0 degrees on, or directions
    that are far from each other.

    :param prior: p(z)
    :param n: how many at most; ``None``: as many as a page shows well
    :param seed: of directions in more than two dimensions
    :return: (n, dim), float32
    """
    if prior.discrete:
        return prior.evaluation_skills(min(prior.dim, n or _N_DISCRETE))
    if prior.dim == 1:
        return prior.toward(np.array([[-1.0], [1.0]]))
    if prior.dim == 2:
        angles = np.arange(n or _N_ON_CIRCLE) * (2 * np.pi / (n or _N_ON_CIRCLE))
        return prior.toward(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return prior.toward(_far_apart(n or _N_IN_SPACE, prior.dim, np.random.default_rng(seed)))


def _far_apart(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Directions, each as far as possible from those before it."""
    candidates = rng.standard_normal((max(_N_CANDIDATES, n), dim))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    chosen = [0]
    nearest = candidates @ candidates[0]
    while len(chosen) < n:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, candidates @ candidates[chosen[-1]])
    return candidates[chosen]


def follow(
    model: SkillPredictor, env: VecEnv, skills: np.ndarray, seed: int, tick: Tick, frames: bool = False
) -> Iterator[SkillTrajectory]:
    """
    What ``rollout_skills`` returns for the same arguments, but as the episodes end.

    :param model: the policy
    :param env: environments
    :param skills: (n, skill_dim)
    :param seed: of the first reset; later episodes go on from there
    :param tick: called with the number of episodes that have ended
    :param frames: picture every state, too
    """
    for start in range(0, len(skills), env.num_envs):
        chunk = skills[start : start + env.num_envs]
        yield from rollout_skills(model, env, chunk, frames=frames, seed=seed if start == 0 else None)
        tick(len(chunk))


def through_phi(trajectory: SkillTrajectory, encode: Encode) -> SkillTrajectory:
    """
    The same trajectory with phi of the observations, (T + 1, dim), in the observations' place, and without pictures.

    :param trajectory: one episode
    :param encode: phi
    """
    observations = trajectory.observations
    if isinstance(observations, list):
        observations = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    parts = []
    for start in range(0, len(trajectory) + 1, _ENCODED_AT_ONCE):
        piece = slice(start, start + _ENCODED_AT_ONCE)
        if isinstance(observations, dict):
            parts.append(encode({key: value[piece] for key, value in observations.items()}))
        else:
            parts.append(encode(observations[piece]))
    return replace(trajectory, observations=np.concatenate(parts), frames=[])


def record(
    model: SkillPredictor, encode: Encode, env: VecEnv, skills: np.ndarray, seed: int, tick: Tick
) -> list[SkillTrajectory]:
    """
    Follow skills and keep what phi sees of them.

    :param model: the policy
    :param encode: phi
    :param env: environments
    :param skills: (n, skill_dim)
    :param seed: of the environments' resets
    :param tick: called with the number of episodes that have ended
    """
    return [through_phi(trajectory, encode) for trajectory in follow(model, env, skills, seed, tick)]


def record_films(
    model: SkillPredictor,
    encode: Encode,
    env: VecEnv,
    skills: np.ndarray,
    seed: int,
    tick: Tick,
    *,
    film: bool,
    episode_length: int,
    max_bytes: float,
) -> tuple[list[SkillTrajectory], list[dict[str, Any] | None], list[str]]:
    """
    The same with films, or without them where drawing fails.

    :param model: the policy
    :param encode: phi
    :param env: environments
    :param skills: (n, skill_dim)
    :param seed: of the environments' resets
    :param tick: called with the number of episodes that have ended
    :param film: whether films are wanted
    :param episode_length: steps of an episode, about
    :param max_bytes: size of all films
    :return: trajectories, their films, and sentences about what is missing
    """
    no_films: list[dict[str, Any] | None] = [None] * len(skills)
    if not film or env.render_mode != "rgb_array":
        note = 'No videos: the environment was made without render_mode="rgb_array", or has no such mode.'
        note = note if film else "No videos, as was asked for."
        return record(model, encode, env, skills, seed, tick), no_films, [note]
    try:
        from sb3_metra.evaluation.report_page.film import DrawingError, FilmMaker, Shutter
    except ImportError as error:
        return record(model, encode, env, skills, seed, tick), no_films, [f"No videos: {error}."]
    every = max(1, round(episode_length / _PICTURES))
    maker, trajectories, films = FilmMaker(len(skills), max_bytes), [], []
    try:
        for trajectory in follow(model, Shutter(env, every), skills, seed, tick, frames=True):
            films.append(maker.make(trajectory.frames[::every], every))
            trajectories.append(through_phi(trajectory, encode))
    except DrawingError as error:
        tick(-len(trajectories))
        note = f"No videos, because drawing failed ({error}); where MuJoCo draws, {RENDERING_HELP}."
        return record(model, encode, env, skills, seed, tick), no_films, [note]
    remark = maker.remark()
    return trajectories, films, [] if remark is None else [remark]
