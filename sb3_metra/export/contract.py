"""The contract of exported skills: what ``skills.json`` says of spaces, normalisation, skills and their origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_metra.common.archive import EXPORT_FORMAT
from sb3_metra.common.inputs import check_mapping, check_text
from sb3_metra.common.normalization import ObservationNormalization
from sb3_metra.common.saving import versions
from sb3_metra.common.skills import SkillPrior

NAME = "skills.json"


def make_contract(
    model: Any, skills: Mapping[str, Any] | None, metadata: Mapping[str, Any], license: str | None
) -> dict[str, Any]:
    """
    Everything about a model's skills except the files' hashes.

    :param model: an algorithm
    :param skills: skills by name; ``None``: see :func:`name_skills`
    :param metadata: of the environment
    :param license: of the weights
    :raises ValueError: if a skill is not one of the model's
    """
    prior = model.skill_prior
    named = name_skills(prior) if skills is None else read_skills(prior, skills)
    return {
        "format": EXPORT_FORMAT,
        "algorithm": type(model).__name__,
        "observation_space": describe_space(model.observation_space),
        "action_space": describe_space(model.action_space),
        "noise": describe_noise(model),
        "normalization": describe_normalization(model.normalization),
        "skill": {"dim": prior.dim, "discrete": prior.discrete, "prior": type(prior).__name__},
        "skills": {name: z.tolist() for name, z in named.items()},
        "unit": metadata.get("unit"),
        "steps_per_second": metadata.get("render_fps"),
        "num_timesteps": model.num_timesteps,
        "versions": versions(),
        "license": None if license is None else check_text("license", license),
    }


def name_skills(prior: SkillPrior) -> dict[str, np.ndarray]:
    """
    Names for skills without a name: discrete ones by number, else both ways along each axis, ``+0``, ``-0``, ...

    :param prior: p(z)
    """
    axes = np.eye(prior.dim)
    if prior.discrete:
        return {str(i): z for i, z in enumerate(prior.toward(axes))}
    return {
        f"{sign}{i}": prior.toward(way * axis) for i, axis in enumerate(axes) for sign, way in (("+", 1), ("-", -1))
    }


def read_skills(prior: SkillPrior, skills: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """
    Skills by the names that a user gives them.

    :param prior: p(z)
    :param skills: vectors by name
    :raises ValueError: if a name is not valid, or a vector is not a skill
    """
    named = {}
    for name, z in check_mapping("skills", skills).items():
        try:
            named[check_text("a name in skills", name)] = prior.validate(z)
        except ValueError as error:
            raise ValueError(f"skills must hold skills of the model by name: {name!r}, {error}") from error
        if named[name].ndim != 1:
            raise ValueError(f"skills must hold one skill for each name, got {len(named[name])} for {name!r}")
    return named


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """
    A space as JSON. Bounds that are all the same are one number, and those that are infinite are ``null``.

    :param space: of observations, or of actions
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: describe_space(part) for key, part in space.items()}}
    described: dict[str, Any] = {
        "type": type(space).__name__,
        "shape": list(space.shape or ()),
        "dtype": str(space.dtype),
    }
    described["image"] = is_image_space(space) or (isinstance(space, spaces.Box) and len(space.shape) == 3)
    if isinstance(space, spaces.Box):
        described |= {"low": _bound(space.low), "high": _bound(space.high)}
    for name in ("n", "nvec", "start"):
        if hasattr(space, name):
            described[name] = np.asarray(getattr(space, name)).tolist()
    return described


def describe_noise(model: Any) -> dict[str, Any]:
    """
    The noise behind sampled actions: number of draws, distribution, and the value for the policy's mode.

    :param model: an algorithm
    """
    size = model.policy.actor.draw_noise(1, np.random.default_rng(0)).shape[1]
    if isinstance(model.action_space, spaces.Box):
        return {"size": size, "distribution": "normal", "mode": 0.0}
    return {"size": size, "distribution": "exponential", "mode": 1.0}


def describe_normalization(normalization: ObservationNormalization | None) -> dict[str, Any] | None:
    """
    Statistics of observations as JSON: those of each key for a dictionary.

    :param normalization: what a model learnt on
    """
    if normalization is None:
        return None
    own = {"clip": normalization.clip, "epsilon": normalization.epsilon}
    if isinstance(normalization.mean, dict):
        assert isinstance(normalization.var, dict)
        pairs = {key: (mean, normalization.var[key]) for key, mean in normalization.mean.items()}
        return {key: {"mean": mean.tolist(), "var": var.tolist()} | own for key, (mean, var) in pairs.items()}
    assert isinstance(normalization.var, np.ndarray)
    return {"mean": normalization.mean.tolist(), "var": normalization.var.tolist()} | own


def _bound(bound: np.ndarray) -> Any:
    values = np.asarray(bound, np.float64)
    if values.size and (values == values.flat[0]).all():
        return float(values.flat[0]) if np.isfinite(values.flat[0]) else None
    finite = np.where(np.isfinite(values), values.astype(object), np.array(None))
    return finite.tolist()
