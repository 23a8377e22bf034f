"""Checkpoints: folders from which a run resumes as if it had never stopped."""

from __future__ import annotations

import inspect
import json
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.arguments import integer, shorten
from sb3_metra.common.env_state import get_env_state, set_env_state
from sb3_metra.common.files import check_manifest, sync_folder, write_manifest
from sb3_metra.common.inputs import check_path
from sb3_metra.common.plain import NotPlain, decode, encode
from sb3_metra.common.saved_attributes import check_attributes, unreadable
from sb3_metra.common.spaces import read_observations

if TYPE_CHECKING:
    from sb3_metra.common.skill_discovery import SkillDiscovery

_MODEL, _REPLAY, _STATE, _TENSORS = "model.zip", "replay.zip", "state.json", "state.safetensors"
_PREFIX = "step_"
#: What a run knows beyond its model, by attribute.
_ATTRIBUTES = (
    "_last_obs",
    "_last_original_obs",
    "_last_skills",
    "_round",
    "_due",
    "_acting_weights",
    "_episode_steps",
    "_warned_of_endless",
    "ep_info_buffer",
    "ep_success_buffer",
)
#: Of a callback: not its own, or made anew.
_NOT_STATE = frozenset({"model", "logger", "parent", "locals", "globals", "callback", "callbacks"})


# Writing


def write_checkpoint(model: SkillDiscovery, folder: str | os.PathLike[str], keep: int = 2) -> Path:
    """
    Write everything that the rest of a run depends on.

    If the environments cannot give their state, this run begins new episodes now, from seeds that depend on the model's
    seed and step, and so does every run that resumes from here.

    :param model: the model between two rounds or two calls of ``learn``
    :param folder: the folder of a run's checkpoints
    :param keep: number of newest checkpoints to keep, at least 1
    :return: the checkpoint, a folder of its own
    :raises OSError: if it cannot be written; older checkpoints stay as they are
    """
    keep = integer(1)("keep", keep)
    target = check_path("folder", folder) / f"{_PREFIX}{model.num_timesteps:012d}"
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        model.save(aside / _MODEL)
        model.save_replay_buffer(aside / _REPLAY)
        _write_state(_run_state(model), aside)
        write_manifest(aside)
        if target.exists():  # of an earlier attempt at the same step
            shutil.rmtree(target)
        os.replace(aside, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _remove_old(target.parent, keep)
    return target


def _write_state(state: dict[str, Any], folder: Path) -> None:
    tensors: dict[str, th.Tensor] = {}
    plain = encode(state, tensors, "state")
    (folder / _STATE).write_text(json.dumps(plain), encoding="utf-8")
    separate = {name: x.detach().cpu().clone().contiguous() for name, x in tensors.items()}
    safetensors.torch.save_file(separate, folder / _TENSORS)


def _run_state(model: SkillDiscovery) -> dict[str, Any]:
    env = get_env_state(model.stepped)
    moved = model._watch is not None and model._watch.seen  # by somebody else
    if env["base"] is None or model._last_obs is None or moved:
        model.begin_new_episodes()
    attributes = {name: getattr(model, name) for name in _ATTRIBUTES}
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_available() else []
    logger = getattr(model, "_logger", None)
    return {
        "attributes": attributes,
        "environments": env,
        "random": {
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
            "torch": th.get_rng_state(),
            "cuda": cuda,
            "actions": model.action_space.np_random.bit_generator.state,
            "skills": model.skill_rng,
            "prior": model.skill_prior.rng,
        },
        "noise": _noise_state(model.action_noise),
        "logger": {name: dict(getattr(logger, name)) for name in _LOGGED} if logger is not None else {},
        "callbacks": callback_states(model._callback) if model._callback is not None else [],
    }


_LOGGED = ("name_to_value", "name_to_count", "name_to_excluded")


def _noise_state(noise: Any) -> Any:
    """What a noise remembers: Ornstein-Uhlenbeck's last value, of each environment."""
    if noise is None:
        return None
    return [getattr(one, "noise_prev", None) for one in getattr(noise, "noises", [noise])]


def _remove_old(folder: Path, keep: int) -> None:
    for old in _checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


# Reading


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """
    The newest complete checkpoint.

    :param path: a checkpoint, the folder of checkpoints, or a run's folder that holds ``checkpoints``
    :return: its folder
    :raises ValueError: if there is none that is complete
    """
    given = check_path("path", path)
    if (given / _STATE).is_file():
        check_manifest(given)
        return given
    candidates = _checkpoints(given) or _checkpoints(given / "checkpoints")
    reasons = []
    for candidate in candidates:
        try:
            check_manifest(candidate)
        except ValueError as error:
            reasons.append(str(error))
            continue
        if reasons:
            warnings.warn(f"resuming from {candidate}, because {'; '.join(reasons)}", stacklevel=2)
        return candidate
    found = "; ".join(reasons) or "none"
    raise ValueError(f"{given} must hold a complete checkpoint, got {found}")


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True) if folder.is_dir() else []


