"""What every argument of an algorithm, its policy, phi and replay buffer must be, as tables by name."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import nn

from sb3_metra.common import arguments as args
from sb3_metra.common.arguments import FLAG, POSITIVE, Check, integer, number, optional, shorten
from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.dual import DualVariable
from sb3_metra.common.networks import find_activation


def _learning_rate(value: Any) -> Any:
    if not callable(value):
        return POSITIVE.read(value)
    for progress in (1.0, 0.5, 0.0):
        number(0).read(value(progress))
    return value


def _train_freq(value: Any) -> Any:
    if not isinstance(value, (tuple, list)):
        return integer(1).read(value)
    frequency, unit = value
    frequency, unit = integer(1).read(frequency), TrainFrequencyUnit(unit)
    return TrainFreq(frequency, unit) if isinstance(value, TrainFreq) else (frequency, unit.value)


def _ent_coef(value: Any) -> Any:
    DualVariable.parse(value)
    return value


def _target_entropy(value: Any) -> Any:
    share = value.removeprefix("auto_") if isinstance(value, str) else value
    if share != value:
        number().read(float(share))
    return value if value == "auto" or share != value else number().read(_from_text(value))


def _from_text(value: Any) -> Any:
    """SB3 takes a number in a string for its coefficients."""
    return float(value) if isinstance(value, str) else value


def _device(value: Any) -> Any:
    if value != "auto":
        try:
            th.zeros(1, device=value if isinstance(value, th.device) else str(value))
        except (RuntimeError, AssertionError):
            raise ValueError from None
    return value


def _layers(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() != {"pi", "qf"}:
            raise ValueError
        return {name: args.UNITS.read(units) for name, units in value.items()}
    return args.UNITS.read(value)


def _activation(value: Any) -> Any:
    found = find_activation(value)
    if not isinstance(found(), nn.Module):
        raise TypeError
    return found


def _callback(value: Any) -> Any:
    if isinstance(value, list):
        if not all(isinstance(x, BaseCallback) for x in value):
            raise TypeError
    elif value is not None and not isinstance(value, BaseCallback) and (isinstance(value, type) or not callable(value)):
        raise TypeError
    return value


ACTIVATION = Check("a class of torch.nn that needs no arguments, or its name, such as ReLU", _activation)
EXTRACTOR = {
    "features_extractor_class": optional(args.subclass("a subclass of BaseFeaturesExtractor", BaseFeaturesExtractor)),
    "features_extractor_kwargs": optional(args.ARGUMENTS),
    "normalize_images": FLAG,
}

#: Arguments that are attributes of every algorithm.
ALGORITHM: dict[str, Check] = {
    "learning_rate": Check(
        "a finite number greater than 0, or a function of the remaining progress, 1 to 0, that gives numbers of at "
        "least 0",
        _learning_rate,
    ),
    "buffer_size": integer(1),
    "learning_starts": integer(0),
    "batch_size": integer(1),
    "objective_batch_size": optional(integer(1)),
    "tau": number(0, 1),
    "gamma": number(0, 1),
    "train_freq": Check('a positive integer, or a pair such as (1, "episode") or (8, "step")', _train_freq),
    "gradient_steps": integer(-1),
    "action_noise": optional(args.instance("an ActionNoise of SB3", ActionNoise)),
    "replay_buffer_class": optional(args.subclass("a subclass of SkillReplayBuffer", SkillReplayBuffer)),
    "ent_coef": Check('a number of at least 0, "auto" to learn it, or "auto_0.01" to learn it from 0.01', _ent_coef),
    "target_entropy": Check('a finite number, "auto" or a share such as "auto_0.5"', _target_entropy),
    "random_warmup": FLAG,
    "bfloat16": FLAG,
    "tf32": FLAG,
    "cudnn_deterministic": FLAG,
    "cuda_graph": FLAG,
    "overlap": FLAG,
    "tensorboard_log": optional(args.PATH),
}

#: Arguments that SB3's constructor uses itself.
FIRST: dict[str, Check] = {
    "stats_window_size": integer(1),
    "verbose": integer(0),
    "device": Check('"auto", "cpu" or another device that PyTorch finds here', _device),
    "policy_kwargs": optional(args.ARGUMENTS),
    "replay_buffer_kwargs": optional(args.ARGUMENTS),
    "_init_setup_model": FLAG,
}

#: ``policy_kwargs``.
POLICY: dict[str, Check] = EXTRACTOR | {
    "net_arch": optional(Check("a list of positive integers, or dict(pi=[...], qf=[...]) of such", _layers)),
    "activation_fn": ACTIVATION,
    "actor_activation_fn": ACTIVATION,
    "optimizer_class": args.subclass("a subclass of torch.optim.Optimizer", th.optim.Optimizer),
    "optimizer_kwargs": optional(args.ARGUMENTS),
    "actor_gain": number(0),
    "hard_bounds": FLAG,
    "n_critics": integer(1),
    "share_critic_encoder": FLAG,
    "actor_extractor_class": EXTRACTOR["features_extractor_class"],
    "actor_extractor_kwargs": EXTRACTOR["features_extractor_kwargs"],
    "layer_norm": FLAG,
}

#: ``phi_kwargs``.
PHI: dict[str, Check] = EXTRACTOR | {
    "net_arch": optional(args.UNITS),
    "activation_fn": ACTIVATION,
    "normalize_steps": FLAG,
}

#: ``replay_buffer_kwargs``.
REPLAY: dict[str, Check] = {
    "handle_timeout_termination": FLAG,
    "optimize_memory_usage": args.choice(False),
    "n_stack": integer(1),
    "storage": args.choice("auto", "device", "host"),
}

#: Arguments of ``learn``.
LEARN: dict[str, Check] = {
    "total_timesteps": integer(0),
    "callback": Check("a callback of SB3, a list of them, or a function", _callback),
    "log_interval": optional(integer(1)),
    "tb_log_name": optional(args.instance("a string", str)),
    "reset_num_timesteps": FLAG,
    "progress_bar": FLAG,
}

SEED = optional(integer(0, 2**32 - 1))

_SPACES = ("observation_space", "action_space")
_OF_POLICY = (*_SPACES, "lr_schedule", "skill_prior", "critic_dim")  # what the algorithm tells the policy
_OF_REPLAY = (*_SPACES, "buffer_size", "device", "n_envs", "skill_dim")


def check_first(policy: Any, policies: Mapping[str, Any], base: type[BasePolicy], **values: Any) -> dict[str, Any]:
    """
    Read what SB3's constructor uses itself.

    :param policy: the policy's name or class
    :param policies: classes by name
    :param base: the class that a policy must derive from
    :param values: the arguments in ``FIRST``
    :return: ``values``, as they are to be used
    :raises ValueError: for the first that does not fit
    """
    known = policy in policies if isinstance(policy, str) else isinstance(policy, type) and issubclass(policy, base)
    if not known:
        names = ", ".join(f'"{name}"' for name in policies)
        raise ValueError(
            f"policy must be a {base.__name__}: {names} or a subclass, got {shorten(policy)}; if this is a saved "
            "model, it is one of another algorithm"
        )
    read = args.check_table(FIRST, values)
    for name, own in (("policy_kwargs", _OF_POLICY), ("replay_buffer_kwargs", _OF_REPLAY)):
        if taken := set(own) & set(read[name] or {}):
            raise ValueError(f"{name} must not hold {min(taken)}, which the algorithm sets, got {shorten(read[name])}")
    return read


def check_arguments(model: Any) -> None:
    """
    Read the arguments that are attributes of an algorithm, and check them against each other.

    :param model: a :class:`~sb3_metra.common.sac.SkillSAC` before it builds anything
    :raises ValueError: for the first that does not fit
    """
    for name, value in args.check_table(ALGORITHM, {name: getattr(model, name) for name in ALGORITHM}).items():
        setattr(model, name, value)
    size = model.batch_size
    if model.objective_batch_size is not None and (size := model.objective_batch_size) < model.batch_size:
        raise ValueError(f"objective_batch_size must be at least batch_size={model.batch_size}, got {size}")
    if size > model.buffer_size:
        raise ValueError(f"buffer_size must hold at least one batch of {size} transitions, got {model.buffer_size}")
    check_train_freq(model.train_freq, model.n_envs)
    if model.action_noise is not None:
        if not isinstance(model.action_space, spaces.Box):
            raise ValueError(f"action_noise must be None for actions in {model.action_space}, got {model.action_noise}")
        model.action_noise = read_noise(model.action_noise, model.action_space.shape, model.n_envs)
    model.policy_kwargs = check_policy_kwargs(model.policy_class, model.policy_kwargs)
    extractor = _extractor(model.policy_class, model.policy_kwargs)
    if issubclass(extractor, CombinedExtractor) and not isinstance(model.observation_space, spaces.Dict):
        raise ValueError(
            f"policy must be MlpPolicy or CnnPolicy for observations in {model.observation_space}, which is no Dict, "
            f"got {model.policy_class.__name__}"
        )


def check_train_freq(train_freq: Any, n_envs: int) -> None:
    """
    Refuse rounds of whole episodes if several environments end theirs at different times.

    :param train_freq: steps, or a pair of a number and a unit
    :param n_envs: number of environments
    :raises ValueError: if it counts episodes of several environments
    """
    if n_envs > 1 and isinstance(train_freq, tuple) and TrainFrequencyUnit(train_freq[1]).value == "episode":
        raise ValueError(f"train_freq must count steps with {n_envs} environments, got {tuple(train_freq)}")


def read_noise(noise: ActionNoise, shape: tuple[int, ...], n_envs: int) -> ActionNoise:
    """
    Noise for as many environments as there are.

    :param noise: is left as it is, and NumPy's global state with it
    :param shape: of one action
    :param n_envs: number of environments
    :return: the same noise; if it was made for another number of environments, a new one of its kind
    :raises ValueError: if a sample has another shape than an action, or is not finite
    """
    vectorized = isinstance(noise, VectorizedActionNoise)
    one = noise.base_noise if isinstance(noise, VectorizedActionNoise) else noise
    state = np.random.get_state()
    try:
        sample = np.asarray(copy.deepcopy(one)(), dtype=np.float64)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"action_noise must give arrays of numbers, got {shorten(noise)}: {error}") from None
    finally:
        np.random.set_state(state)
    if sample.shape != shape or not np.isfinite(sample).all():
        raise ValueError(f"action_noise must give finite numbers of shape {shape}, got {shorten(sample.tolist())}")
    return VectorizedActionNoise(one, n_envs) if vectorized and noise.n_envs != n_envs else noise  # type: ignore[attr-defined]


def check_policy_kwargs(policy_class: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Read ``policy_kwargs``.

    :param policy_class: the policy
    :param kwargs: its arguments
    :return: the same, as they are to be used
    :raises ValueError: for the first that does not fit, or has another name
    """
    args.check_names("policy_kwargs", kwargs, policy_class)
    kwargs = args.check_table(POLICY, kwargs, "in policy_kwargs")
    _check_extractor(_extractor(policy_class, kwargs), kwargs.get("features_extractor_kwargs"))
    _check_extractor(
        kwargs.get("actor_extractor_class"), kwargs.get("actor_extractor_kwargs"), "actor_extractor_kwargs"
    )
    if kwargs.keys() & {"optimizer_class", "optimizer_kwargs"}:
        _check_optimizer(kwargs.get("optimizer_class", th.optim.Adam), kwargs.get("optimizer_kwargs") or {})
    return kwargs


