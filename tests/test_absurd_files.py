"""Files that are whole and absurd: a sentence names the file and the key, or what is absurd is left out."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_metra import METRA
from sb3_metra.common.checkpoint import RunCheckpointCallback
from sb3_metra.common.constructor import ALGORITHM
from sb3_metra.common.files import write_manifest
from sb3_metra.common.normalization import ObservationNormalization
from sb3_metra.common.saved_attributes import STATE, check_attributes
from tests.toys import goal_points, scripted_envs, tiny_model

ABSURD = (None, 5, "x", [], {}, -1, math.nan, True, 1e300)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's file and its replay."""
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model(scripted_envs(2)).learn(24)
    model.save(folder / "model.zip")
    model.save_replay_buffer(folder / "replay.zip")
    model.save_checkpoint(folder / "checkpoints")
    return folder


def change(source: Path, target: Path, entry: str, edit: Callable[[Any], Any]) -> Path:
    """A copy of an archive in which the content of one JSON entry is another."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, json.dumps(edit(json.loads(content))) if name == entry else content)
    return target


def put(path: str, value: Any) -> Callable[[Any], Any]:
    """Replace what lies at a path of keys; ``...`` removes it."""

    def edit(content: Any) -> Any:
        *outer, last = path.split("/")
        inner = content
        for key in outer:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        return content

    return edit


@pytest.mark.parametrize("name", ALGORITHM | STATE)
def test_absurd_attributes(name: str) -> None:
    """Each is read, as another number perhaps, or refused by its name and the file's."""
    refused = 0
    for value in ABSURD:
        try:
            check_attributes("m.zip", {name: value})
        except ValueError as error:
            refused += str(error).startswith(f"{name} must be ") and str(error).endswith(" in m.zip")
    assert refused >= 3


MODELS = [
    *(("data", value) for value in (None, 5, [], ...)),
    *(("algorithm", value) for value in (5, [], ...)),
    *((name, value) for name in ("pickled", "parameters", "variables", "crc32", "sha256") for value in (5, ...)),
    ("data/num_timesteps", None),
    ("data/_episode_num", "x"),
    ("data/_n_updates", -1),
    ("data/ep_info_buffer", [3]),
    ("data/policy_class", {"$": "global", "name": "sb3_metra.common.buffers.SkillReplayBuffer"}),
    ("data/policy_class", ...),
    ("data/observation_space/arguments/low", {}),
    ("data/_skill_prior/state", {}),
    ("data/_skill_prior/state/dim", -1),
    ("data/skill_rng/state/state", "x"),
    ("data/policy_kwargs/net_arch", [10**30]),
    ("data/dual_lambda", "x"),
    ("data/phi_kwargs", {"net_arc": [8]}),
    ("data/buffer_size", 10**15),
    ("parameters/policy", 5),
    ("parameters/objective", ...),
]


@pytest.mark.parametrize(("path", "value"), MODELS)
def test_absurd_models(path: str, value: Any, saved: Path, tmp_path: Path) -> None:
    changed = change(saved / "model.zip", tmp_path / "absurd.zip", "model.json", put(path, value))
    with pytest.raises((ValueError, RuntimeError), match=r"absurd\.zip") as caught:
        METRA.load(changed, device="cpu")
    assert "\n" not in str(caught.value)


EXTRA = {"env": 5, "replay_buffer": "x", "_logger": 5, "_vec_normalize_env": 5, "_watch": 5, "objective": 5, "zzz": []}


def test_attributes_that_no_file_has_are_left_out(saved: Path, tmp_path: Path) -> None:
    """So are the SB3 ones of other algorithms; and what is missing is as in a new model."""

    def edit(content: Any) -> Any:
        content["data"] |= EXTRA | {"replay_buffer_kwargs": {"skill_dim": 7}}
        for name in ("ep_success_buffer", "_episode_num", "num_timesteps", "_round"):
            del content["data"][name]
        return content

    model = METRA.load(change(saved / "model.zip", tmp_path / "m.zip", "model.json", edit), scripted_envs(2))
    model.learn(8, reset_num_timesteps=False)
    assert (model.num_timesteps, model.skill_prior.dim) == (16, 2)


@pytest.mark.parametrize("value", [None, 5, [], {}, ...])
def test_absurd_replay(value: Any, saved: Path, tmp_path: Path) -> None:
    changed = change(saved / "replay.zip", tmp_path / "absurd.zip", "replay.json", put("meta", value))
    with pytest.raises(ValueError, match=r"absurd\.zip"):
        tiny_model(scripted_envs(2)).load_replay_buffer(changed)


def test_replay_larger_than_memory(saved: Path, tmp_path: Path) -> None:
    changed = change(saved / "replay.zip", tmp_path / "a.zip", "replay.json", put("meta/buffer_size", 10**15))
    with pytest.raises(ValueError, match=r"a\.zip does not fit this model: Unable to allocate"):
        tiny_model(scripted_envs(2)).load_replay_buffer(changed)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model(goal_points(2)).learn(24, RunCheckpointCallback(4, folder))
    return max(folder.iterdir())


CHECKPOINTS = [
    *(("attributes", value) for value in (None, {}, ...)),
    ("attributes/_round", "x"),
    ("attributes/_last_obs", {}),
    ("attributes/_last_skills", None),
    ("attributes/_episode_steps", None),
    ("environments", 5),
    ("environments/base", "x"),
    ("environments/wrappers", [{"class": "VecNormalize"}]),
    ("environments/base/environments", [[{"class": "TimeLimit", "_elapsed_steps": "x"}, {}], []]),
    ("random/torch", 5),
    ("random/skills", None),
    ("random", ...),
    ("noise", 5),
    ("logger/name_to_excluded", {}),
    ("callbacks", {"a": 1}),
    ("callbacks", [["RunCheckpointCallback", {"attributes": {"n_calls": ['"x"', {}]}}]]),
    ("callbacks", [["RunCheckpointCallback", {"attributes": {"save_freq": ['"x"', {}]}}]]),
    ("callbacks", [["RunCheckpointCallback", {"attributes": {"on_step": ["5", {}]}}]]),
    ("callbacks", [["RunCheckpointCallback", {"attributes": {"model": ["5", {}]}}]]),
]


@pytest.mark.parametrize(("path", "value"), CHECKPOINTS)
def test_absurd_checkpoints(path: str, value: Any, checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        if file.name not in ("state.json", "manifest.json"):
            (tmp_path / file.name).hardlink_to(file)
    content = json.loads((checkpoint / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(put(path, value)(content)))
    write_manifest(tmp_path)
    with pytest.raises(ValueError, match=r"state\.json") as caught:
        METRA.resume(tmp_path, goal_points(2), device="cpu").learn(8, RunCheckpointCallback(100, tmp_path / "more"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"mean": None}, {"var": np.full(2, -1.0)}, {"var": np.ones(3)}, {"clip": 0}, {"count": "x"}, {"mean": {}}]
)
def test_what_are_no_statistics(wrong: dict[str, Any]) -> None:
    sound: dict[str, Any] = {"mean": np.zeros(2), "var": np.ones(2), "count": 3.0}
    ObservationNormalization(**sound)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must be "):
        ObservationNormalization(**(sound | wrong))
