"""Values as JSON and arrays, and back: what is read this way runs no code."""

from __future__ import annotations

import importlib
import math
import pathlib
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import nn

_KIND = "$"  # the key that marks what JSON has no word for

#: Classes and functions that a file may name, by module. Others are made known by :func:`add_safe_globals`.
_NAMED: dict[str, frozenset[str]] = {
    "stable_baselines3.common.torch_layers": frozenset(
        {"BaseFeaturesExtractor", "CombinedExtractor", "FlattenExtractor", "NatureCNN"}
    ),
}
#: Classes whose instances a file may hold: they are made from their attributes, which are plain themselves.
_VALUES: dict[str, frozenset[str]] = {
    "stable_baselines3.common.utils": frozenset({"ConstantSchedule", "FloatSchedule", "LinearSchedule"}),
    "stable_baselines3.common.noise": frozenset(
        {"NormalActionNoise", "OrnsteinUhlenbeckActionNoise", "VectorizedActionNoise"}
    ),
    "rl_zoo3.utils": frozenset({"SimpleLinearSchedule"}),
    "sb3_metra.common.skills": frozenset({"GaussianPrior", "OneHotPrior", "SpherePrior", "UniformPrior"}),
    "sb3_metra.common.normalization": frozenset({"ObservationNormalization"}),
    "sb3_metra.common.collectors": frozenset({"Episode", "Infos"}),
}
_OWN = "sb3_metra.common."
#: Modules whose classes may be named, if they are of a kind.
_PREFIXES: dict[str, type] = {
    "torch.nn.modules.": nn.Module,
    "torch.optim.": th.optim.Optimizer,
    "numpy.": np.generic,
    _OWN: object,
}
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")

_registered: dict[str, Any] = {}


class NotPlain(TypeError):
    """A value that cannot be written as JSON and arrays."""


