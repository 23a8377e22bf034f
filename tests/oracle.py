"""Compare METRA's gradient step with recorded ones of the authors' code, number by number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_metra import METRA
from sb3_metra.common.type_aliases import SkillReplayBufferSamples

#: Without these a file proves nothing.
CORE = {"rewards", "q_target", "phi_loss", "actor_loss", *(f"final/{net}" for net in ("actor", "phi", "q1", "q2"))}


class _Spaces(gym.Env):
    """An environment that is only its spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


class _ReplayedNoise:
    """Stands in for ``actor.action_log_prob``: hands on recorded noise and keeps what comes back."""

    def __init__(self, actor: Any) -> None:
        self._action_log_prob = actor.action_log_prob
        self.noise: list[th.Tensor] = []
        self.results: list[tuple[th.Tensor, th.Tensor]] = []

    def __call__(self, obs: Any) -> tuple[th.Tensor, th.Tensor]:
        self.results.append(self._action_log_prob(obs, self.noise.pop(0)))
        return self.results[-1]


def run_oracle(
    path: str | Path, *, fused: bool = False, channels_last: bool = False, **kwargs: Any
) -> dict[str, float]:
    """
    Take the gradient steps of a file with METRA's own ``gradient_step``.

    Understands state and pixel observations (``meta/pixel_shape``: height, width, channels; uint8 images),
    continuous and discrete skills, learnt and fixed entropy coefficients.

    :param path: a file in the form of tests/data/README.md
    :param fused: METRA's default optimiser, fused Adam, instead of the plain Adam of the recordings. Both follow the
        same formula but round differently, and phi's displacement, a small difference of large numbers, may magnify a
        rounding error of its weights a hundredfold.
    :param channels_last: METRA's default for images in memory instead of the recordings' channels first: the same
        convolutions, added up in another order
    :param kwargs: arguments of METRA to set otherwise than the file asks for
    :return: for each quantity, and for all weights of each network, the worst ||x - ref|| / ||ref|| over the steps
    :raises ValueError: where a file lacks one of the quantities without which nothing would be compared
    """
    with np.load(path) as archive:
        data = {name: archive[name] for name in archive.files}
    model = _build(data, fused, channels_last, kwargs)
    _set_weights(model, data)
    errors: dict[str, float] = {}
    for step in range(_count_steps(data)):
        reference = {name.split("/", 1)[1]: value for name, value in data.items() if name.startswith(f"step{step}/")}
        for name, value in _take_step(model, reference).items():
            if name in reference:
                errors[name] = max(errors.get(name, 0.0), _relative_error(value, reference[name]))
    for net in _networks(model):
        if any(name.startswith(f"final/{net}/") for name in data):
            got, expected = _final_weights(model, net, data)
            errors[f"final/{net}"] = _relative_error(got, expected)
    for name, dual in (("log_dual_lambda", model.objective.dual), ("log_ent_coef", model.entropy_dual)):
        if f"final/{name}" in data:
            errors[f"final/{name}"] = _relative_error(dual.log_value, data[f"final/{name}"])
    if missing := CORE - set(errors):
        raise ValueError(f"{path} must record {sorted(missing)}, got {sorted(errors)}")
    return errors


def _build(data: Mapping[str, np.ndarray], fused: bool, channels_last: bool, kwargs: Mapping[str, Any]) -> METRA:
    observations, actions, skills = (data[f"step0/{name}"] for name in ("observations", "actions", "skills"))
    policy_kwargs: dict[str, Any] = {
        "net_arch": {"pi": _hidden_units(data, "actor"), "qf": _hidden_units(data, "q1")},
        "optimizer_kwargs": {"fused": fused},
    }
    pixels = "meta/pixel_shape" in data
    if pixels:
        height, width, channels = (int(size) for size in data["meta/pixel_shape"])
        observation_space = spaces.Box(0, 255, (channels, height, width), np.uint8)
        depth = len(data["init/phi/conv0.bias"])
        policy_kwargs["features_extractor_kwargs"] = {"depth": depth, "channels_last": channels_last}
    else:
        observation_space = spaces.Box(-np.inf, np.inf, observations.shape[1:], np.float32)
    ent_coef = float(np.exp(data["init/log_ent_coef"]).item())
    arguments: dict[str, Any] = {
        "skill_dim": skills.shape[1],
        "discrete": bool(data["meta/discrete"]),
        "constraint_norm": "mean",
        "phi_kwargs": {"net_arch": _hidden_units(data, "phi")},
        "policy_kwargs": policy_kwargs,
        "ent_coef": f"auto_{ent_coef}" if _learns_ent_coef(data) else ent_coef,
        "batch_size": len(observations),
        "buffer_size": len(observations),
        "device": "cpu",
    }
    for name, key in (
        ("learning_rate", "lr"),
        *((key, key) for key in ("tau", "gamma", "target_entropy", "dual_slack")),
    ):
        arguments[name] = float(data[f"meta/{key}"])
    space = _Spaces(observation_space, spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32))
    return METRA("CnnPolicy" if pixels else "MlpPolicy", space, **(arguments | dict(kwargs)))


def _count_steps(data: Mapping[str, np.ndarray]) -> int:
    return len({name.split("/")[0] for name in data if re.match(r"step\d+/", name)})


def _learns_ent_coef(data: Mapping[str, np.ndarray]) -> bool:
    initial = data["init/log_ent_coef"].item()
    return "final/log_ent_coef" in data and bool(data["final/log_ent_coef"].item() != initial)


def _hidden_units(data: Mapping[str, np.ndarray], net: str) -> list[int]:
    n_layers = sum(layer.startswith("hidden") for layer in _layer_names(data, net))
    return [len(data[f"init/{net}/hidden{i}.bias"]) for i in range(n_layers)]


