"""Skill discovery with a representation phi of states: what METRA and its relatives share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.arrays import map_arrays, to_device
from sb3_metra.common.constructor import check_phi_kwargs
from sb3_metra.common.networks import Representation
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.prompts import (
    check_one,
    read_paths,
    read_rewards,
    read_transitions,
    require_direction,
    reward_direction,
)
from sb3_metra.common.representation import RepresentationObjective
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.skills import make_prior
from sb3_metra.common.spaces import read_observations

_MEASURED_STEPS = 10_000


class RepresentationDiscovery(SkillDiscovery):
    """
    An algorithm whose objective is a :class:`~sb3_metra.common.representation.RepresentationObjective`.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill, and of phi (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param unit_skills: continuous skills on the unit sphere instead of Gaussian ones
    :param phi_kwargs: arguments of phi, such as ``net_arch`` (default: ``[1024, 1024]``) and ``activation_fn``
    :param kwargs: SAC's and SB3's arguments, see :class:`~sb3_metra.common.sac.SkillSAC`
    """

    objective: RepresentationObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        unit_skills: bool = True,
        phi_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.phi_kwargs = {} if phi_kwargs is None else phi_kwargs
        super().__init__(policy, env, make_prior(skill_dim, discrete, unit_skills), **kwargs)

    def make_representation(self, dim: int | None = None, **kwargs: Any) -> Representation:
        """
        As the parent's, and with ``phi_kwargs``: phi itself, or a network of its kind.

        :param dim: components of its output; ``None``: as many as a skill has
        :param kwargs: arguments of :class:`~sb3_metra.common.networks.Representation` to set or to replace
        """
        extractor_class = self.policy.features_extractor_class
        self.phi_kwargs = check_phi_kwargs(Representation, self.phi_kwargs, extractor_class)
        return super().make_representation(dim, **(self.phi_kwargs | kwargs))

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """As the parent's; before the first gradient step, each phi that normalises steps measures them."""
        networks = [x for x in self.objective.modules() if isinstance(x, Representation) and x.step_scale is not None]
        if networks and not self._n_updates:
            assert self.replay_buffer is not None
            batch = self.replay_buffer.sample(_MEASURED_STEPS, env=self._vec_normalize_env)
            for network in networks:
                network.fit_steps(batch.observations, batch.next_observations)
        super().train(gradient_steps, batch_size)

    def encode(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        phi of observations.

        :param observation: one observation or a batch of n
        :return: (n, skill_dim), without the first axis for one observation
        :raises ValueError: if the observation is not finite, or has another shape
        """
        phi = self.objective.phi
        if phi.training:
            self.objective.eval()
        arrays, _, vectorized = read_observations(observation, self.observation_space)
        with th.no_grad():
            latents = phi(map_arrays(lambda x: to_device(x, phi.device), arrays)).cpu().numpy()
        if not np.isfinite(latents).all():
            raise ValueError("phi must be finite, got NaN or infinity: look at its weights, and at the observation")
        return latents if vectorized else latents[0]

    def skill_toward(
        self, observation: np.ndarray | dict[str, np.ndarray], goal: np.ndarray | dict[str, np.ndarray]
    ) -> np.ndarray:
        """
        The skill that leads from an observation to a goal (METRA paper, section 5.4): argmax_z <phi(g) - phi(s), z>.

        :param observation: one observation s, or a batch of n
        :param goal: an observation g of the goal, or a batch of n
        :return: (n, skill_dim), without the first axis for one observation
        """
        here, there = self.encode(observation), self.encode(goal)
        if here.ndim == there.ndim == 2 and len(here) != len(there):
            raise ValueError(f"goal must hold one for each of the {len(here)} observations, got {len(there)}")
        skills = self.objective.skill_along(self._features(np.atleast_2d(here), np.atleast_2d(there)))
        return skills if max(here.ndim, there.ndim) == 2 else skills[0]

    def infer_skill(  # type: ignore[override]
        self,
        *,
        goal: Any = None,
        reward: Any = None,
        trajectory: Any = None,
        observations: Any = None,
        next_observations: Any = None,
    ) -> np.ndarray:
        """
        The skill that answers a prompt, which is one of ``goal``, ``reward`` and ``trajectory``.

        A goal is reached as :meth:`skill_toward` says. A reward is regressed on what skills follow, phi(s') - phi(s)
        for most methods, and z is along the weights. A trajectory is answered by the skill along the sum of its
        steps. Observations are as ``predict`` takes them: a model that learnt on normalised ones needs those here.

        :param goal: an observation of the goal, or a batch of n
        :param reward: of each transition from ``observations`` to ``next_observations``, (n,), or several, (k, n); or
            a function of both that gives (n,), or a list of such functions
        :param trajectory: successive observations, (T + 1, \\*obs_shape), or a list of such trajectories
        :param observations: with a reward, those of transitions; with a goal, where the skill begins, ``None``: where
            the model's environments are, a skill for each
        :param next_observations: what followed on each; ``None``: ``observations`` are successive
        :return: a skill, (skill_dim,); for several goals, rewards or trajectories, (k, skill_dim)
        :raises ValueError: if there is no prompt, or it cannot be answered, in a sentence
        """
        check_one(goal=goal, reward=reward, trajectory=trajectory)
        if goal is not None:
            return self.skill_toward(self._here() if observations is None else observations, goal)
        if trajectory is not None:
            paths, several = read_paths(trajectory, self.observation_space)
            latents = [self.encode(path) for path in paths]
            directions = np.stack([self._features(x[:-1], x[1:]).sum(axis=0) for x in latents])
        else:
            before, after = read_transitions(observations, self.observation_space, next_observations)
            features = self._features(self.encode(before), self.encode(after))
            rewards, several = read_rewards(reward, before, after, len(features))
            directions = reward_direction(features, rewards)
        name = "reward" if trajectory is None else "trajectory"
        skills = self.objective.skill_along(require_direction(name, directions))
        return skills if several else skills[0]

    def _features(self, latents: np.ndarray, next_latents: np.ndarray) -> np.ndarray:
        """What transitions ask a skill to follow, (n, dim)."""
        device = self.objective.phi.device
        with th.no_grad():
            pair = th.broadcast_tensors(*(th.as_tensor(x, device=device) for x in (latents, next_latents)))
            return self.objective.features(*pair).cpu().numpy()

    def _here(self) -> Any:
        """What the model's environments show now, as the networks see it."""
        if self._last_obs is None:
            raise ValueError(
                "observations must be given with goal, because the model has no environment with a running episode: "
                "the observation where the skill begins"
            )
        return self._last_obs if self.n_envs > 1 else map_arrays(lambda x: x[0], self._last_obs)
