"""The policy of a skill-conditioned SAC: actor and critics, where the skill is the policy's state."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_metra.common.actor_critic import SkillActor, SkillCritic
from sb3_metra.common.arguments import FLAG
from sb3_metra.common.categorical import CategoricalActor, CategoricalCritic
from sb3_metra.common.networks import PixelEncoder, SkillExtractor, prepare
from sb3_metra.common.policy_file import PersistentPolicy
from sb3_metra.common.prediction import StateReminder, read_starts
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.spaces import read_observations
from sb3_metra.common.type_aliases import Observations

Actor: TypeAlias = SkillActor | CategoricalActor
Critic: TypeAlias = SkillCritic | CategoricalCritic


class SkillPolicy(PersistentPolicy):
    """
    Actor and critics of a skill-conditioned SAC. A skill is the ``state`` of SB3's predictor protocol.

    :param observation_space: the environment's observations
    :param action_space: the environment's actions
    :param lr_schedule: learning rate as a function of the remaining progress, 1 to 0
    :param skill_prior: p(z), set by the algorithm
    :param net_arch: units of each hidden layer, or ``dict(pi=[...], qf=[...])``
    :param activation_fn: non-linearity of the critics
    :param actor_activation_fn: non-linearity of the actor (the authors' code: tanh)
    :param features_extractor_class: extractor for the observation, to whose features the skill is appended;
        ``None``: the policy's ``default_extractor``
    :param features_extractor_kwargs: its keyword arguments
    :param normalize_images: divide images by 255
    :param optimizer_class: optimiser of every network and multiplier
    :param optimizer_kwargs: its keyword arguments, without the learning rate; Adam is fused unless said otherwise
    :param actor_gain: scale of the actor's initial output weights: how much the first actions depend on the skill
        (the authors' code: 0.1)
    :param hard_bounds: let a log standard deviation beyond its bounds have no gradient at all (the authors' code, and
        SB3's): nothing brings it back then
    :param n_critics: number of Q-functions
    :param share_critic_encoder: one encoder of the observation for all Q-functions instead of one for each
    :param layer_norm: normalise the critics' hidden layers before their non-linearity (GenDa, arXiv 2607.00392)
    :param critic_dim: outputs of each critic, set by the algorithm
    :param actor_extractor_class: extractor for the observation that the actor has instead, such as
        ``sb3_metra.common.extractors.HiddenComponents``
    :param actor_extractor_kwargs: its keyword arguments
    """

    default_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    actor: Actor
    critic: Critic
    critic_target: Critic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        skill_prior: SkillPrior,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        actor_activation_fn: type[nn.Module] = nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        actor_gain: float = 0.1,
        hard_bounds: bool = False,
        n_critics: int = 2,
        share_critic_encoder: bool = False,
        layer_norm: bool = False,
        critic_dim: int = 1,
        actor_extractor_class: type[BaseFeaturesExtractor] | None = None,
        actor_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        extractor_class = self.default_extractor if features_extractor_class is None else features_extractor_class
        extractor_kwargs = dict(features_extractor_kwargs or {})
        if not normalize_images and issubclass(extractor_class, (NatureCNN, CombinedExtractor, PixelEncoder)):
            extractor_kwargs["normalized_image"] = True
        plain = not {"foreach", "differentiable"} & set(optimizer_kwargs or {})
        fused = {"fused": True} if optimizer_class is th.optim.Adam and plain else {}
        super().__init__(
            observation_space,
            action_space,
            extractor_class,
            extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=fused | (optimizer_kwargs or {}),
            squash_output=isinstance(action_space, spaces.Box),
        )
        self.skill_prior = skill_prior
        self._reminder = StateReminder()
        self.net_arch: list[int] | dict[str, list[int]] = [1024, 1024] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.actor_activation_fn = actor_activation_fn
        self.actor_gain, self.hard_bounds = actor_gain, hard_bounds
        self.n_critics = n_critics
        self.share_critic_encoder = share_critic_encoder
        self.layer_norm = layer_norm
        self.critic_dim = critic_dim
        self.actor_extractor_class, self.actor_extractor_kwargs = actor_extractor_class, actor_extractor_kwargs
        skill_space = spaces.Box(-np.inf, np.inf, (skill_prior.dim,), np.float32)
        self.conditioned_space = spaces.Dict({"observation": observation_space, "skill": skill_space})
        self._build(lr_schedule)

    @property
    def device(self) -> th.device:
        """Where the networks are."""
        return self.actor.device

    @property
    def _networks(self) -> tuple[type[Actor], type[Critic]]:
        """The classes of actor and critics for the kind of actions."""
        continuous = isinstance(self.action_space, spaces.Box)
        return (SkillActor, SkillCritic) if continuous else (CategoricalActor, CategoricalCritic)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.critic, self.critic_target = self.make_critic(), self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.critic_target.set_training_mode(False)
        for network in (self.actor, self.critic):
            network.optimizer = self.make_optimizer(network, lr_schedule(1))

    def make_optimizer(self, module: nn.Module, learning_rate: float) -> th.optim.Optimizer:
        """
        The policy's kind of optimiser for the parameters of a module.

        :param module: any module
        :param learning_rate: initial learning rate
        """
        learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return self.optimizer_class(learnt, lr=learning_rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def make_extractor(self) -> SkillExtractor:
        """A new extractor for S x Z."""
        return SkillExtractor(self.conditioned_space, self.features_extractor_class, self.features_extractor_kwargs)

    def make_actor(self) -> Actor:
        """A new actor with the paper's initial weights: its output layer's are a tenth of xavier-normal."""
        if self.actor_extractor_class is None:
            extractor = self.make_extractor()
        else:
            own = self.actor_extractor_kwargs or {}
            extractor = SkillExtractor(self.conditioned_space, self.actor_extractor_class, own)
        actor = self._networks[0](
            self.conditioned_space,
            self.action_space,  # type: ignore[arg-type]
            get_actor_critic_arch(self.net_arch)[0],
            extractor,
            extractor.features_dim,
            self.actor_activation_fn,
            normalize_images=self.normalize_images,
        )
        actor.initialize(self.actor_gain)
        if isinstance(actor, SkillActor):
            actor.hard_bounds = self.hard_bounds
        return actor

    def make_critic(self) -> Critic:
        """New Q-functions."""
        return self._networks[1](
            self.conditioned_space,
            self.action_space,
            get_actor_critic_arch(self.net_arch)[1],
            [self.make_extractor() for _ in range(1 if self.share_critic_encoder else self.n_critics)],
            self.n_critics,
            self.activation_fn,
            self.normalize_images,
            self.critic_dim,
            self.layer_norm,
        )

    def prepare(self, observations: Observations, bfloat16: bool = False) -> Observations:
        """
        Observations as every network takes them, done once for all of them.

        :param observations: (batch, \\*obs_shape), as they come from the environment
        :param bfloat16: round images now, as every network's first convolution does under autocast
        :return: floats, images as the extractor wants them in memory
        """
        extractor = self.actor.features_extractor.extractor
        if not isinstance(extractor, PixelEncoder):
            return prepare(observations, self.observation_space, self.normalize_images)
        assert isinstance(observations, th.Tensor)
        observations = observations.contiguous(memory_format=extractor.memory_format)  # while it is bytes
        images = prepare(observations, self.observation_space, self.normalize_images)
        return images.bfloat16() if bfloat16 else images

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        As SB3's, but rounding takes no action out of its bounds, and discrete actions stay as they are.

        :param scaled_action: in [-1, 1], (n, \\*action_shape)
        :return: in the action space, in its dtype
        """
        if not isinstance(self.action_space, spaces.Box):
            return scaled_action
        low, high = self.action_space.low, self.action_space.high
        actions = np.minimum(
            np.maximum(super().unscale_action(scaled_action), low), high
        )  # np.clip takes twice as long
        return actions.astype(self.action_space.dtype, copy=False)

    @staticmethod
    def condition(observations: Observations, skills: th.Tensor) -> dict[str, Any]:
        """
        A point of S x Z as actor and critic take it.

        :param observations: (batch, \\*obs_shape)
        :param skills: (batch, skill_dim)
        """
        return {"observation": observations, "skill": skills}

    def predict(  # type: ignore[override]
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Action for an observation and a skill, and the skill that was followed.

        :param observation: one observation or a batch of n
        :param state: skill to follow, (skill_dim,), or one for each observation, (n, skill_dim);
            ``None`` draws one from p(z) for each
        :param episode_start: (n,), where an episode begins and a new skill is to be drawn; ``None``: nowhere
        :param deterministic: the mode of the policy instead of a sample
        :return: actions, (n, \\*action_shape), and skills, (n, skill_dim); without the first axis for one observation
        :raises ValueError: if the observation is not finite or has another shape, or the skill cannot come from p(z)
        """
        arrays, n, vectorized = read_observations(observation, self.observation_space)
        starts, deterministic = read_starts(n, episode_start), FLAG("deterministic", deterministic)
        if state is None:
            self._reminder.remember(arrays, starts)
        else:
            self._reminder.forget()
        skills = self._choose_skills(n, state, starts)
        actions = self.unscale_action(self.act(obs_as_tensor(arrays, self.device), skills, deterministic))
        return (actions, skills) if vectorized else (actions[0], skills[0])

    def act(
        self,
        observations: PyTorchObs,
        skills: np.ndarray,
        deterministic: bool = False,
        noise: np.ndarray | None = None,
    ) -> np.ndarray:
        """
        :meth:`predict` without its checks and conversions.

        :param observations: on the device, (n, \\*obs_shape)
        :param skills: (n, skill_dim)
        :param deterministic: the mode of the policy instead of a sample
        :param noise: what a sample is made of, from the actor's ``draw_noise``; drawn here if not given
        :return: actions in [-1, 1], or discrete ones, (n, \\*action_shape)
        :raises ValueError: if they are not finite
        """
        if self.actor.training:
            self.set_training_mode(False)
        conditioned = self.condition(observations, th.as_tensor(skills, device=self.device))
        with th.inference_mode():
            if noise is None:
                return self.actor.to_array(self._predict(conditioned, deterministic))
            return self.actor.to_array(self.actor(conditioned, noise=th.as_tensor(noise, device=self.device)))

    def _choose_skills(self, n: int, state: np.ndarray | None, starts: np.ndarray | None) -> np.ndarray:
        if state is None:
            return self.skill_prior.sample(n)
        skills = self.skill_prior.validate(state)
        if skills.ndim == 1 or len(skills) == 1:
            skills = np.broadcast_to(skills, (n, self.skill_prior.dim))
        if len(skills) != n:
            raise ValueError(f"state must hold one skill for each of the {n} observations, got {len(skills)}")
        skills = skills.copy()
        if starts is not None:
            skills[starts] = self.skill_prior.sample(int(starts.sum()))
        return skills

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """As SB3's policies: actions in [-1, 1], or discrete ones, for a point of S x Z."""
        return self._predict(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self.actor(observation, deterministic)

    def train(self, mode: bool = True) -> SkillPolicy:
        """
        As PyTorch's, but the target critics stay in evaluation mode.

        :param mode: training mode for actor and critics
        """
        super().train(mode)
        self.critic_target.train(False)
        return self

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ["skill_prior", "net_arch", "activation_fn", "actor_activation_fn", "features_extractor_class"]
        names += [
            "features_extractor_kwargs",
            "optimizer_class",
            "optimizer_kwargs",
            "actor_gain",
            "hard_bounds",
            "n_critics",
            "share_critic_encoder",
            "layer_norm",
            "critic_dim",
            "actor_extractor_class",
            "actor_extractor_kwargs",
        ]
        constants = {"lr_schedule": self._dummy_schedule}
        return super()._get_constructor_parameters() | constants | {name: getattr(self, name) for name in names}


MlpPolicy = SkillPolicy


class CnnPolicy(SkillPolicy):
    """:class:`SkillPolicy` for images, with the paper's encoder; same parameters."""

    default_extractor = PixelEncoder


class MultiInputPolicy(SkillPolicy):
    """:class:`SkillPolicy` for dictionaries, with SB3's extractor for them; same parameters."""

    default_extractor = CombinedExtractor
