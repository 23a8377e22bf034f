"""What is each method's own in a recorded file: how it is recognised, built, listened to and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F

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


@contextmanager
def hear_nothing(model: Any, reference: Recorded) -> Iterator[Heard]:
    """Nothing is drawn, and everything can be asked for afterwards."""
    yield {}


def of_state(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """VISR: phi of s alone, once in the loss and once as features."""
    before, after = heard["phi"]
    return {
        "phi_before_phi_step": before,
        "phi_observations": after,
        "alignment_before_phi_step": info["alignment"],
        "phi_loss": info["phi_loss"],
        "sf_target": info["sf_target"],
    }


def visr_arguments(data: Recorded) -> dict[str, Any]:
    """The authors' features, which are not normalised."""
    return {"phi_kwargs": {"net_arch": hidden_units(data, "phi")}, "normalize_features": False}


def diayn_arguments(data: Recorded) -> dict[str, Any]:
    """The kind of skills, and whether the reward holds -log p(z)."""
    return {
        "discrete": bool(data["meta/discrete"]),
        "subtract_log_prior": bool(data["meta/log_prior_baseline"]),
        "discriminator_kwargs": {"net_arch": hidden_units(data, "discriminator")},
    }


def discriminated(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """The reward as the discriminator's loss sees it."""
    return {"reward_before_discriminator_step": info["log_ratio"], "discriminator_loss": info["discriminator_loss"]}


def dads_arguments(data: Recorded) -> dict[str, Any]:
    """Prior and alternatives, and the authors' way with an episode's last step."""
    return {
        "discrete": bool(data["meta/discrete"]),
        "gaussian_skills": not bool(data["meta/uniform_skills"]),
        "n_alternatives": int(data["meta/n_alternative_skills"]),
        "dynamics_kwargs": {"net_arch": hidden_units(data, "skill_dynamics")},
        "skip_last_steps": True,
    }


@contextmanager
def hear_alternatives(model: Any, reference: Recorded) -> Iterator[Heard]:
    """Hand in the recorded alternative skills."""
    alternatives = th.as_tensor(reference["alternative_skills"])

    def replay(n: int, device: Any = "cpu") -> th.Tensor:
        assert n == alternatives.shape[0] * alternatives.shape[1]
        return alternatives.reshape(n, -1)

    model.skill_prior.draw = replay
    try:
        yield {"alternatives": alternatives}
    finally:
        del model.skill_prior.draw


@th.no_grad()
def predicted(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """Likelihoods as the reward had them, asked for again, and running statistics."""
    log_q_alternatives = model.objective.log_q(batch, heard["alternatives"])
    results = {
        "log_q_before_dynamics_step": info["log_q"],
        "skill_dynamics_loss": info["dynamics_loss"],
        "log_q": model.objective.log_q(batch, batch.skills),
        "log_q_alternatives_first4": log_q_alternatives[:4],
        "log_q_alternatives_mean": log_q_alternatives.mean(dim=0),
    }
    for name in ("state_norm", "difference_norm"):
        norm = getattr(model.objective, name)
        results |= {f"{name}_mean": norm.running_mean.clone(), f"{name}_var": norm.running_var.clone()}
    return results


def cic_arguments(data: Recorded) -> dict[str, Any]:
    """Neighbours, and the authors' variance in place of the deviation."""
    own = {"n_neighbors": int(data["meta/knn_k"]), "divide_by_variance": True}
    return phi_arguments(data) | own


@contextmanager
def hear_codes(model: Any, reference: Recorded) -> Iterator[Heard]:
    """Keep the codes that are compared, and the running moments after the step."""
    heard: Heard = {}

    def keep(name: str) -> Any:
        return lambda module, given, output: heard.update({name: F.normalize(output.detach(), dim=1)})

    names = ("skill_encoder", "predictor")
    handles = [getattr(model.objective, name).register_forward_hook(keep(name)) for name in names]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@th.no_grad()
def contrasted_codes(model: Any, info: Info, batch: SkillReplayBufferSamples, heard: Heard) -> Heard:
    """CIC: the contrastive loss and the distances of the reward, asked for again."""
    phi, entropy = model.objective.phi, model.objective.entropy
    return {
        "cpc_loss": info["cpc_loss"],
        "phi_loss": info["phi_loss"],
        "logits_norm": (heard["skill_encoder"] @ heard["predictor"].T / 0.5).norm(),
        "knn_distances": entropy.distances(phi(batch.observations), phi(batch.next_observations)),
        "rms_mean": entropy.moments.mean.clone(),
        "rms_var": entropy.moments.var.clone(),
    }


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
NO_PHI = frozenset({"phi_loss", "final/phi"})
DISCRIMINATOR = frozenset({"discriminator_loss", "final/discriminator"})
DYNAMICS = frozenset({"skill_dynamics_loss", "final/skill_dynamics"})

METHODS = [
    Method("DADS", "init/skill_dynamics/out.weight", dads_arguments, predicted, hear_alternatives, DYNAMICS, NO_PHI),
    Method(
        "DIAYN", "init/discriminator/out.weight", diayn_arguments, discriminated, hear_nothing, DISCRIMINATOR, NO_PHI
    ),
    Method("CIC", "init/skill_encoder/out.weight", cic_arguments, contrasted_codes, hear_codes),
    Method("VISR", "step0/phi_observations", visr_arguments, of_state, hear_phi, **SUCCESSOR),
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
