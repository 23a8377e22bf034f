"""Collectors: the episodes of a run come from elsewhere, and the loop plays them back."""

from __future__ import annotations

from abc import ABC
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.arguments import full_signature, shorten
from sb3_metra.common.collectors import Collectors, check_others
from sb3_metra.common.overlap import OverlappingSAC
from sb3_metra.common.playback import Playback
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skills import SkillPrior


class CollectingSAC(OverlappingSAC, ABC):
    """
    :class:`~sb3_metra.common.overlap.OverlappingSAC` whose episodes may be run by collectors.

    :param policy: see :class:`~sb3_metra.common.sac.SkillSAC`
    :param env: the training environments; each collector builds as many of its own
    :param skill_prior: p(z)
    :param collectors: run the episodes elsewhere, such as :class:`~sb3_metra.collectors.RayCollectors`; ``None``: in
        ``env``
    :param kwargs: see :class:`~sb3_metra.common.sac.SkillSAC`
    :raises ValueError: for arguments that do not go with collectors
    """

    _last_skills: np.ndarray | None = None
    _playback: Playback | None = None
    _played: np.ndarray  # actions that follow

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_prior: SkillPrior,
        *,
        collectors: Collectors | None = None,
        **kwargs: Any,
    ) -> None:
        self.collectors = collectors
        super().__init__(policy, env, skill_prior, **kwargs)

    @property
    def stepped(self) -> Any:
        """What a run steps through: the training environments, or the episodes of collectors."""
        if self.collectors is None:
            return self.env
        if self._playback is None or self._playback.collectors is not self.collectors:
            self._playback = Playback(self)
        return self._playback

    def _setup_model(self) -> None:
        super()._setup_model()
        self._check_collectors()

    def _check_collectors(self) -> None:
        if self.collectors is None:
            return
        if not isinstance(self.collectors, Collectors):
            raise ValueError(
                f"collectors must be Collectors such as RayCollectors, or None, got {shorten(self.collectors)}"
            )
        check_others(vars(self))
        if self._vec_normalize_env is not None:
            raise ValueError(
                "env must not be in a VecNormalize with collectors, because its statistics change here alone: let the "
                "environment normalise its observations by fixed numbers"
            )

    def _open_collectors(self) -> None:
        self._check_collectors()
        if isinstance(playback := self.stepped, Playback):
            playback.open()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if isinstance(playback := self.stepped, Playback) and self._last_obs is None:
            playback.restart()
        return super()._setup_learn(*args, **kwargs)

    def begin_new_episodes(self) -> None:
        """
        End the running episodes: the environments are reset before the next step, from a seed that depends on the
        model's seed and step.
        """
        assert self.env is not None
        self.env.seed(self.seed_of_step)
        self._last_obs = None

    @property
    def seed_of_step(self) -> int:
        """A seed that depends on the model's seed and step."""
        return int(np.random.SeedSequence([self.seed or 0, self.num_timesteps]).generate_state(1)[0] >> 1)

    def _begin_step(self, begins: bool) -> None:
        super()._begin_step(begins)
        if isinstance(playback := self.stepped, Playback):
            if begins:
                playback.begin_round()
            self._last_obs, self._last_skills, self._played = playback.look()

    def _act(self, observation: Any, skills: np.ndarray) -> tuple[SkillPolicy, np.ndarray]:
        return super()._act(observation, skills) if self.collectors is None else (self.policy, self._played)

    def _draw_skills(self, n: int) -> np.ndarray:
        """
        Skills of episodes that begin; those of collectors are asked for with them.

        :param n: number of episodes
        :return: (n, skill_dim)
        """
        skills = self.skill_prior.sample(n, self.skill_rng)
        if isinstance(playback := self.stepped, Playback):
            playback.skills.extend(skills)
        return skills

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "collectors", "_playback", "_played"]


CollectingSAC.__signature__ = full_signature(CollectingSAC)  # type: ignore[attr-defined]
