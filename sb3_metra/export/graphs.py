"""A policy and a representation as ONNX, written by PyTorch's exporter."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

_N = 2  # examples that the networks are followed on


class PolicyGraph(nn.Module):
    """
    Samples of the policy: for continuous actions tanh(mean + std * noise), for others the largest of the logits minus
    log(noise). Noise of 0, or of 1, gives the policy's mode.

    :param actor: pi(a|s, z)
    """

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observation: Any, skill: th.Tensor, noise: th.Tensor) -> th.Tensor:
        return self.actor({"observation": observation, "skill": skill}, noise=noise)


def write_policy(path: Path, actor: nn.Module, space: spaces.Space, skill_dim: int, noise_dim: int) -> None:
    """
    Write a policy: ``observation`` (or ``observation.KEY`` for each key), ``skill`` and ``noise`` to ``action``.

    :param path: the file
    :param actor: pi(a|s, z)
    :param space: of observations
    :param skill_dim: components of a skill
    :param noise_dim: draws that a sample is made of
    :raises ValueError: if ONNX cannot express it
    """
    inputs = {"observation": _examples(space), "skill": th.zeros(_N, skill_dim), "noise": th.ones(_N, noise_dim)}
    _write(path, PolicyGraph(_copy(actor)), inputs, "action", actor)


def write_phi(path: Path, phi: nn.Module, space: spaces.Space) -> None:
    """
    Write a representation: ``observation`` (or ``observation.KEY`` for each key) to ``phi``.

    :param path: the file
    :param phi: a map of observations
    :param space: of observations
    :raises ValueError: if ONNX cannot express it
    """
    _write(path, _copy(phi), {"observations": _examples(space)}, "phi", phi)


def _copy(network: nn.Module) -> nn.Module:
    """The network in evaluation mode on the CPU; the given one stays as it is."""
    return copy.deepcopy(network).cpu().eval().requires_grad_(False)


def _write(path: Path, network: nn.Module, inputs: dict[str, Any], output: str, given: nn.Module) -> None:
    n = th.export.Dim.DYNAMIC
    shapes = {name: {key: {0: n} for key in x} if isinstance(x, dict) else {0: n} for name, x in inputs.items()}
    try:
        with _quiet(), th.no_grad():
            th.onnx.export(
                network,
                kwargs=inputs,
                f=path,
                input_names=_names(inputs),
                output_names=[output],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{output} must be what ONNX can express, got {culprit(given)}, which PyTorch cannot export: {reason}"
        ) from error


def culprit(network: nn.Module) -> str:
    """
    The part of a network that an export most likely fails of: its feature extractor.

    :param network: an actor, or phi
    """
    extractor = getattr(network, "features_extractor", None)
    return type(getattr(extractor, "extractor", extractor)).__name__


def _names(inputs: dict[str, Any]) -> list[str]:
    observation, *others = inputs.items()
    parts = observation[1]
    return [*([f"observation.{key}" for key in parts] if isinstance(parts, dict) else ["observation"])] + [
        name for name, _ in others
    ]


def _examples(space: spaces.Space) -> Any:
    """Observations as the networks take them, all zero."""
    if isinstance(space, spaces.Dict):
        return {key: _examples(part) for key, part in space.items()}
    assert space.dtype is not None
    dtype = np.dtype(np.float32) if space.dtype.kind == "f" else space.dtype
    return th.from_numpy(np.zeros((_N, *(space.shape or ())), dtype))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of itself from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
