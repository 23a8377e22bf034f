"""Writes a model's skills to a folder from which they run anywhere, and checks that they do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.arguments import FLAG
from sb3_metra.common.files import describe_files, sha256, write_json
from sb3_metra.common.inputs import check_folder
from sb3_metra.common.loading import ATTRIBUTES, TARGETS, argument_names
from sb3_metra.common.saving import write_unpacked
from sb3_metra.common.versions import check_versions
from sb3_metra.export.contract import NAME, make_contract
from sb3_metra.export.graphs import culprit, write_phi, write_policy

POLICY, PHI, PLAYER = "policy.onnx", "phi.onnx", "skill_player.py"
_TOLERANCE = 1e-5
_KEPT = ("policy_class", "observation_space", "action_space", "n_envs", "num_timesteps", "_n_updates")
_LEFT_OUT = ("policy", "tensorboard_log", "verbose", "action_noise")  # networks; of training alone


def export_skills(
    model: Any,
    folder: str | Path,
    *,
    skills: Mapping[str, Any] | None = None,
    license: str | None = None,
    env: VecEnv | None = None,
    onnx: bool = True,
) -> str:
    """
    Export a model's skills.

    The folder holds ``policy.onnx`` and, if there is a phi, ``phi.onnx``; the weights as ``model.safetensors`` and
    ``model.json``, which :func:`sb3_metra.load` reads; ``skills.json``, the contract; and ``skill_player.py``.

    :param model: an algorithm
    :param folder: where to write; made if it is missing
    :param skills: skills by name, for the contract; ``None``: both ways along each axis, or each discrete skill
    :param license: licence of the weights, such as ``"MIT"``; ``None``: the contract names none
    :param env: environments whose metadata say units and steps per second; ``None``: the model's
    :param onnx: whether to write the networks and the player; without, only this package reads the folder
    :return: SHA-256 of the contract, which holds those of the other files
    :raises ValueError: if ONNX cannot express a network, or what it computes differs
    """
    if FLAG("onnx", onnx):
        check_versions("export")
    target = check_folder("folder", folder)
    contract = make_contract(model, skills, metadata_of(env or model.get_env()), license)
    (target / NAME).unlink(missing_ok=True)  # until the folder is whole, it is none
    names = write_unpacked(target, _attributes(model), _weights(model), type(model).__name__)
    if onnx:
        names += _write_networks(model, target, contract["noise"]["size"])
    write_json(target / NAME, contract | {"files": describe_files(target, names)})
    if onnx:
        try:
            _compare(model, target)
        except BaseException:
            (target / NAME).unlink()
            raise
    return sha256(target / NAME)


def _write_networks(model: Any, target: Path, noise_size: int) -> list[str]:
    """Write networks and player, and return the names of their files."""
    space = model.observation_space
    write_policy(target / POLICY, model.policy.actor, space, model.skill_prior.dim, noise_size)
    (target / PHI).unlink(missing_ok=True)
    (target / PLAYER).write_bytes(Path(__file__).with_name(PLAYER).read_bytes())
    if (phi := getattr(model.objective, "phi", None)) is None:
        return [POLICY, PLAYER]
    write_phi(target / PHI, phi, space)
    return [POLICY, PHI, PLAYER]


def metadata_of(env: VecEnv | None) -> dict[str, Any]:
    """
    The environments' metadata for the contract.

    :param env: environments, or ``None``
    """
    try:
        return {} if env is None else dict(env.get_attr("metadata")[0] or {})
    except (AttributeError, NotImplementedError):
        return {}


def settings_of(model: Any) -> dict[str, Any]:
    """
    The constructor's arguments that are numbers, words, or containers of such, by name.

    :param model: an algorithm
    """
    own = {name: vars(model).get(ATTRIBUTES.get(name, name)) for name in argument_names(type(model))}
    return {name: value for name, value in own.items() if name not in _LEFT_OUT and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is not None and isinstance(value, (bool, int, float, str))


def _attributes(model: Any) -> dict[str, Any]:
    """The constructor's arguments, and what else a loaded model needs; nothing of the run or the machine."""
    names = [ATTRIBUTES.get(name, name) for name in argument_names(type(model)) if name not in _LEFT_OUT]
    own = {name: value for name, value in vars(model).items() if name in (*names, *_KEPT)}
    if callable(model.learning_rate):  # a schedule may be code
        del own["learning_rate"]
    return own | {"_skill_prior": model.skill_prior, "_normalization": model.normalization}


def _weights(model: Any) -> dict[str, Any]:
    """State dictionaries without optimisers and target critics."""
    own = {name: x for name, x in model.get_parameters().items() if not name.endswith("optimizer")}
    return own | {"policy": {name: x for name, x in own["policy"].items() if not name.startswith(TARGETS)}}


def _compare(model: Any, folder: Path) -> None:
    """Refuse an export that does not act and encode as the model does."""
    from sb3_metra.export.skill_player import SkillPlayer  # needs onnxruntime

    player = SkillPlayer(folder)
    observations = _samples(model.observation_space)
    known = observations if model.normalization is None else model.normalization.normalize(observations)
    skills = model.skill_prior.evaluation_skills(3, np.random.default_rng(0))
    acts = model.action_space
    half = np.maximum((acts.high - acts.low) / 2, 1e-30) if isinstance(acts, spaces.Box) else 1.0
    expected = model.predict(known, state=skills, deterministic=True)[0] / half
    _check_close(player.act(observations, skills) / half, expected, model.policy.actor)
    if hasattr(model, "encode"):
        _check_close(player.encode(observations), model.encode(known), model.objective.phi)


def _check_close(exported: np.ndarray, expected: np.ndarray, network: Any) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    if (error := float(np.abs(exported - expected).max()) / scale) > _TOLERANCE:
        raise ValueError(
            f"the network must compute the same as ONNX, but with {culprit(network)} it is {error:.1e} apart: it may "
            "depend on the batch, or on chance"
        )


def _samples(space: spaces.Space) -> Any:
    """Three observations of moderate size."""
    if isinstance(space, spaces.Dict):
        return {key: _samples(part) for key, part in space.items()}
    rng, shape = np.random.default_rng(0), (3, *(space.shape or ()))
    assert space.dtype is not None
    if space.dtype.kind == "f":
        assert isinstance(space, spaces.Box)
        return np.clip(rng.standard_normal(shape), space.low, space.high).astype(space.dtype)
    sampled = type(space).sample
    return np.stack([np.asarray(sampled(space)) for _ in range(3)])
