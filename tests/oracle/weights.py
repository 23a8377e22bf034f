"""Every tensor of a model that a recorded file names, under the file's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.nn.utils import parametrize

from sb3_metra.common.networks import Representation
from sb3_metra.common.skill_discovery import SkillDiscovery

#: What a recorded file calls the networks of our objectives.
NETWORKS = {
    "phi": "phi",
    "mean": "distance",
    "log_std": "distance_log_std",
    "discriminator": "discriminator",
    "discriminator_log_std": "discriminator_log_std",
    "dynamics": "skill_dynamics",
    "skill_encoder": "skill_encoder",
    "predictor": "predictor",
}


def named_tensors(model: SkillDiscovery) -> dict[str, th.Tensor]:
    """Weights, multipliers, power iteration's vectors and running statistics, to read and to set."""
    actor = model.actor
    layers = {
        "actor": _number("hidden", _layers(actor.latent_pi))
        | _number("conv", _layers(actor.features_extractor.extractor))
        | {"mean": actor.mu, "log_std": actor.log_std}
    }
    for prefix, critic in (("q", model.critic), ("target_q", model.critic_target)):
        for i, (encoder, q_network) in enumerate(zip(critic.encoders, critic.q_networks, strict=True), start=1):
            layers[f"{prefix}{i}"] = _number("conv", _layers(encoder.extractor)) | _perceptron(q_network)
    for name, net in NETWORKS.items():
        if (module := getattr(model.objective, name, None)) is not None:
            layers[net] = _network(module)
    tensors = {
        f"{net}/{layer}.{kind}": tensor
        for net, named in layers.items()
        for layer, module in named.items()
        for kind, tensor in _tensors(module).items()
    }
    tensors["log_ent_coef"] = model.entropy_dual.log_value
    if hasattr(model.objective, "dual"):
        tensors["log_dual_lambda"] = model.objective.dual.log_value
    return tensors | _statistics(model.objective)


def hidden_units(data: Mapping[str, np.ndarray], net: str) -> list[int]:
    """Units of each hidden layer of a recorded network."""
    pattern = re.compile(rf"init/{net}/hidden(\d+)\.bias")
    sizes = {int(match[1]): len(data[name]) for name in data if (match := pattern.fullmatch(name))}
    return [sizes[i] for i in range(len(sizes))]


def _statistics(objective: Any) -> dict[str, th.Tensor]:
    tensors = {}
    for name in ("state_norm", "difference_norm"):
        if (norm := getattr(objective, name, None)) is not None:
            tensors |= {f"{name}/running_mean": norm.running_mean, f"{name}/running_var": norm.running_var}
    if hasattr(objective, "state_norm"):  # the recordings' scale and shift belong to no optimiser: they stay 1 and 0
        ones = th.ones_like(objective.state_norm.running_mean)
        tensors |= {"state_norm/weight": ones, "state_norm/bias": 0.0 * ones}
    if hasattr(objective, "entropy"):
        moments = objective.entropy.moments
        tensors |= {"rms_mean": moments.mean, "rms_var": moments.var, "rms_count": moments.count}
    return tensors


def _network(module: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(module, Representation):
        return _perceptron(module)
    extractor = _layers(module.features_extractor)
    return _number("conv", extractor) | _number("hidden", _layers(module.hidden)) | {"out": module.out}


def _perceptron(module: nn.Module) -> dict[str, nn.Module]:
    *hidden, out = _layers(module)
    return _number("hidden", hidden) | {"out": out}


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def _number(kind: str, layers: Iterable[nn.Module]) -> dict[str, nn.Module]:
    return {f"{kind}{i}": layer for i, layer in enumerate(layers)}


def _tensors(layer: Any) -> dict[str, th.Tensor]:
    if not parametrize.is_parametrized(layer, "weight"):
        return {"weight": layer.weight, "bias": layer.bias}
    normalized = layer.parametrizations.weight
    return {"weight": normalized.original, "bias": layer.bias, "u": normalized[0].u, "v": normalized[0].v}