def check_network_kwargs(
    name: str, network: Any, kwargs: Any, own: tuple[str, ...] = ("input_dim", "output_dim")
) -> dict[str, Any]:
    """
    Read the arguments of a network that a method has beside actor and critics.

    :param name: of the argument that holds them
    :param network: its class, or the function that makes it
    :param kwargs: the arguments; ``None``: none
    :param own: arguments that the method sets
    :return: the same, as they are to be used
    :raises ValueError: for the first that does not fit, or has another name
    """
    kwargs = args.ARGUMENTS(name, {} if kwargs is None else kwargs)
    args.check_names(name, kwargs, network, own)
    return args.check_table(PHI, kwargs, f"in {name}")


def check_phi_kwargs(phi_class: type, kwargs: Any, extractor: type, name: str = "phi_kwargs") -> dict[str, Any]:
    """
    Read ``phi_kwargs``.

    :param phi_class: phi
    :param kwargs: its arguments
    :param extractor: the policy's extractor, which phi takes, too, unless told otherwise
    :param name: of another argument that holds arguments of such a network
    :return: the same, as they are to be used
    :raises ValueError: for the first that does not fit, or has another name
    """
    kwargs = check_network_kwargs(name, phi_class, kwargs, (*_SPACES, "dim"))
    _check_extractor(kwargs.get("features_extractor_class") or extractor, kwargs.get("features_extractor_kwargs"))
    return kwargs


