"""What is each method's own in a recorded file: how it is recognised, built, listened to and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th

import sb3_metra
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples
from tests.oracle.weights import hidden_units

#: The arrays of a file by name, or those of one of its steps.
Recorded = Mapping[str, np.ndarray]

#: What was heard while a step was taken, by name.
Heard = dict[str, Any]


@contextmanager
def hear_phi(model: Any, reference: Recorded) -> Iterator[Heard]:
    """Keep what phi gives, pass by pass."""
    outputs: list[th.Tensor] = []
    handle = model.objective.phi.register_forward_hook(lambda phi, given, output: outputs.append(output.detach()))
    try:
        yield {"phi": outputs}
    finally:
        handle.remove()


def alignment(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """Displacements before and after phi's step: phi is asked for s, then s', in the loss and again in the reward."""
    here, there, here_after, there_after = heard["phi"]
    return {
        "displacement_before_phi_step": there - here,
        "displacement": there_after - here_after,
        "alignment_before_phi_step": info["alignment"],
        "phi_loss": info["phi_loss"],
    }


def phi_arguments(data: Recorded) -> dict[str, Any]:
    """Arguments of methods with a representation."""
    discrete = bool(data["meta/discrete"])
    arguments: dict[str, Any] = {"phi_kwargs": {"net_arch": hidden_units(data, "phi")}, "discrete": discrete}
    return arguments | {"unit_skills": discrete or bool(data.get("meta/unit_length", True))}


def constrained(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """Constraint and multiplier."""
    return alignment(model, info, batch, heard) | {
        "slack": info["constraint_slack"],
        "dual_loss": info["dual_loss"],
        "dual_lambda_before": info["dual_lambda"],
        "dual_lambda_after": model.objective.dual.value,
        "distance_loss": info.get("distance_loss"),
        "constraint_distance": info.get("constraint_distance"),
    }


def constrained_arguments(data: Recorded) -> dict[str, Any]:
    """The authors' norm, and epsilon."""
    own = {"constraint_norm": "mean", "dual_slack": float(data["meta/dual_slack"])}
    return phi_arguments(data) | own


def lsd_arguments(data: Recorded) -> dict[str, Any]:
    """The authors' power iterations."""
    return phi_arguments(data) | {"iterate_each_pass": True}


def csf_arguments(data: Recorded) -> dict[str, Any]:
    """Weight and number of negatives."""
    own = {"contrast_coef": float(data["meta/infonce_lambda"]), "n_negatives": int(data["meta/n_negative_skills"])}
    return phi_arguments(data) | own


@contextmanager
def hear_negatives(model: Any, reference: Recorded) -> Iterator[Heard]:
    """Let the prior draw its negatives from recorded noise."""
    drawn: list[th.Tensor] = []
    draw = model.skill_prior.draw

    def replay(n: int, device: Any = "cpu") -> th.Tensor:
        noise = reference["noise_negative_skills"]
        assert len(noise) == n
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(th, "randn", lambda *args, **kwargs: th.as_tensor(noise))
            drawn.append(draw(n, device))
        return drawn[-1]

    model.skill_prior.draw = replay
    try:
        with hear_phi(model, reference) as heard:
            yield heard | {"negatives": drawn}
    finally:
        del model.skill_prior.draw


def contrasted(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """Negatives and what they are for."""
    own = {"negative_skills": heard["negatives"][0], "logsumexp": info["logsumexp"], "sf_target": info["sf_target"]}
    return alignment(model, info, batch, heard) | own


class Method(NamedTuple):
    """
    How files of a method are recognised and compared.

    :param name: of the algorithm
    :param sign: the name of an array that only its files have; METRA's files have none
    :param arguments: the algorithm's own arguments
    :param results: its own quantities after a step
    :param listen: a context around the step that hands in recorded draws and keeps what cannot be asked for afterwards
    :param core: quantities without which its files prove nothing
    :param without: quantities of other methods that it lacks
    """

    name: str
    sign: str
    arguments: Callable[[Recorded], dict[str, Any]]
    results: Callable[[Any, Info, SkillReplayBufferSamples, Heard], Heard]
    listen: Callable[[Any, Recorded], Any] = hear_phi
    core: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    @property
    def algorithm(self) -> type[SkillDiscovery]:
        """The class."""
        return getattr(sb3_metra, self.name)


SUCCESSOR = {"without": frozenset({"rewards", "q_target"}), "core": frozenset({"sf_target"})}

METHODS = [
    Method("CSD", "init/distance/out.weight", constrained_arguments, constrained),
    Method("CSF", "meta/infonce_lambda", csf_arguments, contrasted, hear_negatives, **SUCCESSOR),
    Method("LSD", "init/phi/out.u", lsd_arguments, alignment),
    Method("METRA", "init/log_dual_lambda", constrained_arguments, constrained),
]


def find_method(data: Recorded) -> Method:
    """
    The method that a file was recorded from.

    :param data: its arrays
    :raises ValueError: if none of the methods has such arrays
    """
    for method in METHODS:
        if method.sign in data:
            return method
    raise ValueError(f"a file must hold one of {[method.sign for method in METHODS]}, got {sorted(data)[:20]}")
