"""Files of strangers: whatever they hold, reading them runs nothing, unless they are trusted."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import safetensors.torch
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

import sb3_metra
from sb3_metra import METRA
from sb3_metra.common import plain
from sb3_metra.common.plain import NotPlain, UnknownName, add_safe_globals, decode, encode
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skills import SpherePrior
from tests.toys import same, scripted_envs, state_of, tiny_model

Load = Callable[[Path], Any]


class Payload:
    """Touches a file where it is unpickled: what a stranger would rather use for something else."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once a payload has run."""
    return tmp_path / "mark"


def trained(**kwargs: Any) -> METRA:
    return tiny_model(scripted_envs(2), **kwargs).learn(48)


def rewrite(path: Path, changes: dict[str, Any]) -> None:
    """Replace entries of an archive, or functions of their content; what holds checksums is made to fit."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, change in changes.items():
        content[name] = change(content[name]) if callable(change) else change
    model = json.loads(content["model.json"]) if "model.json" in content else None
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            if name != "model.json":
                archive.writestr(name, value)
    if model is not None:
        with zipfile.ZipFile(path, "a") as archive:
            kept = [info for info in archive.infolist() if info.filename in model["crc32"]]
            model["crc32"] = {info.filename: info.CRC for info in kept}
            model["sha256"] = sha256(content["model.safetensors"]).hexdigest()
            archive.writestr("model.json", json.dumps(model))


def pickled(payload: Any) -> dict[str, str]:
    import base64

    return {":type:": "<class 'harmless'>", ":serialized:": base64.b64encode(cloudpickle.dumps(payload)).decode()}


def poison_data(path: Path, mark: Path, names: Any = None) -> list[str]:
    """Put a payload into each of SB3's entries, or into some."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    names = list(data.keys() - {"algorithm"}) if names is None else names
    rewrite(path, {"data": json.dumps(data | {name: pickled(Payload(mark)) for name in names})})
    return names