def restore_checkpoint(model: SkillDiscovery, folder: Path) -> None:
    """
    Let a model that was loaded from a checkpoint continue where that run was.

    The states of callbacks are put back when ``learn`` begins, by their classes and order.

    :param model: the model, with its environments
    :param folder: a complete checkpoint
    :raises ValueError: if it belongs to another number of environments
    """
    state = _read_state(folder)
    skills = state["attributes"]["_last_skills"]
    if skills is not None and len(skills) != model.n_envs:
        raise ValueError(f"env must have {len(skills)} environments as in {folder}, got {model.n_envs}")
    model.load_replay_buffer(folder / _REPLAY)
    try:
        _restore_state(model, state)
    except Exception as error:  # the file may say anything
        raise unreadable(str(folder / _STATE), "the state of a run in these environments", error) from error


def _restore_state(model: SkillDiscovery, state: dict[str, Any]) -> None:
    for name, value in state["attributes"].items():
        setattr(model, name, value)
    if model._last_obs is not None:
        n = read_observations(model._last_obs, model.observation_space)[1]
        skills, steps = state["attributes"]["_last_skills"], state["attributes"]["_episode_steps"]
        model.skill_prior.validate(skills)
        if {n, len(skills), len(steps)} != {model.n_envs}:
            raise ValueError(f"observations, skills and steps are not those of {model.n_envs} environments")
    model.stepped.reset()  # some environments make what their state is put into
    set_env_state(model.stepped, state["environments"])
    if model._last_obs is None:
        model.begin_new_episodes()
    draws = state["random"]
    random.setstate(draws["python"])
    np.random.set_state(draws["numpy"])
    th.set_rng_state(draws["torch"])
    if draws["cuda"] and len(draws["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(draws["cuda"])
    model.action_space.np_random.bit_generator.state = draws["actions"]
    for generator in (draws["skills"], draws["prior"]):
        if not isinstance(generator, np.random.Generator):
            raise ValueError(f"skills are drawn with a generator of NumPy, not with {shorten(generator)}")
    model.skill_rng, model.skill_prior.rng = draws["skills"], draws["prior"]
    model._resumed = {name: state[name] for name in ("noise", "logger", "callbacks", "label")}


def _read_state(folder: Path) -> dict[str, Any]:
    label = str(folder / _STATE)
    try:
        tensors = safetensors.torch.load_file(folder / _TENSORS)
        state = decode(json.loads((folder / _STATE).read_text(encoding="utf-8")), tensors)
        attributes = {name: state["attributes"][name] for name in _ATTRIBUTES}
    except (TypeError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise unreadable(label, "the state of a run", error) from error
    return state | {"attributes": check_attributes(label, attributes), "label": label}


def take_up(model: SkillDiscovery, callback: BaseCallback) -> None:
    """
    Put back what only ``learn`` has: callbacks, the logger's running means, the action noise.

    :param model: the model, in ``learn``
    :param callback: its callbacks, initialised
    """
    initial = {id(one): _plain_attributes(one) for one in _flatten(callback)}
    model._initial_callbacks = initial
    resumed, model._resumed = model._resumed, None
    if resumed is None:
        return
    try:
        _take_up_state(model, callback, resumed)
    except Exception as error:  # the file may say anything
        raise unreadable(resumed["label"], "the state of callbacks, logger and noise", error) from error


def _take_up_state(model: SkillDiscovery, callback: BaseCallback, resumed: dict[str, Any]) -> None:
    noises = getattr(model.action_noise, "noises", [model.action_noise])
    for one, value in zip(noises, resumed["noise"] or [], strict=False):
        if value is not None:
            one.noise_prev[...] = value
    _set_logger_state(model.logger, resumed["logger"])
    waiting = list(resumed["callbacks"])
    for one in _flatten(callback):
        kind = type(one).__name__
        index = next((i for i, (name, _) in enumerate(waiting) if name == kind), None)
        if index is not None:
            _set_callback_state(one, waiting.pop(index)[1])
    if names := ", ".join(name for name, state in waiting if any(state.values())):
        warnings.warn(f"the state of these callbacks of the run is not restored: {names}", stacklevel=3)


def _set_logger_state(logger: Any, state: dict[str, Any]) -> None:
    if not state:
        return
    values, counts, excluded = (state[name] for name in _LOGGED)
    tuples = all(isinstance(x, tuple) for x in excluded.values())
    if values.keys() != excluded.keys() or not tuples or not all(type(x) is int for x in counts.values()):
        raise ValueError(f"{', '.join(_LOGGED)} of the logger do not fit together")
    for name in _LOGGED:
        getattr(logger, name).update(state[name])


# Callbacks


def callback_states(callback: BaseCallback) -> list[tuple[str, Any]]:
    """
    The class and the state of each callback: ``get_state()`` if it has that, else its plain attributes that training
    has changed. If its environment for evaluation cannot give a state, that begins new episodes now.

    :param callback: a callback, or a list of them
    """
    states = []
    for one in _flatten(callback):
        state: dict[str, Any] = {}
        if hasattr(one, "get_state"):
            state["own"] = one.get_state()
        else:
            initial = getattr(getattr(one, "model", None), "_initial_callbacks", {}).get(id(one), {})
            changed = {name: x for name, x in _plain_attributes(one).items() if initial.get(name, _MISSING) != x}
            state["attributes"] = changed
        if isinstance(env := getattr(one, "eval_env", None), VecEnv):
            state["eval_env"] = get_env_state(env)
            if state["eval_env"]["base"] is None:
                state["eval_env"] = None
                env.seed(one.model.seed_of_step)  # type: ignore[attr-defined]
        states.append((type(one).__name__, state))
    return states


_MISSING = object()


def _set_callback_state(callback: Any, state: dict[str, Any]) -> None:
    if "own" in state and hasattr(callback, "set_state"):
        callback.set_state(state["own"])
    if "eval_env" in state and isinstance(env := getattr(callback, "eval_env", None), VecEnv):
        if state["eval_env"] is None:
            env.seed(callback.model.seed_of_step)
        else:
            env.reset()
            set_env_state(env, state["eval_env"])
    for name, text in state.get("attributes", {}).items():
        value, tensors = text
        _set_attribute(callback, name, decode(json.loads(value), tensors))


def _set_attribute(callback: Any, name: str, value: Any) -> None:
    """Give a callback an attribute of the same kind as it has."""
    now = vars(callback).get(name)
    fits = name not in _NOT_STATE and not callable(inspect.getattr_static(type(callback), name, None))
    if name in ("n_calls", "num_timesteps"):
        value = integer(0)(name, value)
    elif not fits or (now is not None and value is not None and _kind(now) is not _kind(value)):
        raise ValueError(f"{name} of {type(callback).__name__} must be like {shorten(now)}, got {shorten(value)}")
    setattr(callback, name, value)


def _kind(value: Any) -> type:
    return float if isinstance(value, (bool, int, float, np.number, np.bool_)) else type(value)


def _plain_attributes(callback: BaseCallback) -> dict[str, Any]:
    """Attributes as text and tensors, which can be compared, but for those that are not plain."""
    plain: dict[str, Any] = {}
    for name, value in vars(callback).items():
        tensors: dict[str, th.Tensor] = {}
        try:
            text = json.dumps(encode(value, tensors, name)) if name not in _NOT_STATE else None
        except (NotPlain, ValueError, TypeError):
            continue
        if text is not None and not tensors:
            plain[name] = (text, {})
    return plain


def _flatten(callback: BaseCallback) -> Iterator[BaseCallback]:
    yield callback
    inner = callback.callbacks if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback) and callback.callback is not None:
        inner = [callback.callback]
    for one in inner:
        yield from _flatten(one)


class RunCheckpointCallback(BaseCallback):
    """
    Writes checkpoints to resume from, see :meth:`~sb3_metra.common.skill_discovery.SkillDiscovery.resume`.

    A checkpoint is due every ``save_freq`` calls of ``env.step()`` and is written when the next round begins; a last
    one is written when training ends. If one cannot be written, a warning says so and training continues.

    :param save_freq: calls of ``env.step()`` between two checkpoints
    :param save_path: folder of the checkpoints
    :param keep: number of newest checkpoints to keep
    :param verbose: 1 to print where each goes
    """

    def __init__(self, save_freq: int, save_path: str | os.PathLike[str], keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in (("save_freq", save_freq), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        self.save_freq, self.save_path, self.keep = int(save_freq), Path(save_path), int(keep)
        self.last_saved = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.n_calls - self.last_saved >= self.save_freq:
            self.save()

    def _on_training_end(self) -> None:
        if self.n_calls > self.last_saved:
            self.save()

    def save(self) -> None:
        """Write a checkpoint now."""
        self.last_saved = self.n_calls
        try:
            path = write_checkpoint(self.model, self.save_path, self.keep)  # type: ignore[arg-type]
        except OSError as error:
            warnings.warn(f"no checkpoint could be written to {self.save_path}: {error}", stacklevel=2)
            return
        if self.verbose >= 1:
            print(f"Checkpoint {path}")
