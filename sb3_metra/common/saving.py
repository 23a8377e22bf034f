"""Model files: SB3's zip archive, with all that it pickles written beside it as JSON and safetensors."""

from __future__ import annotations

import functools
import json
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch as th
from stable_baselines3.common.save_util import json_to_data, load_from_zip_file, save_to_zip_file

from sb3_metra.common.archive import Archive, File, Folder, open_archive, open_to_write
from sb3_metra.common.files import atomic_path
from sb3_metra.common.plain import NotPlain, UnknownName, decode, encode

_PLAIN, _TENSORS = "model.json", "model.safetensors"
_FORMAT = 1
_DERIVED = frozenset({"lr_schedule"})  # built anew from other attributes
_LAYOUT: dict[str, tuple[type, ...]] = {
    "algorithm": (str, type(None)),
    "versions": (dict,),
    "data": (dict,),
    "pickled": (dict,),
    "parameters": (dict,),
    "variables": (dict,),
    "crc32": (dict,),
    "sha256": (str,),
}
_VERSIONS = ("sb3-metra", "stable-baselines3", "gymnasium", "numpy", "torch")


@dataclass
class SavedModel:
    """
    What a model file holds.

    :param label: its name, for errors
    :param algorithm: name of the method's class; ``None`` if it is not one of this package
    :param data: attributes by name
    :param parameters: state dictionaries by name
    :param variables: further tensors by name
    :param exported: whether it comes from the folder of an export, which holds no state of optimisers
    """

    label: str
    algorithm: str | None
    data: dict[str, Any] = field(repr=False)
    parameters: dict[str, Any] = field(repr=False)
    variables: dict[str, Any] = field(repr=False)
    exported: bool = False


# Writing


def write_model(
    path: File, data: dict[str, Any], parameters: dict[str, Any], variables: dict[str, Any], algorithm: str
) -> None:
    """
    Write a model file, atomically if it has a path.

    :param path: the file, to which ``.zip`` is added if it has no suffix, or an open one
    :param data: attributes by name
    :param parameters: state dictionaries by name
    :param variables: further tensors by name
    :param algorithm: name of the method's class
    """
    plain, packed = _encode_model(data, parameters, variables, algorithm)
    with open_to_write(path, "zip") as file:
        save_to_zip_file(file, data, parameters, variables)
        with zipfile.ZipFile(file, "a") as archive:
            plain["crc32"] = {info.filename: info.CRC for info in archive.infolist()}
            archive.writestr(_TENSORS, packed)
            archive.writestr(_PLAIN, json.dumps(plain, indent=1))


def write_unpacked(folder: Path, data: dict[str, Any], parameters: dict[str, Any], algorithm: str) -> list[str]:
    """
    Write what :func:`read_model` reads of a model to a folder, without pickles.

    :param folder: the folder, which exists
    :param data: attributes by name
    :param parameters: state dictionaries by name; those of optimisers may be left out
    :param algorithm: name of the method's class
    :return: names of the files
    :raises NotPlain: if an attribute cannot be written as JSON and arrays
    """
    plain, packed = _encode_model(data, parameters, {}, algorithm)
    if plain["pickled"]:
        reasons = ", ".join(f"{name} ({kind})" for name, kind in plain["pickled"].items())
        raise NotPlain(f"model cannot be exported without pickle, because of {reasons}")
    for name, content in ((_TENSORS, packed), (_PLAIN, json.dumps(plain | {"crc32": {}}, indent=1).encode())):
        with atomic_path(folder / name) as aside:
            aside.write_bytes(content)
    return [_PLAIN, _TENSORS]


