"""Arguments that ``load`` may change, and what then starts again."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.dual import DualVariable
from sb3_metra.common.saved_attributes import check_attributes
from sb3_metra.common.saving import SavedModel
from sb3_metra.common.skills import GaussianPrior, SkillPrior

#: Attributes that have another name than their argument.
ATTRIBUTES = {"stats_window_size": "_stats_window_size"}
#: How the names of the target critics' tensors begin, which an export leaves out.
TARGETS = "critic_target."
_CRITICS = "critic."
_INJECTED = ("skill_prior", "critic_dim")  # what the algorithm adds to policy_kwargs
_NEEDED = ("policy_class", "policy_kwargs", "observation_space", "action_space")
_OF_CLASS = (FunctionType, classmethod, staticmethod, property)
_OF_PARAMETERS = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "grad_avg", "momentum_buffer", "acc_delta"}
)  # what optimisers keep for each number of a parameter


def argument_names(cls: type) -> list[str]:
    """
    The constructor's arguments, also those that it passes on to its base classes.

    :param cls: an algorithm
    """
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        names += [x.name for x in parameters if x.kind is not x.VAR_KEYWORD and x.name not in names]
        if all(x.kind is not x.VAR_KEYWORD for x in parameters):
            break
    return [name for name in names if name not in ("env", "device", "_init_setup_model")]


def check_names(function: str, names: Sequence[str], given: Iterable[str]) -> None:
    """
    Refuse arguments that a function does not have.

    :param function: its name
    :param names: of the arguments that it has
    :param given: names of arguments
    :raises TypeError: for the first such name
    """
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
            raise TypeError(f"{function}() got an unknown argument {name!r}; {hint}")


def check_saved(cls: type, saved: SavedModel) -> None:
    """
    Refuse what is not a model of an algorithm, and complete the policy's arguments.

    :param cls: the algorithm that is to load it
    :param saved: what the file holds
    :raises ValueError: if it is not
    """
    if saved.algorithm not in {base.__name__ for base in cls.__mro__}:
        what = "is not a saved model" if saved.algorithm is None else f"holds a {saved.algorithm} model, not one"
        hint = "" if saved.algorithm is None else f": load it with {saved.algorithm}.load or sb3_metra.load"
        raise ValueError(f"{saved.label} {what} of {cls.__name__}{hint}")
    saved.data = check_attributes(saved.label, saved.data)
    prior = saved.data.pop("_skill_prior", None)
    for name in _NEEDED:
        if name not in saved.data:
            raise ValueError(f"{saved.label} is not a saved model of {cls.__name__}: it has no {name}")
    for name in saved.data:
        if isinstance(inspect.getattr_static(cls, name, None), _OF_CLASS):
            raise ValueError(f"{saved.label} is not a saved model of {cls.__name__}: {name} is none of its attributes")
    if prior is not None:
        saved.data["policy_kwargs"] = {**(saved.data["policy_kwargs"] or {}), "skill_prior": prior}
    if not isinstance(saved.data["policy_kwargs"].get("skill_prior"), SkillPrior):
        raise ValueError(f"{saved.label} is not a saved model of {cls.__name__}: it has no skill_prior")
    dim = saved.data["policy_kwargs"]["skill_prior"].dim
    saved.data["replay_buffer_kwargs"] = {**(saved.data.get("replay_buffer_kwargs") or {}), "skill_dim": dim}


def check_changes(cls: Any, saved: SavedModel, given: dict[str, Any]) -> dict[str, Any]:
    """
    Which attributes change, and refuse what cannot change.

    :param cls: the algorithm
    :param saved: what the file holds
    :param given: arguments of the constructor
    :return: new values by the argument's name; what the file has, too, is left out
    :raises ValueError: for an argument that would need other networks or skills
    """
    fixed = _fixed(saved.data)
    changes = {}
    for name, value in given.items():
        value = cls.policy_aliases.get(value, value) if name == "policy" and isinstance(value, str) else value
        value = {} if value is None and name.endswith("_kwargs") else value
        if name in fixed:
            if not any(same(value, x) for x in fixed[name]):
                raise ValueError(
                    f"{name} must be {fixed[name][0]} as in {saved.label}, got {value!r}: load() cannot change skills "
                    "and networks"
                )
            continue
        if name == "replay_buffer_kwargs":
            value = _merge_replay_buffer_kwargs(saved.data.get(name, {}), value)
        if not same(value, saved.data.get(ATTRIBUTES.get(name, name), _Nothing)):
            changes[name] = value
    return changes


class _Nothing:
    """Stands for an attribute that the file does not have."""


def _fixed(data: dict[str, Any]) -> dict[str, list[Any]]:
    """Arguments that decide about networks and skills, each with the values that change nothing."""
    prior = data["policy_kwargs"]["skill_prior"]
    user = {name: x for name, x in data["policy_kwargs"].items() if name not in _INJECTED}
    gaussian = isinstance(prior, GaussianPrior)
    networks = {name: [x] for name, x in data.items() if name.endswith("_kwargs") and name != "replay_buffer_kwargs"}
    return networks | {
        "policy": [data["policy_class"]],
        "policy_kwargs": [user, data["policy_kwargs"]],
        "actor_observation": [data.get("actor_observation")],
        "skill_prior": [prior],
        "skill_dim": [prior.dim],
        "discrete": [prior.discrete],
        "unit_skills": [True, False] if prior.discrete else [not gaussian],
        "gaussian_skills": [True, False] if prior.discrete else [gaussian],
    }


def _merge_replay_buffer_kwargs(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What the algorithm found out itself stays, unless it is given."""
    return {name: saved[name] for name in ("skill_dim", "n_stack") if name in saved} | dict(given)