class UnknownName(ValueError):
    """A class or a function that a file names, and that is not known to be safe."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not known: call add_safe_globals with it before the file is read")
        self.name = name


def add_safe_globals(values: Iterable[Any]) -> None:
    """
    Let saved models name classes and functions of your own, as ``torch.serialization.add_safe_globals`` does.

    A model with a policy, a feature extractor or a learning rate schedule of your own can then be loaded without
    trust in its file. Instances of such classes are made from their attributes, without a call of ``__init__``.

    :param values: classes, and functions that a module defines
    """
    for value in values:
        name = _name_of(value)
        if name is None:
            raise ValueError(f"values must hold classes and functions that a module defines, got {value!r}")
        _registered[name] = value


def encode(value: Any, arrays: dict[str, th.Tensor], name: str) -> Any:
    """
    A value as JSON can hold it, its arrays aside.

    :param value: numbers, text, containers, arrays, tensors, spaces, generators, classes by name, and what is made of
        them
    :param arrays: where arrays and tensors go, by name
    :param name: name of the value, which those of its arrays begin with
    :return: JSON
    :raises NotPlain: if it holds anything else
    """
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_KIND: "float", "value": repr(value)}
    if isinstance(value, spaces.Space):  # a Dict is a mapping, too
        return _encode_space(value, arrays, name)
    if isinstance(value, (list, tuple, deque, Mapping)):
        return _encode_container(value, arrays, name)
    if isinstance(value, (np.ndarray, th.Tensor)):
        return _encode_array(value, arrays, name)
    if isinstance(value, np.generic):
        return {_KIND: "scalar", "dtype": value.dtype.str, "value": encode(value.item(), arrays, name)}
    if isinstance(value, np.dtype):
        return {_KIND: "dtype", "value": value.str}
    if isinstance(value, pathlib.PurePath):
        return {_KIND: "path", "value": str(value)}
    if isinstance(value, np.random.Generator):
        return {_KIND: "generator", "state": encode(value.bit_generator.state, arrays, name)}
    return _encode_named(value, arrays, name)


def _encode_container(value: Any, arrays: dict[str, th.Tensor], name: str) -> Any:
    if isinstance(value, TrainFreq):
        return {_KIND: "train_freq", "frequency": value.frequency, "unit": value.unit.value}
    if isinstance(value, Mapping):
        if type(value) not in (dict, OrderedDict):
            raise NotPlain(type(value).__name__)
        if all(isinstance(key, str) for key in value) and _KIND not in value:
            return {key: encode(x, arrays, f"{name}/{key}") for key, x in value.items()}
        pairs = [[encode(key, arrays, name), encode(x, arrays, f"{name}/{key}")] for key, x in value.items()]
        return {_KIND: "dict", "items": pairs}
    items = [encode(x, arrays, f"{name}/{i}") for i, x in enumerate(value)]
    if type(value) is list:
        return items
    if type(value) is tuple:
        return {_KIND: "tuple", "items": items}
    if type(value) is deque:
        return {_KIND: "deque", "items": items, "maxlen": value.maxlen}
    raise NotPlain(type(value).__name__)


def _encode_array(value: Any, arrays: dict[str, th.Tensor], name: str) -> Any:
    is_tensor = isinstance(value, th.Tensor)
    try:
        tensor = value.detach() if is_tensor else th.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError):
        raise NotPlain(f"array of {value.dtype}") from None
    while name in arrays:
        name += "_"
    arrays[name] = tensor
    return {_KIND: "tensor" if is_tensor else "array", "name": name}


def _encode_space(space: spaces.Space, arrays: dict[str, th.Tensor], name: str) -> Any:
    names = {
        spaces.Box: ("low", "high", "dtype"),
        spaces.Discrete: ("n", "start"),
        spaces.MultiDiscrete: ("nvec", "start", "dtype"),
        spaces.MultiBinary: ("n",),
        spaces.Dict: ("spaces",),
        spaces.Tuple: ("spaces",),
    }.get(type(space))
    if names is None:
        raise NotPlain(type(space).__name__)
    arguments = {key: encode(getattr(space, key), arrays, f"{name}/{key}") for key in names}
    if (generator := getattr(space, "_np_random", None)) is not None:
        arguments["seed"] = encode(generator, arrays, f"{name}/seed")
    return {_KIND: "space", "class": type(space).__name__, "arguments": arguments}


def _encode_named(value: Any, arrays: dict[str, th.Tensor], name: str) -> Any:
    """Classes and functions by name; instances of known classes by their attributes."""
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)) and (named := _name_of(value)) is not None:
        return {_KIND: "global", "name": named}
    kind = _name_of(type(value))
    if kind is None or not (kind in _registered or _listed(kind, _VALUES)):
        raise NotPlain(type(value).__name__)
    return {_KIND: "object", "class": kind, "state": encode(vars(value), arrays, name)}


def decode(value: Any, arrays: Mapping[str, th.Tensor], known: Mapping[str, Any] | None = None) -> Any:
    """
    The value that :func:`encode` wrote.

    :param value: JSON
    :param arrays: its arrays
    :param known: further classes and functions that it may name, by full or last name
    :raises UnknownName: if it names a class or a function that is not known
    :raises ValueError: if it is not what :func:`encode` writes
    """
    if isinstance(value, list):
        return [decode(x, arrays, known) for x in value]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: decode(x, arrays, known) for key, x in value.items()}
    try:
        return _DECODERS[value[_KIND]](value, arrays, known or {})
    except UnknownName:
        raise
    except Exception as error:  # a file may hold anything
        raise ValueError(f"a value of kind {value[_KIND]!r} cannot be read: {error!r}") from error


def _decode_object(value: Any, arrays: Mapping[str, th.Tensor], known: Mapping[str, Any]) -> Any:
    name = value["class"]
    if not (name in _registered or _listed(name, _VALUES) or _given(name, known)):
        raise UnknownName(str(name))
    kind = _resolve(name, known)
    if not isinstance(kind, type):
        raise ValueError(f"{name} must be a class")
    instance: Any = object.__new__(kind)
    vars(instance).update(decode(value["state"], arrays, known))
    return instance


def _decode_space(value: Any, arrays: Mapping[str, th.Tensor], known: Mapping[str, Any]) -> Any:
    arguments = {key: decode(x, arrays, known) for key, x in value["arguments"].items()}
    seed = arguments.pop("seed", None)
    kinds = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)
    kind: Any = {kind.__name__: kind for kind in kinds}[value["class"]]
    if kind is spaces.Dict:
        arguments["spaces"] = OrderedDict(arguments["spaces"])  # keep their order
    space = kind(**arguments)
    if isinstance(seed, np.random.Generator):
        space._np_random = seed
    return space


def _decode_generator(value: Any, arrays: Mapping[str, th.Tensor], known: Mapping[str, Any]) -> np.random.Generator:
    state = decode(value["state"], arrays, known)
    if state["bit_generator"] not in _BIT_GENERATORS:
        raise ValueError(f"generator must be one of {', '.join(_BIT_GENERATORS)}, got {state['bit_generator']!r}")
    bit_generator = getattr(np.random, state["bit_generator"])(0)
    bit_generator.state = state
    return np.random.Generator(bit_generator)


_DECODERS: dict[str, Any] = {
    "float": lambda value, arrays, known: float(value["value"]),
    "dict": lambda value, arrays, known: {
        decode(key, arrays, known): decode(x, arrays, known) for key, x in value["items"]
    },
    "tuple": lambda value, arrays, known: tuple(decode(value["items"], arrays, known)),
    "deque": lambda value, arrays, known: deque(decode(value["items"], arrays, known), value["maxlen"]),
    "train_freq": lambda value, arrays, known: TrainFreq(value["frequency"], TrainFrequencyUnit(value["unit"])),
    "tensor": lambda value, arrays, known: arrays[value["name"]],
    "array": lambda value, arrays, known: arrays[value["name"]].numpy().copy(),
    "scalar": lambda value, arrays, known: np.dtype(value["dtype"]).type(decode(value["value"], arrays, known)),
    "dtype": lambda value, arrays, known: np.dtype(value["value"]),
    "path": lambda value, arrays, known: pathlib.Path(value["value"]),
    "generator": _decode_generator,
    "space": _decode_space,
    "global": lambda value, arrays, known: _resolve(value["name"], known),
    "object": _decode_object,
}


# Names


def _name_of(value: Any) -> str | None:
    """Module and name of a class or a function that its module has under that name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    known = isinstance(module, str) and isinstance(name, str) and "<" not in name
    return f"{module}.{name}" if known else None


def _listed(name: str, table: Mapping[str, frozenset[str]]) -> bool:
    module, _, last = name.rpartition(".")
    return last in table.get(module, ())


def _given(name: str, known: Mapping[str, Any]) -> bool:
    return name in known or name.rpartition(".")[2] in known


def _resolve(name: Any, known: Mapping[str, Any]) -> Any:
    """The class or function of a name, if it is safe to name it."""
    if not isinstance(name, str):
        raise ValueError(f"a name must be text, got {name!r}")
    module, _, last = name.rpartition(".")
    if _given(name, known):
        return known.get(name, known.get(last))
    if name in _registered:
        return _registered[name]
    if _listed(name, _NAMED) or _listed(name, _VALUES):
        return getattr(_import(module, name), last)
    for prefix, kind in _PREFIXES.items():
        if f"{module}.".startswith(prefix) and (module in sys.modules or prefix == _OWN):
            value = getattr(_import(module, name), last, None)
            if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module:
                return value
    raise UnknownName(name)


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnknownName(name) from error