def write_policy(path: File, data: dict[str, Any], state_dict: dict[str, Any]) -> None:
    """
    Write a policy of its own, without pickles.

    :param path: the file, or an open one
    :param data: its constructor's arguments
    :param state_dict: its tensors
    :raises NotPlain: if an argument cannot be written as JSON and arrays
    """
    plain, packed = _encode_model(data, {"policy": state_dict}, {}, None)
    if plain["pickled"]:
        raise NotPlain(f"policy cannot be saved without pickle, because of {plain['pickled']}: save its state_dict()")
    with open_to_write(path, "") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_TENSORS, packed)
        archive.writestr(_PLAIN, json.dumps(plain | {"crc32": {}}, indent=1))


def _encode_model(
    data: dict[str, Any], parameters: dict[str, Any], variables: dict[str, Any], algorithm: str | None
) -> tuple[dict[str, Any], bytes]:
    """Everything as JSON, and the tensors that it names."""
    tensors: dict[str, th.Tensor] = {}
    plain: dict[str, Any] = {"format": _FORMAT, "algorithm": algorithm}
    plain["versions"] = versions()
    plain["data"], plain["pickled"] = _encode_data(data, tensors)
    plain["parameters"] = encode(parameters, tensors, "parameters")
    plain["variables"] = encode(variables, tensors, "variables")
    packed = safetensors.torch.save(_separate(tensors))
    return plain | {"sha256": sha256(packed).hexdigest()}, packed