def check_replay_kwargs(buffer_class: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Read ``replay_buffer_kwargs``.

    :param buffer_class: the replay buffer
    :param kwargs: its arguments
    :return: the same, as they are to be used
    :raises ValueError: for the first that does not fit, or has another name
    """
    args.check_names("replay_buffer_kwargs", kwargs, buffer_class)
    kwargs = args.check_table(REPLAY, kwargs, "in replay_buffer_kwargs")
    kwargs.pop("optimize_memory_usage", None)  # an argument of SB3's algorithms as well, which hand it on
    return kwargs


def check_folder(name: str, path: str | os.PathLike[str]) -> None:
    """
    Make a folder, unless it is there.

    :param name: the argument that names it
    :param path: the folder
    :raises ValueError: if it cannot be written to
    """
    try:
        os.makedirs(path, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(f"{name} must be a folder that can be written to, got {os.fspath(path)!r}")


def parse_target_entropy(target_entropy: str | float, unit: float, default_share: float) -> float:
    """
    The entropy that a learnt entropy coefficient aims at.

    :param target_entropy: a number, ``"auto_SHARE"`` for a share of ``unit``, or ``"auto"`` for ``default_share``
    :param unit: entropy in nats
    :param default_share: share of ``unit``
    :return: entropy in nats
    """
    if not isinstance(target_entropy, str):
        return target_entropy
    return unit * (default_share if target_entropy == "auto" else float(target_entropy.removeprefix("auto_")))


def _extractor(policy_class: Any, kwargs: dict[str, Any]) -> type[BaseFeaturesExtractor]:
    return kwargs.get("features_extractor_class") or policy_class.default_extractor


def _check_extractor(
    extractor: type | None, kwargs: dict[str, Any] | None, name: str = "features_extractor_kwargs"
) -> None:
    if kwargs and extractor is None:
        raise ValueError(f"{name} must come with a class that takes them, got {shorten(kwargs)}")
    args.check_names(name, kwargs or {}, extractor or object, ("observation_space",))


def _check_optimizer(optimizer_class: type[th.optim.Optimizer], kwargs: dict[str, Any]) -> None:
    """Take a step on a layer, for what an optimiser says no to depends on its class."""
    args.check_names("optimizer_kwargs", kwargs, optimizer_class, ("params", "lr"))
    layer = nn.Linear(1, 1)
    for parameter in layer.parameters():
        parameter.grad = th.zeros_like(parameter)
    try:
        optimizer_class(layer.parameters(), lr=1e-3, **kwargs).step()  # type: ignore[call-arg]
    except Exception as error:
        raise ValueError(
            f"optimizer_class must be an optimizer that steps on gradients of weights and biases with its "
            f"optimizer_kwargs, got {optimizer_class.__name__} and {shorten(kwargs)}: {error}"
        ) from None


def check_rate(rate: float, progress: float) -> float:
    """
    Refuse what a schedule gives while training.

    :param rate: learning rate
    :param progress: the remaining progress, 1 to 0
    :raises ValueError: if it is not finite, or negative
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"learning_rate must be a finite number of at least 0, got {rate} at progress {progress:.3g}")
    return rate