def same(first: Any, second: Any) -> bool:
    """
    Whether two values are equal, arrays inside them included; values that cannot be compared are not.

    :param first: any value
    :param second: any value
    """
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(x, second[key]) for key, x in first.items())
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    try:
        return bool(first == second)
    except (ValueError, TypeError):
        return False


def fit_to_env(data: dict[str, Any], env: VecEnv, force_reset: bool) -> None:
    """
    Let attributes of a model fit to new training environments.

    :param data: attributes by name, changed in place
    :param env: the environments
    :param force_reset: begin new episodes
    """
    if force_reset or data.get("n_envs") != env.num_envs:
        data["_last_obs"] = None
    noise = data.get("action_noise")
    if isinstance(noise, VectorizedActionNoise) and noise.n_envs != env.num_envs:
        data["action_noise"] = noise.base_noise
    data["n_envs"] = env.num_envs


# Parameters


def check_parameters(label: str, parameters: Any) -> None:
    """
    Refuse weights, and an optimiser's moments, that are not finite.

    :param label: their name, for the error
    :param parameters: state dictionaries by name
    :raises ValueError: for the first, by its name
    """
    for name, tensor in _tensors(parameters):
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        if name.endswith("log_value") and not tensor.isnan().any():
            continue  # a multiplier of 0 that is not learnt
        raise ValueError(f"{label} must hold finite parameters, got NaN or infinity in {name}")


def complete_parameters(model: Any, saved: SavedModel) -> dict[str, Any]:
    """
    Parameters of an exported model, with optimisers as a new model has them, and target critics equal to the critics.

    :param model: a new model
    :param saved: what the folder holds
    :return: parameters by name
    """
    fresh = {name: x for name, x in model.get_parameters().items() if name.endswith("optimizer")}
    policy = saved.parameters.get("policy", {})
    targets = {TARGETS + name.removeprefix(_CRITICS): x for name, x in policy.items() if name.startswith(_CRITICS)}
    return fresh | saved.parameters | {"policy": targets | policy}


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, th.Tensor]]:
    if isinstance(value, th.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, x in value.items():
            yield from _tensors(x, f"{name}/{key}" if name else str(key))


def restart_multipliers(model: Any, parameters: dict[str, Any], changed: Iterable[str]) -> dict[str, Any]:
    """
    Parameters in which the multipliers whose argument was changed are those of a new model.

    :param model: a new model
    :param parameters: of the file, by name
    :param changed: names of the constructor's arguments that were changed
    :return: parameters for the model
    """
    fresh, parameters = model.get_parameters(), dict(parameters)
    for name, optimizer in (("entropy_dual", "actor.optimizer"), ("objective", "objective_optimizer")):
        modules = dict(getattr(model, name).named_modules())
        begun = {path for path, x in modules.items() if isinstance(x, DualVariable) and x.name in changed}
        if begun:
            own = {key: x for key, x in fresh[name].items() if key.rpartition(".")[0] in begun}
            parameters[name] = parameters[name] | own
            anew = {id(parameter) for path in begun for parameter in modules[path].parameters()}
            parameters[optimizer] = _forget(parameters[optimizer], recursive_getattr(model, optimizer), anew)
    return parameters


def _forget(saved: dict[str, Any], optimizer: th.optim.Optimizer, anew: set[int]) -> dict[str, Any]:
    """The state of an optimiser without what it holds of some parameters, and for the parameters that there are."""
    everything = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {i for i, parameter in enumerate(everything) if id(parameter) not in anew}
    groups = zip(saved["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    return {
        "state": {i: x for i, x in saved["state"].items() if i in kept},
        "param_groups": [old | {"params": new["params"]} for old, new in groups],
    }


def own_state(name: str, optimizer: th.optim.Optimizer) -> None:
    """
    Give what an optimiser has loaded memory of its own, laid out as its parameters are.

    Fused steps walk through a parameter and its moments side by side, so that images' filters, which may lie channels
    last, need moments that do. PyTorch itself keeps the tensors that it was given.

    :param name: its name, for the error
    :param optimizer: changed in place
    :raises ValueError: if moments have another shape than their parameter
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if not isinstance(value, th.Tensor):
                continue
            if value.shape == parameter.shape:
                state[key] = th.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
            elif key in _OF_PARAMETERS:
                raise ValueError(f"{name} must have {key} of shape {tuple(parameter.shape)}, got {tuple(value.shape)}")
            else:
                state[key] = value.clone()