def _encode_data(data: dict[str, Any], tensors: dict[str, th.Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
    """Attributes as JSON, and the types of those that cannot be."""
    plain, pickled = {}, {}
    for name in data.keys() - _DERIVED:
        own: dict[str, th.Tensor] = {}
        try:
            plain[name] = encode(data[name], own, f"data/{name}")
        except NotPlain as error:
            pickled[name] = str(error)
        else:
            tensors |= own
    return dict(sorted(plain.items())), dict(sorted(pickled.items()))


def versions() -> dict[str, str | None]:
    """Versions of the packages that a model depends on; ``None`` for one that is run from a checkout."""
    return {package: _version(package) for package in _VERSIONS}


@functools.cache  # the packages' descriptions would be parsed at every save
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _separate(tensors: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
    """Tensors on the host, none of which shares memory with another, as safetensors wants them."""
    separate, seen = {}, set()
    for name, tensor in tensors.items():
        own = tensor.cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        separate[name] = own.clone() if place in seen else own
        seen.add(place)
    return separate


# Reading


def read_model(
    path: File,
    custom_objects: Mapping[str, Any] | None = None,
    trusted: bool = False,
    given: Collection[str] = (),
    print_system_info: bool = False,
) -> SavedModel:
    """
    Read a model file; unless it is trusted, nothing that it holds is unpickled.

    :param path: the file, with or without ``.zip``, or an open one
    :param custom_objects: values that replace attributes, by name; and classes and functions that the file may name
    :param trusted: unpickle what the file does not hold as JSON
    :param given: attributes that are not needed, because the caller has others
    :param print_system_info: print the versions that the file was saved with
    :raises ValueError: if the file is damaged, holds no model, or holds what only pickle can read
    """
    custom_objects = dict(custom_objects or {})
    with open_archive(path) as archive:
        if print_system_info:
            _print_system_info(archive)
        if not archive.has(_PLAIN):
            return _read_pickled(archive, custom_objects, trusted)
        plain = _read_plain(archive)
        tensors = _read_tensors(archive, plain)
        data, unread = _decode_data(archive.label, plain, tensors, custom_objects)
        unread = {name: reason for name, reason in unread.items() if name not in given}
        if unread and not trusted:
            raise ValueError(_refusal(archive.label, unread))
        if unread:
            pickled = archive.json("data")
            data |= json_to_data(json.dumps({name: pickled[name] for name in unread}))
        parameters, variables = _decode_parameters(archive.label, plain, tensors)
        exported = isinstance(archive, Folder)
        return SavedModel(archive.label, plain["algorithm"], data, parameters, variables, exported)


def read_parameters(path: File) -> tuple[str, dict[str, Any]]:
    """
    The name of a model file, for errors, and its state dictionaries by name; nothing is unpickled.

    :param path: the file, with or without ``.zip``, or an open one
    :raises ValueError: if the file is damaged or holds no model
    """
    with open_archive(path) as archive:
        if archive.has(_PLAIN):
            plain = _read_plain(archive)
            return archive.label, _decode_parameters(archive.label, plain, _read_tensors(archive, plain))[0]
        _read_data(archive)
        return archive.label, _read_state_dicts(archive)[0]


def read_policy(
    path: File, custom_objects: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """
    Read a policy's own file; nothing is unpickled.

    :param path: the file, or an open one
    :param custom_objects: arguments that replace those of the file, by name; and classes that it may name
    :return: the constructor's arguments and the state dictionary; ``None`` if SB3 wrote the file, which pickles it
    :raises ValueError: if the file is damaged, or names what is not known
    """
    with open_archive(path, "") as archive:
        if not archive.has(_PLAIN):
            return None
        plain = _read_plain(archive)
        tensors = _read_tensors(archive, plain)
        data, unread = _decode_data(archive.label, plain, tensors, dict(custom_objects or {}))
        if unread:
            raise ValueError(_refusal(archive.label, unread))
        return data, _decode_parameters(archive.label, plain, tensors)[0]["policy"]


def read_algorithm(path: File) -> tuple[str, str | None]:
    """
    The name of a model file, for errors, and that of the method which it holds a model of.

    :param path: the file, with or without ``.zip``, or an open one
    :return: both; the method is ``None`` if another package has it
    :raises ValueError: if the file is damaged or holds no model
    """
    with open_archive(path) as archive:
        if archive.has(_PLAIN):
            return archive.label, _read_plain(archive)["algorithm"]
        return archive.label, _old_algorithm(_read_data(archive))


def check_whole(path: File) -> None:
    """
    Check that every byte of a model file is what was written.

    :param path: the file, with or without ``.zip``, or an open one
    :raises ValueError: if it is not, naming the file
    """
    with open_archive(path) as archive:
        archive.check()
        if archive.has(_PLAIN):
            _read_tensors(archive, _read_plain(archive))
        else:
            _read_data(archive)


def find_whole(paths: Iterable[Path]) -> Path:
    """
    The first of some model files that is whole; a warning names those before it that are not.

    :param paths: files, the most welcome first
    :raises ValueError: if none is
    """
    reasons = []
    for path in paths:
        try:
            check_whole(path)
        except (OSError, ValueError) as error:
            reasons.append(str(error))
        else:
            for reason in reasons:
                warnings.warn(f"{reason}; {path} is taken instead", stacklevel=2)
            return path
    raise ValueError("; ".join(reasons) or "there is no saved model")


def _read_plain(archive: Archive) -> dict[str, Any]:
    plain = archive.json(_PLAIN)
    if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
        found = plain.get("format") if isinstance(plain, dict) else None
        raise ValueError(
            f"{archive.label} must have format {_FORMAT}, got {found}: a newer sb3-metra may have written it"
        )
    for name, kinds in _LAYOUT.items():
        if not isinstance(plain.get(name, ...), kinds):
            raise archive.broken(f"{name} in its {_PLAIN} is missing or not what it should be")
    for name, crc in plain["crc32"].items():
        if archive.crc(name) != crc:
            raise ValueError(f"{archive.label} is damaged: {name} inside it is not the one saved with {_PLAIN}")
    return plain


def _read_tensors(archive: Archive, plain: dict[str, Any]) -> dict[str, th.Tensor]:
    packed = archive.read(_TENSORS)
    if sha256(packed).hexdigest() != plain["sha256"]:
        raise ValueError(f"{archive.label} is damaged: {_TENSORS} inside it is not the one saved with {_PLAIN}")
    try:
        return safetensors.torch.load(packed)
    except safetensors.SafetensorError as error:
        raise archive.broken(f"{_TENSORS} inside it cannot be read ({error})") from error


def _decode_data(
    label: str, plain: dict[str, Any], tensors: dict[str, th.Tensor], custom_objects: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Attributes by name, and why others cannot be read."""
    data, unread = {}, {}
    for name, value in plain["data"].items():
        try:
            data[name] = custom_objects[name] if name in custom_objects else decode(value, tensors, custom_objects)
        except UnknownName as error:
            unread[name] = f"names {error.name}"
        except ValueError as error:
            raise ValueError(f"{label} is damaged: {name} inside it, {error}") from error
    for name, kind in plain["pickled"].items():
        if name in custom_objects:
            data[name] = custom_objects[name]
        else:
            unread[name] = f"is a pickled {kind}"
    return data, unread


def _decode_parameters(
    label: str, plain: dict[str, Any], tensors: dict[str, th.Tensor]
) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        parameters, variables = (decode(plain[name], tensors) for name in ("parameters", "variables"))
    except ValueError as error:
        raise ValueError(f"{label} is damaged: its parameters, {error}") from error
    if not (isinstance(parameters, dict) and isinstance(variables, dict)):
        raise ValueError(f"{label} is damaged: its parameters are no dictionary")
    return parameters, variables


def _refusal(label: str, unread: dict[str, str]) -> str:
    reasons = ", ".join(f"{name} ({reason})" for name, reason in unread.items())
    return (
        f"{label} must be trusted before it is loaded, because reading these of its entries could run code: {reasons}; "
        "if you trust whoever made it, load it with trusted=True, else give its classes and functions with "
        "sb3_metra.add_safe_globals, or the entries themselves with custom_objects"
    )


# Files that hold pickles only: those of SB3, and of this package before 0.2


def _read_pickled(archive: Archive, custom_objects: dict[str, Any], trusted: bool) -> SavedModel:
    content = _read_data(archive)
    algorithm = _old_algorithm(content)
    if algorithm is None:
        return SavedModel(archive.label, None, {}, {}, {})
    pickled = {
        name: f"is a pickled {_pickled_type(value)}"
        for name, value in content.items()
        if isinstance(value, dict) and ":serialized:" in value and name not in custom_objects
    }
    if pickled and not trusted:
        raise ValueError(_refusal(archive.label, pickled))
    data = json_to_data(json.dumps(content), custom_objects)
    return SavedModel(archive.label, algorithm, data, *_read_state_dicts(archive))


def _read_state_dicts(archive: Archive) -> tuple[dict[str, Any], dict[str, Any]]:
    """What PyTorch reads without pickle's freedom."""
    try:
        _, parameters, variables = load_from_zip_file(archive.file, load_data=False, device="cpu")
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise archive.broken(f"one of its .pth entries cannot be read ({str(error).splitlines()[0]})") from error
    return parameters, variables or {}


def _read_data(archive: Archive) -> dict[str, Any]:
    content = archive.json("data") if archive.has("data") else None
    if not isinstance(content, dict):
        raise ValueError(f"{archive.label} is not a saved model: it holds no data")
    return content


def _pickled_type(value: dict[str, Any]) -> str:
    return str(value.get(":type:", "object")).removeprefix("<class '").removesuffix("'>")


def _old_algorithm(content: dict[str, Any]) -> str | None:
    """The method's name; files of before 0.2 have none, and the policy tells which package they are of."""
    policy = content.get("policy_class")
    module = str(policy.get("__module__")) if isinstance(policy, dict) else ""
    name = content.get("algorithm", "METRA")
    foreign = module.startswith(("stable_baselines3.", "sb3_contrib."))
    return None if foreign or not isinstance(name, str) else name


def _print_system_info(archive: Archive) -> None:
    if archive.has("system_info.txt"):
        print("== SAVED MODEL SYSTEM INFO ==")
        print(archive.read("system_info.txt").decode(errors="replace"))
    else:
        warnings.warn("the file does not say which versions it was saved with", stacklevel=2)
