"""
Plays exported skills with NumPy and onnxruntime alone. Copy the folder of this file, and import it from there.

    from skill_player import SkillPlayer

    player = SkillPlayer("folder")
    action = player.act(observation, "+0")  # or a skill of your own, a vector of player.skill_dim numbers

``skills.json`` is the contract: spaces, normalisation, bounds of actions, skills by name, hashes of the other files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FORMAT = 1
_TOLERANCE = 1e-3  # of a skill's norm and bounds
_KEYS = {"action_space", "algorithm", "files", "noise", "normalization", "observation_space", "skill", "skills"}


class SkillPlayer:
    """
    A policy over observations and skills, and its representation phi if it has one. No code in the folder is run.

    :param folder: what ``model.export`` wrote
    :param sha256: of ``skills.json``, if you know which one you expect; it holds the hashes of the others
    :raises ValueError: if the folder is incomplete, changed, or of another format
    """

    def __init__(self, folder: str | Path, sha256: str | None = None) -> None:
        self.folder = Path(folder)
        self.contract = self._read_contract(sha256)
        skill = self.contract["skill"]
        self.skill_dim: int = skill["dim"]
        self.skills = {name: np.array(z, np.float32) for name, z in self.contract["skills"].items()}
        self._space, self._actions = self.contract["observation_space"], self.contract["action_space"]
        self._policy = self._open("policy.onnx")
        self._phi = self._open("phi.onnx") if "phi.onnx" in self.contract["files"] else None

    def act(self, observation: Any, skill: Any, noise: Any = None) -> np.ndarray:
        """
        The action for an observation and a skill, in the units of the environment.

        :param observation: one, or a batch of n, as the environment gives it: an array, or a dictionary of arrays
        :param skill: a name from ``skills``, or a vector, (skill_dim,), or one for each observation, (n, skill_dim)
        :param noise: draws behind a sampled action, as many and of which distribution ``contract["noise"]`` says:
            standard normal ones for continuous actions; ``None``: the policy's mode
        :return: the action, or n of them
        :raises ValueError: if one of them has another shape or is not finite, or the skill is not one of the prior
        """
        inputs, n, batched = self._read(observation)
        size, mode = self.contract["noise"]["size"], self.contract["noise"]["mode"]
        inputs["skill"] = self._check_skills(self._vectors("skill", self._named(skill), n, self.skill_dim))
        inputs["noise"] = self._vectors("noise", np.full(size, mode) if noise is None else noise, n, size)
        output = _run(self._policy, inputs)
        actions = self._scale(output.reshape(n, *self._actions["shape"]))
        return actions if batched else actions[0]

    def _scale(self, actions: np.ndarray) -> np.ndarray:
        """Outputs of the policy in the units of the environment."""
        if self._actions["type"] == "Box":
            if not np.isfinite(actions).all():
                raise ValueError("actions must be finite, got NaN or infinity from the policy")
            low, high = (np.array(self._actions[name], np.float32) for name in ("low", "high"))
            actions = np.clip(low + 0.5 * (actions + 1.0) * (high - low), low, high)
        elif (actions < np.array(self._actions.get("start", 0))).any():
            raise ValueError("logits must be finite, got NaN or infinity from the policy")
        return actions.astype(self._actions["dtype"])

    def encode(self, observation: Any) -> np.ndarray:
        """
        phi of observations. The skill towards a goal points along ``encode(goal) - encode(observation)``.

        :param observation: one, or a batch of n
        :return: (skill_dim,), or (n, skill_dim)
        :raises ValueError: if the method learns no phi
        """
        if self._phi is None:
            raise ValueError(f"phi must have been exported to encode, but {self.contract['algorithm']} learns none")
        inputs, _, batched = self._read(observation)
        latents = _run(self._phi, inputs)
        return latents if batched else latents[0]

    def _read_contract(self, sha256: str | None) -> dict[str, Any]:
        path = self.folder / "skills.json"
        try:
            content = path.read_bytes()
            contract = json.loads(content)
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"folder must hold skills.json, got {str(self.folder)!r}: {error}") from error
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{path} is not the one expected: its SHA-256 is {hashlib.sha256(content).hexdigest()}")
        if not isinstance(contract, dict) or contract.get("format") != FORMAT:
            found = contract.get("format") if isinstance(contract, dict) else None
            raise ValueError(f"{path} must have format {FORMAT}, got {found}: take the skill_player.py beside it")
        if missing := _KEYS - contract.keys():
            raise ValueError(
                f"{path} must say everything that format {FORMAT} does, got no {', '.join(sorted(missing))}"
            )
        return contract

    def _open(self, name: str) -> onnxruntime.InferenceSession:
        """A network whose bytes match the contract."""
        if name not in self.contract["files"]:
            raise ValueError(f"{self.folder} must have been exported with networks, got a contract without {name}")
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{self.folder} is damaged: {name} cannot be read, {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.contract["files"][name]["sha256"]:
            raise ValueError(f"{self.folder} was changed: {name} does not match its SHA-256 in skills.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the networks are small
        try:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime, one kind for each reason
            raise ValueError(f"{name} must be a network that onnxruntime can run, got {error}") from error

    def _named(self, skill: Any) -> Any:
        if not isinstance(skill, str):
            return skill
        if skill not in self.skills:
            raise ValueError(f"skill must be one of {', '.join(self.skills)} or a vector, got {skill!r}")
        return self.skills[skill]

    def _check_skills(self, skills: np.ndarray) -> np.ndarray:
        """Refuse skills that the policy has never seen, such as ones of another length."""
        prior = self.contract["skill"]["prior"]
        ones, zeros = (skills == 1.0).sum(axis=1), (skills == 0.0).sum(axis=1)
        rules = {
            "SpherePrior": ("norm 1", np.abs(np.linalg.norm(skills, axis=1) - 1.0) <= _TOLERANCE),
            "OneHotPrior": ("a single 1, else 0", (ones == 1) & (zeros == self.skill_dim - 1)),
            "UniformPrior": ("numbers in [-1, 1]", (np.abs(skills) <= 1.0 + _TOLERANCE).all(axis=1)),
        }
        if prior in rules and not rules[prior][1].all():
            raise ValueError(f"skill must have {rules[prior][0]}, got {skills[~rules[prior][1]][0].tolist()}")
        return skills

    def _vectors(self, name: str, value: Any, n: int, dim: int) -> np.ndarray:
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be an array of numbers, got {value!r:.200}") from None
        if array.shape not in ((dim,), (n, dim)):
            raise ValueError(f"{name} must have shape ({dim},), or ({n}, {dim}) for {n} of them, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got {array.tolist()}")
        return np.broadcast_to(array, (n, dim))

    def _read(self, observation: Any) -> tuple[dict[str, np.ndarray], int, bool]:
        """Inputs of the networks by name, how many there are, and whether they came as a batch."""
        if self._space["type"] != "Dict":
            array, batched = self._part("observation", observation, self._space, self.contract["normalization"])
            return {"observation": array}, len(array), batched
        parts, statistics = self._space["spaces"], self.contract["normalization"] or {}
        if not isinstance(observation, dict) or not observation.keys() >= parts.keys():
            got = list(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(f"observation must be a dictionary of {list(parts)}, got {got}")
        read = {key: self._part(key, observation[key], part, statistics.get(key)) for key, part in parts.items()}
        if len({(len(array), batched) for array, batched in read.values()}) > 1:
            raise ValueError("observation must hold the same number of each key")
        array, batched = next(iter(read.values()))
        return {f"observation.{key}": x for key, (x, _) in read.items()}, len(array), batched

    @staticmethod
    def _part(name: str, x: Any, space: dict[str, Any], statistics: dict[str, Any] | None) -> tuple[np.ndarray, bool]:
        array, shape = np.asarray(x), tuple(space["shape"])
        if space["image"] and array.shape[-3:] == (*shape[1:], shape[0]) != shape:
            array = np.moveaxis(array, -1, -3)  # channels last
        if array.shape not in (shape, (len(array) if array.ndim else 0, *shape)):
            raise ValueError(f"{name} must have shape {shape}, or (n, ...) for n of them, got {array.shape}")
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite numbers, got NaN or infinity")
        batched = array.shape != shape
        if statistics is not None:
            mean, var = (np.array(statistics[key]).reshape(shape) for key in ("mean", "var"))
            array = (array - mean) / np.sqrt(var + statistics["epsilon"])
            array = np.clip(array, -statistics["clip"], statistics["clip"])
        dtype = np.float32 if statistics is not None or np.dtype(space["dtype"]).kind == "f" else space["dtype"]
        array = np.array(array, dtype, order="C")
        return (array if batched else array[None]), batched


def _run(network: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs of a network, which has no input for what it ignores, such as a desired goal."""
    known = {known.name for known in network.get_inputs()}
    (output,) = network.run(None, {name: x for name, x in inputs.items() if name in known})
    return output