def poison_tensors(path: Path, mark: Path) -> None:
    """Put a payload into each of PyTorch's entries."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
    assert len(names) == 7
    rewrite(path, {name: pickle.dumps(Payload(mark)) for name in names})


READERS: list[Load] = [
    lambda path: METRA.load(path, device="cpu"),
    lambda path: sb3_metra.load(path, env=scripted_envs(2), device="cpu"),
    lambda path: tiny_model(scripted_envs(2)).set_parameters(path),
]


def test_a_payload_runs_where_pickles_are_read(mark: Path, tmp_path: Path) -> None:
    """The payloads of this file can be told from nothing."""
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


@pytest.mark.parametrize("read", READERS)
def test_payloads_beside_the_plain_entries_do_not_run(read: Load, mark: Path, tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "model.zip"
    model.save(path)
    poison_data(path, mark)
    poison_tensors(path, mark)
    read(path)
    METRA.load(path, device="cpu", trusted=True)  # nor when it is trusted: they are not needed
    assert same(state_of(METRA.load(path, device="cpu")), state_of(model))
    assert not mark.exists()


def test_payloads_of_an_earlier_version_do_not_run(mark: Path, tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "old.zip"
    BaseAlgorithm.save(model, path)
    poison_data(path, mark)
    for load in READERS[:2]:
        with pytest.raises(
            ValueError, match=r"old.zip must be trusted .*policy_class \(is a pickled harmless\).*trusted=True"
        ):
            load(path)
    assert not mark.exists()
    with pytest.raises(Exception, match=r".*"):
        METRA.load(path, device="cpu", trusted=True)
    assert mark.exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_payloads_in_tensors_of_an_earlier_version_never_run(trusted: bool, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.zip"
    BaseAlgorithm.save(trained(), path)
    poison_tensors(path, mark)
    with pytest.raises(ValueError, match=r"old.zip (is damaged: one of its .pth|must be trusted)"):
        METRA.load(path, device="cpu", trusted=trusted)
    with pytest.raises(ValueError, match=r"old.zip is damaged: one of its .pth"):
        tiny_model(scripted_envs(2)).set_parameters(path)
    assert not mark.exists()


def test_a_file_of_an_earlier_version_needs_trust(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "old.zip"
    BaseAlgorithm.save(model, path)
    with pytest.raises(ValueError, match=r"policy_kwargs \(is a pickled dict\)"):
        METRA.load(path, device="cpu")
    loaded = METRA.load(path, env=scripted_envs(2), device="cpu", trusted=True)
    assert same(state_of(loaded), state_of(model))
    assert loaded.skill_prior == model.skill_prior
    loaded.learn(24)
    loaded.save(tmp_path / "new.zip")
    assert same(state_of(METRA.load(tmp_path / "new.zip", device="cpu")), state_of(loaded))


def test_a_file_of_before_there_were_methods_needs_trust(tmp_path: Path) -> None:
    """It has no generators and no name of its method."""
    model, path = trained(), tmp_path / "old.zip"
    vars(model).pop("algorithm")
    vars(model).pop("skill_rng")
    BaseAlgorithm.save(model, path)
    loaded = sb3_metra.load(path, device="cpu", trusted=True)
    assert same(state_of(loaded), state_of(model))
    loaded.skill_rng.random()


def test_entries_of_an_earlier_version_can_be_given_instead(mark: Path, tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "old.zip"
    BaseAlgorithm.save(model, path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    names = [name for name, value in data.items() if isinstance(value, dict) and ":serialized:" in value]
    poison_data(path, mark, names)
    custom_objects = {name: vars(model)[name] for name in names}
    assert same(state_of(METRA.load(path, device="cpu", custom_objects=custom_objects)), state_of(model))
    assert not mark.exists()


# What the plain entries may say


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("predict", 1, "is not a saved model of METRA: predict is none of its attributes"),
        ("normalization", None, "is not a saved model of METRA: normalization is none of its attributes"),
        ("policy_kwargs", [], r"policy_kwargs must be a dictionary .*, got \[\] in .*model.zip"),
    ],
)
def test_attributes_that_no_model_has_are_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    trained().save(path)

    def change(content: bytes) -> str:
        model = json.loads(content)
        model["data"][name] = value
        return json.dumps(model)

    rewrite(path, {"model.json": change})
    with pytest.raises(ValueError, match=message):
        METRA.load(path, device="cpu")


@pytest.mark.parametrize(
    "value",
    [
        {"$": "global", "name": "os.system"},
        {"$": "global", "name": "builtins.eval"},
        {"$": "global", "name": "sb3_metra.common.saving.json_to_data"},
        {"$": "global", "name": "torch.nn.modules.activation.torch"},
        {"$": "global", "name": "torch.nn.parallel.distributed.DistributedDataParallel"},
        {"$": "object", "class": "subprocess.Popen", "state": {}},
        {"$": "object", "class": "torch.nn.modules.linear.Linear", "state": {}},
        {"$": "object", "class": "rl_zoo3.utils.StoreDict", "state": {}},
    ],
)
def test_other_names_are_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    trained().save(path)

    def change(content: bytes) -> str:
        model = json.loads(content)
        model["data"]["tau"] = value
        return json.dumps(model)

    rewrite(path, {"model.json": change})
    with pytest.raises(ValueError, match=r"model.zip must be trusted .* tau \(names "):
        METRA.load(path, device="cpu")


@pytest.mark.parametrize(
    "value",
    [
        {"$": "nothing"},
        {"$": ["list"]},
        {"$": "array", "name": "missing"},
        {"$": "space", "class": "Box", "arguments": {}},
        {"$": "space", "class": "Evil", "arguments": {}},
        {"$": "generator", "state": {"bit_generator": "Evil"}},
        {"$": "global", "name": 3},
        {"$": "dict"},
        {"$": "dtype", "value": "evil"},
    ],
)
def test_entries_that_mean_nothing_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(value, {})


def test_replay_of_strangers_does_not_run(mark: Path, tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "replay.pkl"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ValueError, match=r"replay.pkl must be trusted"):
        model.load_replay_buffer(path)
    model.save_replay_buffer(path)
    with (tmp_path / "skills.npy").open("wb") as file:
        np.save(file, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    rewrite(path, {"skills.npy": (tmp_path / "skills.npy").read_bytes()})
    with pytest.raises(ValueError, match=r"replay.pkl is damaged: skills.npy inside it, Object arrays cannot"):
        model.load_replay_buffer(path, trusted=True)
    assert not mark.exists()


def test_policies_of_strangers_do_not_run(mark: Path, tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "policy.pth"
    th.save({"state_dict": {}, "data": Payload(mark)}, path)
    with pytest.raises(ValueError, match=r"policy.pth must be trusted"):
        SkillPolicy.load(path)
    assert not mark.exists()
    BaseModel.save(model.policy, str(path))
    loaded = SkillPolicy.load(path, trusted=True)
    assert same(dict(loaded.state_dict()), dict(model.policy.state_dict()))
    model.policy.save(path)
    assert same(dict(SkillPolicy.load(path).state_dict()), dict(model.policy.state_dict()))


def test_a_policy_with_an_extractor_of_ones_own(tmp_path: Path) -> None:
    policy = trained(policy_kwargs={"net_arch": [8], "features_extractor_class": OwnExtractor}).policy
    policy.save(tmp_path / "policy.pth")
    with pytest.raises(ValueError, match=r"features_extractor_class \(names tests.test_strangers_files.OwnExtractor\)"):
        SkillPolicy.load(tmp_path / "policy.pth")
    loaded = SkillPolicy.load(tmp_path / "policy.pth", custom_objects={"OwnExtractor": OwnExtractor})
    assert type(loaded.actor.features_extractor.extractor) is OwnExtractor
    with pytest.raises(NotPlain, match="policy cannot be saved without pickle"):
        trained(policy_kwargs={"net_arch": [8], "activation_fn": lambda: nn.ReLU()}).policy.save(tmp_path / "other")


# Classes and functions of one's own


class OwnExtractor(FlattenExtractor):
    """An extractor that this package does not know."""


class OwnPolicy(SkillPolicy):
    """A policy that this package does not know."""


class OwnSchedule:
    """A schedule with a number."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, remaining: float) -> float:
        return self.start * remaining**2


