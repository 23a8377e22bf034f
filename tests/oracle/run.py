"""Take the recorded gradient steps with the package's own ``gradient_step``."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from tests.oracle.methods import Method, Recorded, find_method
from tests.oracle.weights import hidden_units, named_tensors

#: Without these a file proves nothing, whatever the method; :attr:`Method.core` adds its own.
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
    path: str | Path, *, fused: bool = False, channels_last: bool = False, device: str = "cpu", **kwargs: Any
) -> dict[str, float]:
    """
    Take the gradient steps of a file with its method's own ``gradient_step``.

    Understands state and pixel observations (``meta/pixel_shape``: height, width, channels; uint8 images),
    continuous and discrete skills, learnt and fixed entropy coefficients. What the file holds says which method it is.

    :param path: a file in the form of tests/data/README.md
    :param fused: the default optimiser, fused Adam, instead of the plain Adam of the recordings. Both follow the
        same formula but round differently, and phi's displacement, a small difference of large numbers, may magnify a
        rounding error of its weights a hundredfold.
    :param channels_last: the default for images in memory instead of the recordings' channels first: the same
        convolutions, added up in another order
    :param device: of PyTorch
    :param kwargs: arguments of the method to set otherwise than the file asks for
    :return: for each quantity, and for all weights of each network, the worst ||x - ref|| / ||ref|| over the steps
    :raises ValueError: where a file lacks one of the quantities without which nothing would be compared
    """
    with np.load(path) as archive:
        data = {name: archive[name] for name in archive.files}
    method = find_method(data)
    with th.device(device):  # where what is recorded goes, too
        model = _build(method, data, fused, channels_last, {"device": device} | kwargs)
        tensors = named_tensors(model)
        _set_weights(tensors, data)
        errors: dict[str, float] = {}
        for step in range(_count_steps(data)):
            begin = f"step{step}/"
            reference = {name.removeprefix(begin): value for name, value in data.items() if name.startswith(begin)}
            for name, value in _take_step(method, model, reference).items():
                if name in reference:
                    errors[name] = max(errors.get(name, 0.0), _relative_error(value, reference[name]))
        errors |= _compare_weights(tensors, data)
    if missing := (CORE - method.without | method.core) - set(errors):
        raise ValueError(f"{path} must record {sorted(missing)}, got {sorted(errors)}")
    return errors


def _build(
    method: Method, data: Recorded, fused: bool, channels_last: bool, kwargs: Mapping[str, Any]
) -> SkillDiscovery:
    observations, actions, skills = (data[f"step0/{name}"] for name in ("observations", "actions", "skills"))
    policy_kwargs: dict[str, Any] = {
        "net_arch": {"pi": hidden_units(data, "actor"), "qf": hidden_units(data, "q1")},
        "optimizer_kwargs": {"fused": fused},
        "hard_bounds": True,
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
        "policy_kwargs": policy_kwargs,
        "learning_rate": float(data["meta/lr"]),
        "ent_coef": f"auto_{ent_coef}" if _learns_ent_coef(data) else ent_coef,
        "batch_size": len(observations),
        "buffer_size": len(observations),
    }
    arguments |= {name: float(data[f"meta/{name}"]) for name in ("tau", "gamma", "target_entropy")}
    arguments |= method.arguments(data)
    space = _Spaces(observation_space, spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32))
    return method.algorithm("CnnPolicy" if pixels else "MlpPolicy", space, **(arguments | dict(kwargs)))


def _count_steps(data: Recorded) -> int:
    return len({name.split("/")[0] for name in data if re.match(r"step\d+/", name)})


def _learns_ent_coef(data: Recorded) -> bool:
    initial = data["init/log_ent_coef"].item()
    return "final/log_ent_coef" in data and bool(data["final/log_ent_coef"].item() != initial)


def _set_weights(tensors: Mapping[str, th.Tensor], data: Recorded) -> None:
    """Set everything that the file begins with; targets begin as copies."""
    with th.no_grad():
        for name, tensor in tensors.items():
            value = _tensor(data["init/" + name.removeprefix("target_")])
            assert tensor.squeeze().shape == value.squeeze().shape, (name, tensor.shape, value.shape)
            tensor.copy_(value.reshape(tensor.shape))


def _compare_weights(tensors: Mapping[str, th.Tensor], data: Recorded) -> dict[str, float]:
    """The error of all weights of each network together, and of what else has final values."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        if f"final/{name}" in data:
            net = name.split("/")[0]
            groups[f"final/{net} u and v" if name.endswith((".u", ".v")) else f"final/{net}"].append(name)
    errors = {}
    for group, names in groups.items():
        got = np.concatenate([tensors[name].detach().cpu().numpy().ravel() for name in names])
        expected = np.concatenate([data[f"final/{name}"].ravel() for name in names])
        errors[group] = _relative_error(got, expected)
    return errors


def _take_step(method: Method, model: SkillDiscovery, reference: Recorded) -> dict[str, Any]:
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
        with method.listen(model, reference) as heard:
            info = model.gradient_step(batch)
    finally:
        del model.actor.action_log_prob
    (next_action, log_prob_next), (new_action, log_prob_new) = replayed.results
    results = {
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
    if not model.entropy_dual.learnable:  # nothing is minimised, but the recordings of the baselines compute it
        surplus = (-log_prob_new - model._target_entropy).mean()
        results["ent_coef_loss"] = model.entropy_dual.log_value * surplus
        if method.name == "METRA":
            del results["ent_coef_loss"]
    return results | method.results(model, info, batch, heard)


def _tensor(array: np.ndarray) -> th.Tensor:
    return th.as_tensor(np.asarray(array, dtype=np.float32))


def _observations(model: SkillDiscovery, array: np.ndarray) -> th.Tensor:
    shape = model.observation_space.shape
    assert shape is not None
    if len(shape) == 1:
        return _tensor(array)
    channels, height, width = shape
    images = array.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).astype(np.uint8)
    assert images.sum(dtype=np.int64) == array.sum(dtype=np.float64), "images must hold whole numbers from 0 to 255"
    return th.as_tensor(images.copy())


def _relative_error(value: Any, reference: np.ndarray) -> float:
    got = np.asarray(value.detach().cpu() if isinstance(value, th.Tensor) else value, dtype=np.float64).ravel()
    expected = np.asarray(reference, dtype=np.float64).ravel()
    assert got.shape == expected.shape, (got.shape, expected.shape)
    scale = np.linalg.norm(expected)
    error = float(np.linalg.norm(got - expected) / (scale if scale > 0 else 1.0))
    return error if math.isfinite(error) else math.inf  # NaN would get lost in a maximum
