"""Following the skills that a report shows: one episode each, filmed if the environment can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.skill_model import Encoder, SkillModel, encoder_of
from sb3_metra.evaluation.episodes import batch
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills

RENDERING_HELP = (
    "on Debian or Ubuntu, `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0` lets MuJoCo draw without "
    "a screen"
)
"""What to do if drawing fails, as the end of a sentence."""

_PICTURES = 100  # in a film, about
_ENCODED_AT_ONCE = 256


def through_phi(trajectory: SkillTrajectory, encode: Encoder | None) -> SkillTrajectory:
    """
    The same trajectory with phi of the observations, (T + 1, dim), in the observations' place, and without pictures.

    :param trajectory: one episode
    :param encode: phi; ``None``: (T + 1, 0) takes its place
    """
    if encode is None:
        return replace(trajectory, observations=np.empty((len(trajectory) + 1, 0)), frames=[])
    observations = batch(trajectory.observations)
    parts = []
    for start in range(0, len(trajectory) + 1, _ENCODED_AT_ONCE):
        piece = slice(start, start + _ENCODED_AT_ONCE)
        if isinstance(observations, dict):
            parts.append(encode({key: value[piece] for key, value in observations.items()}))
        else:
            parts.append(encode(observations[piece]))
    return replace(trajectory, observations=np.concatenate(parts), frames=[])


@dataclass
class Recorder:
    """
    Follows skills and keeps what phi sees of them.

    :param model: the policy
    :param env: environments
    :param seed: of the first reset; later episodes go on from there
    :param tick: called with the number of episodes that have ended
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    """

    model: SkillModel
    env: VecEnv
    seed: int
    tick: Callable[[int], Any]
    max_episode_steps: int | None = None

    def record(self, skills: np.ndarray) -> list[SkillTrajectory]:
        """
        One episode of each skill, with phi in the place of the observations.

        :param skills: (n, skill_dim)
        """
        return [through_phi(trajectory, encoder_of(self.model)) for trajectory in self._follow(self.env, skills)]

    def film(
        self, skills: np.ndarray, *, wanted: bool, episode_length: int, max_bytes: float
    ) -> tuple[list[SkillTrajectory], list[dict[str, Any] | None], list[str]]:
        """
        The same with films, or without them if drawing fails.

        :param skills: (n, skill_dim)
        :param wanted: whether films are
        :param episode_length: steps of an episode, about
        :param max_bytes: size of all films
        :return: trajectories, their films, and sentences about what is missing
        """
        no_films: list[dict[str, Any] | None] = [None] * len(skills)
        if not wanted or self.env.render_mode != "rgb_array":
            note = 'No videos: the environment was made without render_mode="rgb_array", or has no such mode.'
            return self.record(skills), no_films, [note if wanted else "No videos, as was asked for."]
        try:
            from sb3_metra.evaluation.report_page.film import DrawingError, FilmMaker, Shutter
        except ImportError as error:
            return self.record(skills), no_films, [f"No videos: {error}."]
        every = max(1, round(episode_length / _PICTURES))
        maker, trajectories, films = FilmMaker(len(skills), max_bytes), [], []
        try:
            for trajectory in self._follow(Shutter(self.env, every), skills, frames=True):
                films.append(maker.make(trajectory.frames[::every], every))
                trajectories.append(through_phi(trajectory, encoder_of(self.model)))
        except DrawingError as error:
            self.tick(-len(trajectories))
            note = f"No videos, because drawing failed ({error}); where MuJoCo draws, {RENDERING_HELP}."
            return self.record(skills), no_films, [note]
        remark = maker.remark()
        return trajectories, films, [] if remark is None else [remark]

    def _follow(self, env: VecEnv, skills: np.ndarray, frames: bool = False) -> Iterator[SkillTrajectory]:
        """What ``rollout_skills`` returns, but as the episodes end."""
        for start in range(0, len(skills), env.num_envs):
            chunk = skills[start : start + env.num_envs]
            seed, limit = self.seed if start == 0 else None, self.max_episode_steps
            yield from rollout_skills(self.model, env, chunk, frames=frames, seed=seed, max_episode_steps=limit)
            self.tick(len(chunk))