def own_schedule(remaining: float) -> float:
    """A schedule."""
    return 1e-3 * remaining


@pytest.fixture
def _no_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_registered", {})


OWN: list[tuple[str, Any, dict[str, Any]]] = [
    ("policy_kwargs", OwnExtractor, {"policy_kwargs": {"net_arch": [8], "features_extractor_class": OwnExtractor}}),
    ("policy_class", OwnPolicy, {"policy": OwnPolicy}),
    ("learning_rate", own_schedule, {"learning_rate": own_schedule}),
]


@pytest.mark.parametrize(("name", "own", "kwargs"), OWN)
@pytest.mark.usefixtures("_no_globals")
def test_names_of_ones_own_need_no_trust(name: str, own: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    model, path = trained(**kwargs), tmp_path / "model.zip"
    model.save(path)
    with pytest.raises(ValueError, match=rf"{name} \(names tests.test_strangers_files.{own.__name__}\).*add_safe_glob"):
        METRA.load(path, device="cpu")
    values = {"policy_kwargs": kwargs.get("policy_kwargs"), "policy_class": OwnPolicy, "learning_rate": own_schedule}
    for custom_objects in ({own.__name__: own}, {name: values[name]}):
        loaded = METRA.load(path, device="cpu", custom_objects=custom_objects)
        assert same(state_of(loaded), state_of(model))
        assert getattr(loaded, name) == getattr(model, name)
    assert METRA.load(path, device="cpu", trusted=True).policy_class is model.policy_class
    add_safe_globals([own])
    assert same(state_of(METRA.load(path, device="cpu")), state_of(model))


@pytest.mark.usefixtures("_no_globals")
def test_what_has_no_name_needs_trust_or_a_replacement(tmp_path: Path) -> None:
    model, path = trained(learning_rate=lambda remaining: 2e-3 * remaining), tmp_path / "model.zip"
    model.save(path)
    with pytest.raises(ValueError, match=r"learning_rate \(is a pickled function\)"):
        METRA.load(path, device="cpu")
    assert METRA.load(path, device="cpu", trusted=True).learning_rate(0.5) == 1e-3
    assert METRA.load(path, device="cpu", learning_rate=0.5).learning_rate == 0.5
    assert METRA.load(path, device="cpu", custom_objects={"learning_rate": 0.25}).lr_schedule(1) == 0.25


@pytest.mark.usefixtures("_no_globals")
def test_instances_of_ones_own_are_written_once_their_class_is_known(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    trained(learning_rate=OwnSchedule(1e-3)).save(path)
    with pytest.raises(ValueError, match=r"learning_rate \(is a pickled OwnSchedule\)"):
        METRA.load(path, device="cpu")
    add_safe_globals([OwnSchedule])
    trained(learning_rate=OwnSchedule(1e-3)).save(path)
    assert METRA.load(path, device="cpu").learning_rate.start == 1e-3
    with pytest.raises(ValueError, match="classes and functions that a module defines, got"):
        add_safe_globals([lambda: None])


# Values


def round_trip(value: Any) -> Any:
    tensors: dict[str, th.Tensor] = {}
    text = json.dumps(encode(value, tensors, "value"))
    return decode(json.loads(text), safetensors.torch.load(safetensors.torch.save(tensors)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -2.5,
        float("inf"),
        "text",
        [1, [2, "a"]],
        (1, (2,)),
        {"a": 1, "b": {"c": (1,)}},
        {1: "a", (2, 3): "b"},
        {"$": "a"},
        deque([{"r": 1.0}], maxlen=3),
        np.float32(0.1),
        np.int64(3),
        np.dtype("float32"),
        np.float32,
        Path("a/b"),
        nn.ReLU,
        th.optim.Adam,
        FlattenExtractor,
        SkillPolicy,
        TrainFreq(3, TrainFrequencyUnit.EPISODE),
        SpherePrior(3),
        spaces.Box(-1.0, np.inf, (2, 3), np.float32),
        spaces.Box(0, 255, (3, 46, 46), np.uint8),
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple((spaces.Discrete(2),))}),
    ],
)
def test_values_come_back(value: Any) -> None:
    again = round_trip(value)
    assert type(again) is type(value)
    assert again == value


