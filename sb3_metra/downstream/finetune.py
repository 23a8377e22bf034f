"""Fine-tuning: SB3's SAC on a task, started from one skill, whose place in the networks becomes a bias."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_metra.common.inputs import check_flag, check_numbers, check_text
from sb3_metra.common.skill_model import check_fit, require_prior


class SkillStartPolicy(SACPolicy):
    """
    SB3's ``SACPolicy`` whose critics may have another non-linearity than its actor.

    :param args: of ``SACPolicy``
    :param critic_activation_fn: non-linearity of the critics
    :param kwargs: of ``SACPolicy``
    """

    def __init__(self, *args: Any, critic_activation_fn: type[nn.Module] = nn.ReLU, **kwargs: Any) -> None:
        self.critic_activation_fn = critic_activation_fn
        super().__init__(*args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """As SB3's, with the critics' own non-linearity."""
        self.critic_kwargs["activation_fn"] = self.critic_activation_fn
        return super().make_critic(features_extractor)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"critic_activation_fn": self.critic_activation_fn}


def sac_from_skill(
    model: Any,
    env: GymEnv,
    skill: np.ndarray,
    *,
    critics: bool = False,
    observation_key: str = "observation",
    **kwargs: Any,
) -> SAC:
    """
    SB3's SAC, ready to learn a task, whose actor acts as a skill does.

    Actor and critics have the model's layers. The actor's first layer takes over the weights of the observation; those
    of the skill, times the skill, go to its bias; what the task adds to the observation starts with the weight 0. So
    actions, and the spread of those that are sampled, are the skill's. The result is an ordinary SAC: it saves, loads
    and learns as any other. Observations must be vectors: the encoder of images is not carried over.

    :param model: the skills, of any algorithm of this package
    :param env: the task
    :param skill: skill to start from, (skill_dim,)
    :param critics: start from the critics, too, which judge by the skill's intrinsic reward; else from fresh ones
    :param observation_key: where the model's observation is in a dictionary
    :param kwargs: of SAC; ``learning_starts`` is 0 unless given, since SAC acts at random until then
    :return: the algorithm
    :raises ValueError: if model and task do not fit, or observations are no vectors
    """
    prior = require_prior(model)
    skill = prior.validate(check_numbers("skill", skill))
    if skill.ndim != 1:
        raise ValueError(f"skill must be a single one, of shape ({prior.dim},), got {skill.shape}")
    check_flag("critics", critics)
    check_text("observation_key", observation_key)
    if not isinstance(env, gym.Env | VecEnv):
        raise ValueError(f"env must be an environment, or a vectorised one, got {env!r}")
    if getattr(model, "normalization", None) is not None and not _is_normalized(env):
        raise ValueError(
            "env must normalise observations as they were when the skills were learnt, got one that does not: wrap it "
            "with model.normalization.wrap(venv)"
        )
    encoders = model.policy.actor.features_extractor
    if not isinstance(model.action_space, spaces.Box):
        raise ValueError(f"model must have continuous actions, which SB3's SAC learns, got {model.action_space}")
    if not isinstance(model.observation_space, spaces.Box) or any(True for _ in encoders.parameters()):
        raise ValueError(
            f"model must see vectors without an encoder to learn, got observations {model.observation_space} and "
            f"the encoder {encoders.extractor}"
        )
    policy = model.policy
    sac = SAC(
        SkillStartPolicy,
        env,
        policy_kwargs={
            "net_arch": policy.net_arch,
            "activation_fn": policy.actor_activation_fn,
            "critic_activation_fn": policy.activation_fn,
            "n_critics": policy.n_critics,
            "features_extractor_class": _extractor_class(env),
        },
        **{"learning_starts": 0, "device": model.device, **kwargs},
    )
    key = check_fit(model, sac.observation_space, sac.action_space, observation_key)
    columns = _columns(sac.observation_space, key)
    z = th.as_tensor(skill, device=sac.device)
    with th.no_grad():
        _take_over(policy.actor.latent_pi, sac.actor.latent_pi, columns, z)
        for head in ("mu", "log_std"):
            getattr(sac.actor, head).load_state_dict(getattr(policy.actor, head).state_dict())
        if critics:
            for ours, theirs in zip(policy.critic.q_networks, sac.critic.q_networks, strict=True):
                _take_over(ours, theirs, columns, z)
            sac.critic_target.load_state_dict(sac.critic.state_dict())
    return sac


def _is_normalized(env: gym.Env | VecEnv) -> bool:
    return isinstance(env, VecEnv) and unwrap_vec_normalize(env) is not None


def _extractor_class(env: GymEnv) -> type[BaseFeaturesExtractor]:
    return CombinedExtractor if isinstance(env.observation_space, spaces.Dict) else FlattenExtractor


def _columns(space: spaces.Space, key: str | None) -> slice:
    """Where SB3's extractor puts the model's observation among a task's features."""
    if key is None:
        return slice(0, get_flattened_obs_dim(space))
    assert isinstance(space, spaces.Dict)
    sizes = {name: get_flattened_obs_dim(part) for name, part in space.spaces.items()}
    start = sum(size for name, size in sizes.items() if list(sizes).index(name) < list(sizes).index(key))
    return slice(start, start + sizes[key])


def _take_over(source: nn.Module, target: nn.Module, columns: slice, skill: th.Tensor) -> None:
    """
    Copy a network over (observation, skill, rest) into one over (task's observation, rest), the skill being fixed.

    :param source: its first layer's columns are the observation, the skill, and for a critic the action
    :param target: its first layer's are the task's features, the model's observation among them, and the action
    :param columns: those of the model's observation
    :param skill: (skill_dim,)
    """
    first, *others = [layer for layer in source.children() if isinstance(layer, nn.Linear)]
    its_first, *its_others = [layer for layer in target.children() if isinstance(layer, nn.Linear)]
    n = columns.stop - columns.start
    observation, at_skill, rest = first.weight.split([n, len(skill), first.in_features - n - len(skill)], dim=1)
    its_first.weight.zero_()
    its_first.weight[:, columns] = observation
    if rest.shape[1]:
        its_first.weight[:, -rest.shape[1] :] = rest
    its_first.bias.copy_(first.bias + at_skill @ skill)
    for layer, its_layer in zip(others, its_others, strict=True):
        its_layer.load_state_dict(layer.state_dict())