def _layer_names(data: Mapping[str, np.ndarray], net: str) -> list[str]:
    pattern = re.compile(rf"init/{net}/(\w+)\.weight")
    return sorted(match[1] for name in data if (match := pattern.fullmatch(name)))


def _networks(model: METRA) -> dict[str, tuple[nn.Module, nn.Module, dict[str, nn.Module]]]:
    """For each network of a file: its encoder, its hidden layers, and its other layers by name."""
    phi = model.objective.phi
    nets: dict[str, tuple[nn.Module, nn.Module, dict[str, nn.Module]]] = {
        "actor": (
            model.actor.features_extractor.extractor,
            model.actor.latent_pi,
            {"mean": model.actor.mu, "log_std": model.actor.log_std},
        ),
        "phi": (phi.features_extractor, phi.hidden, {"out": phi.out}),
    }
    for prefix, critic in (("q", model.critic), ("target_q", model.critic_target)):
        for i, (encoder, q_network) in enumerate(zip(critic.encoders, critic.q_networks, strict=True), start=1):
            nets[f"{prefix}{i}"] = (encoder.extractor, q_network, {"out": q_network[-1]})
    return nets


def _layer(model: METRA, net: str, name: str) -> nn.Module:
    encoder, hidden, others = _networks(model)[net]
    kind, index = re.fullmatch(r"([a-z_]+)(\d*)", name).groups()  # type: ignore[union-attr]
    if kind in ("conv", "hidden"):  # each followed by its activation
        return (encoder.cnn if kind == "conv" else hidden)[2 * int(index)]  # type: ignore[index, union-attr]
    return others[name]


def _set_weights(model: METRA, data: Mapping[str, np.ndarray]) -> None:
    with th.no_grad():
        for net in _networks(model):
            source = net.removeprefix("target_")
            for layer in _layer_names(data, source):
                for kind in ("weight", "bias"):
                    parameter = getattr(_layer(model, net, layer), kind)
                    value = _tensor(data[f"init/{source}/{layer}.{kind}"])
                    assert parameter.shape == value.shape, (net, layer, kind, parameter.shape, value.shape)
                    parameter.copy_(value)
        model.objective.dual.log_value.copy_(_tensor(data["init/log_dual_lambda"]))
        model.entropy_dual.log_value.copy_(_tensor(data["init/log_ent_coef"]))


def _final_weights(model: METRA, net: str, data: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    names = [(layer, kind) for layer in _layer_names(data, net.removeprefix("target_")) for kind in ("weight", "bias")]
    got = [getattr(_layer(model, net, layer), kind).detach().numpy().ravel() for layer, kind in names]
    expected = [data[f"final/{net}/{layer}.{kind}"].ravel() for layer, kind in names]
    return np.concatenate(got), np.concatenate(expected)


def _take_step(model: METRA, reference: Mapping[str, np.ndarray]) -> dict[str, Any]:
    batch = SkillReplayBufferSamples(
        _observations(model, reference["observations"]),
        _tensor(reference["actions"]),
        _observations(model, reference["next_observations"]),
        _tensor(reference["dones"]).reshape(-1, 1),
        th.zeros(len(reference["actions"]), 1),  # the step puts the intrinsic reward here
        _tensor(reference["skills"]),
    )
    replayed = _ReplayedNoise(model.actor)
    replayed.noise = [_tensor(reference[f"noise_{which}_action"]) for which in ("next", "new")]
    model.actor.action_log_prob = replayed  # type: ignore[assignment, method-assign]
    try:
        info = model.gradient_step(batch)
    finally:
        del model.actor.action_log_prob
    (next_action, log_prob_next), (new_action, log_prob_new) = replayed.results
    results = {
        "alignment_before_phi_step": info["alignment"],
        "slack": info["constraint_slack"],
        "phi_loss": info["phi_loss"],
        "dual_loss": info["dual_loss"],
        "dual_lambda_before": info["dual_lambda"],
        "dual_lambda_after": model.objective.dual.value,
        "rewards": info["intrinsic_reward"],
        "next_action": next_action,
        "log_prob_next_action": log_prob_next,
        "q_target": info["q_target"],
        "q1_loss": info["critic_loss"][0],
        "q2_loss": info["critic_loss"][1],
        "new_action": new_action,
        "log_prob_new_action": log_prob_new,
        "actor_loss": info["actor_loss"],
        "ent_coef_loss": info["ent_coef_loss"],
        "ent_coef_before": info["ent_coef"],
        "ent_coef_after": model.entropy_dual.value,
    }
    if not model.entropy_dual.learnable:
        del results["ent_coef_loss"]  # whatever a file says: nothing is minimised
    return results


def _tensor(array: np.ndarray) -> th.Tensor:
    return th.as_tensor(np.asarray(array, dtype=np.float32))


def _observations(model: METRA, array: np.ndarray) -> th.Tensor:
    shape = model.observation_space.shape
    assert shape is not None
    if len(shape) == 1:
        return _tensor(array)
    channels, height, width = shape
    images = array.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).astype(np.uint8)
    assert images.sum(dtype=np.int64) == array.sum(dtype=np.float64), "images must hold whole numbers from 0 to 255"
    return th.as_tensor(images.copy())


def _relative_error(value: Any, reference: np.ndarray) -> float:
    got = np.asarray(value.detach() if isinstance(value, th.Tensor) else value, dtype=np.float64).ravel()
    expected = np.asarray(reference, dtype=np.float64).ravel()
    assert got.shape == expected.shape, (got.shape, expected.shape)
    scale = np.linalg.norm(expected)
    error = float(np.linalg.norm(got - expected) / (scale if scale > 0 else 1.0))
    return error if math.isfinite(error) else math.inf  # NaN would get lost in a maximum