def test_arrays_generators_and_objects_come_back() -> None:
    for array in (np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2], np.array(1.5), np.zeros((0, 2), bool)):
        again = round_trip({"a": array})["a"]
        assert (again.dtype, again.shape, again.tolist()) == (array.dtype, array.shape, array.tolist())
        again[...] = 1  # its own memory, which may be written to
    tensor = th.arange(4, dtype=th.bfloat16)
    assert th.equal(round_trip([tensor])[0], tensor)
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        generator = np.random.Generator(kind(3))
        generator.normal(size=5)
        assert round_trip(generator).normal() == generator.normal()
    for schedule in (
        ConstantSchedule(0.5),
        LinearSchedule(1.0, 0.1, 0.5),
        FloatSchedule(LinearSchedule(1.0, 0.5, 1.0)),
    ):
        assert round_trip(schedule)(0.75) == schedule(0.75)
    space = spaces.Box(-1.0, 1.0, (2,), np.float32, seed=3)
    space.sample()
    assert np.array_equal(round_trip(space).sample(), space.sample())
    assert list(round_trip(spaces.Dict([("b", space), ("a", space)])).spaces) == ["b", "a"]


def test_tables_that_look_alike_keep_their_arrays_apart() -> None:
    value = {"a/b": np.zeros(1), "a": {"b": np.ones(1)}}
    again = round_trip(value)
    assert (again["a/b"][0], again["a"]["b"][0]) == (0.0, 1.0)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: None,
        {1, 2},
        b"bytes",
        np.array([object()]),
        [object()],
        {"a": object()},
        SpherePrior(2).sample,
    ],
)
def test_other_values_are_not_plain(value: Any) -> None:
    with pytest.raises(NotPlain):
        encode(value, {}, "value")


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(UnknownName, match=r"collections.Counter is not known: call add_safe_globals"):
        decode({"$": "global", "name": "collections.Counter"}, {})
