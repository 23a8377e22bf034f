"""pi(a|s, z) and Q(s, a, z): SB3's actor and critic over S x Z, where the skill is the policy's state."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.sac.policies import Actor
from torch import nn
from torch.distributions import Normal

from sb3_metra.common.arguments import FLAG, shorten
from sb3_metra.common.networks import PixelEncoder, SkillExtractor, initialize, prepare
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.spaces import read_observations
from sb3_metra.common.type_aliases import Observations

LOG_STD_MIN = math.log(1e-6)
LOG_STD_MAX = 2.0
_SQUASH_EPSILON = 1e-6  # inside the logarithm of the squashing correction, as in the authors' code


class SkillActor(Actor):
    """SB3's squashed Gaussian actor with the paper's bounds for the standard deviation and explicit noise."""

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        :param obs: observation and skill, each (batch, ...)
        :return: mean and log standard deviation before squashing, each (batch, action_dim), and nothing else
        """
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        log_std = self.log_std(latent).float().clamp(LOG_STD_MIN, LOG_STD_MAX)  # type: ignore[operator]
        return self.mu(latent).float(), log_std, {}

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...), as they come from the environment, or prepared
        :param features_extractor: an extractor for both
        """
        return features_extractor(prepare(obs, self.observation_space, self.normalize_images))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...)
        :param deterministic: take the mode instead of a sample
        :return: actions in [-1, 1], (batch, action_dim)
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        return th.tanh(mean if deterministic else mean + log_std.exp() * th.randn_like(mean))

    def action_log_prob(self, obs: PyTorchObs, noise: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        A reparametrised sample and its log-probability.

        :param obs: observation and skill, each (batch, ...)
        :param noise: draws from N(0, 1) behind the sample, (batch, action_dim); drawn here if not given
        :return: actions in [-1, 1], (batch, action_dim), and log pi(a|s, z), (batch, 1)
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        std = log_std.exp()
        gaussian = mean + std * (th.randn_like(mean) if noise is None else noise)
        actions = th.tanh(gaussian)
        # written out as the authors do: with a tiny std the rounding of `gaussian` is part of the result
        log_prob = Normal(mean, std, validate_args=False).log_prob(gaussian)
        correction = th.log(1.0 - actions.square() + _SQUASH_EPSILON)
        return actions, (log_prob.sum(dim=1) - correction.sum(dim=1)).unsqueeze(1)


class SkillCritic(BaseModel):
    """
    Q-functions over S x A x Z, each with its own encoder of the observation, or all with one.

    :param observation_space: the space S x Z
    :param action_space: actions
    :param net_arch: units of each hidden layer
    :param features_extractors: one for all Q-functions, or one for each
    :param n_critics: number of Q-functions
    :param activation_fn: non-linearity of the hidden layers
    :param normalize_images: divide images by 255
    :param critic_dim: outputs of each: 1 for a value, skill_dim for successor features
    :param layer_norm: normalise each hidden layer before its non-linearity
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractors: list[BaseFeaturesExtractor],
        n_critics: int = 2,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        critic_dim: int = 1,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_images=normalize_images)
        self.encoders = nn.ModuleList(features_extractors)
        input_dim = features_extractors[0].features_dim + get_action_dim(action_space)
        norms: list[type[nn.Module]] = [nn.LayerNorm] if layer_norm else []
        self.q_networks = nn.ModuleList(
            nn.Sequential(*create_mlp(input_dim, critic_dim, net_arch, activation_fn, post_linear_modules=norms))
            for _ in range(n_critics)
        )
        initialize(self.q_networks, nn.init.xavier_normal_)

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param obs: observation and skill, each (batch, ...)
        :param actions: in [-1, 1], (batch, action_dim)
        :return: for each Q-function its values, (batch, critic_dim)
        """
        inputs = prepare(obs, self.observation_space, self.normalize_images)
        features = [th.cat([encoder(inputs), actions], dim=1) for encoder in self.encoders]
        features = features * (len(self.q_networks) // len(features))
        return tuple(q_network(x).float() for q_network, x in zip(self.q_networks, features, strict=True))


class SkillPolicy(BasePolicy):
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
    :param n_critics: number of Q-functions
    :param share_critic_encoder: one encoder of the observation for all Q-functions instead of one for each
    :param layer_norm: normalise the critics' hidden layers before their non-linearity (GenDa, arXiv 2607.00392)
    :param critic_dim: outputs of each critic, set by the algorithm
    :param actor_extractor_class: extractor for the observation that the actor has instead, such as
        :class:`~sb3_metra.common.extractors.HiddenComponents`
    :param actor_extractor_kwargs: its keyword arguments
    """

    default_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    actor: SkillActor
    critic: SkillCritic
    critic_target: SkillCritic
    _before: list[Any] | None = None  # observations of the last call of predict, if it had no state
    _warned_of_new_skills = False

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
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
            squash_output=True,
        )
        self.skill_prior = skill_prior
        self.net_arch: list[int] | dict[str, list[int]] = [1024, 1024] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.actor_activation_fn = actor_activation_fn
        self.actor_gain = actor_gain
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
        """Where the networks are; SB3 walks through all modules for it, at every step."""
        weight = self.actor.mu.weight
        assert isinstance(weight, th.Tensor)
        return weight.device

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

    def make_actor(self) -> SkillActor:
        """A new actor with the paper's initial weights: its output layer's are a tenth of xavier-normal."""
        if self.actor_extractor_class is None:
            extractor = self.make_extractor()
        else:
            own = self.actor_extractor_kwargs or {}
            extractor = SkillExtractor(self.conditioned_space, self.actor_extractor_class, own)
        actor = SkillActor(
            self.conditioned_space,
            self.action_space,  # type: ignore[arg-type]
            get_actor_critic_arch(self.net_arch)[0],
            extractor,
            extractor.features_dim,
            self.actor_activation_fn,
            normalize_images=self.normalize_images,
        )
        initialize(actor.latent_pi, nn.init.xavier_uniform_)
        for head, gain in ((actor.mu, self.actor_gain), (actor.log_std, 0.1)):
            initialize(head, nn.init.xavier_normal_, gain)  # type: ignore[arg-type]
        return actor

    def make_critic(self) -> SkillCritic:
        """New Q-functions."""
        return SkillCritic(
            self.conditioned_space,
            self.action_space,  # type: ignore[arg-type]
            get_actor_critic_arch(self.net_arch)[1],
            [self.make_extractor() for _ in range(1 if self.share_critic_encoder else self.n_critics)],
            self.n_critics,
            self.activation_fn,
            self.normalize_images,
            self.critic_dim,
            self.layer_norm,
        )

    def prepare(self, observations: Observations) -> Observations:
        """
        Observations as every network takes them, done once for all of them.

        :param observations: (batch, \\*obs_shape), as they come from the environment
        :return: floats, images as the extractor wants them in memory
        """
        extractor = self.actor.features_extractor.extractor
        if isinstance(extractor, PixelEncoder):
            assert isinstance(observations, th.Tensor)
            observations = observations.contiguous(memory_format=extractor.memory_format)  # while it is bytes
        return prepare(observations, self.observation_space, self.normalize_images)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        As SB3's, but rounding takes no action out of its bounds.

        :param scaled_action: in [-1, 1], (n, \\*action_shape)
        :return: in the action space, in its dtype
        """
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        return np.clip(super().unscale_action(scaled_action), low, high).astype(self.action_space.dtype)

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
        begins, deterministic = self._read_starts(n, episode_start), FLAG("deterministic", deterministic)
        if state is None:
            self._warn_of_new_skills(arrays, begins)
        else:
            self._before = None
        skills = self._choose_skills(n, state, begins)
        actions = self.unscale_action(self.act(obs_as_tensor(arrays, self.device), skills, deterministic))
        return (actions, skills) if vectorized else (actions[0], skills[0])

    def act(self, observations: PyTorchObs, skills: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """
        :meth:`predict` without its checks and conversions.

        :param observations: on the device, (n, \\*obs_shape)
        :param skills: (n, skill_dim)
        :param deterministic: the mode of the policy instead of a sample
        :return: actions in [-1, 1], (n, \\*action_shape)
        :raises ValueError: if they are not finite
        """
        if self.actor.training:
            self.set_training_mode(False)
        conditioned = self.condition(observations, th.as_tensor(skills, device=self.device))
        with th.no_grad():
            actions = self._predict(conditioned, deterministic).cpu().numpy()
        if not np.vdot(actions, actions) < np.inf:
            raise ValueError("actions must be finite, got NaN or infinity from the actor: look at its weights")
        return actions.reshape(-1, *self.action_space.shape)  # type: ignore[misc]

    def _choose_skills(self, n: int, state: np.ndarray | None, begins: np.ndarray | None) -> np.ndarray:
        if state is None:
            return self.skill_prior.sample(n)
        skills = self.skill_prior.validate(state)
        if skills.ndim == 1 or len(skills) == 1:
            skills = np.broadcast_to(skills, (n, self.skill_prior.dim))
        if len(skills) != n:
            raise ValueError(f"state must hold one skill for each of the {n} observations, got {len(skills)}")
        skills = skills.copy()
        if begins is not None:
            skills[begins] = self.skill_prior.sample(int(begins.sum()))
        return skills

    @staticmethod
    def _read_starts(n: int, episode_start: np.ndarray | None) -> np.ndarray | None:
        if episode_start is None:
            return None
        starts = np.asarray(episode_start)
        flags = starts if starts.dtype == np.bool_ else starts == 1
        if starts.dtype.kind not in "biuf" or starts.shape not in ((), (n,)) or not (flags | (starts == 0)).all():
            raise ValueError(
                f"episode_start must be True or False for each of the {n} observations, got {shorten(episode_start)}"
            )
        return np.broadcast_to(flags, n)

    def _warn_of_new_skills(self, arrays: Any, begins: np.ndarray | None) -> None:
        """Warn once where ``predict`` is called again without a state, after one call and on other observations."""
        if self._warned_of_new_skills or (begins is not None and begins.all()):
            return
        parts = arrays.values() if isinstance(arrays, dict) else [arrays]
        now = [(x.shape, x.tobytes()) for x in parts]
        before, self._before = self._before, now
        if before is None or before == now or [shape for shape, _ in before] != [shape for shape, _ in now]:
            return
        self._warned_of_new_skills, self._before = True, None
        warnings.warn(
            "predict was called again without state, so that each step follows another skill: hand back the state that "
            "it returned, as in `action, skill = model.predict(obs, state=skill)`",
            stacklevel=4,
        )

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """As SB3's policies: actions in [-1, 1] for a point of S x Z."""
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
