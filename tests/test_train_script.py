"""benchmarks/train.py: a run that stopped goes on from its checkpoint, and any task of the suite can be trained in."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

from sb3_metra import DIAYN, METRA
from sb3_metra.common.checkpoint import find_checkpoint

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "train.py"
TINY = {"n_envs": 2, "train_freq": 100, "gradient_steps": 2, "learning_starts": 200, "batch_size": 32}
NETWORKS = {"policy_kwargs": {"net_arch": [8]}, "phi_kwargs": {"net_arch": [8]}, "objective_batch_size": None}


def train(monkeypatch: pytest.MonkeyPatch, out: Path, env_id: str, change: dict, *arguments: str) -> list[dict]:
    """Run the script in this process; the rows of what it logged."""
    words = ["--env", env_id, "--out", str(out), "--change", repr(change), "--eval-skills", "2", *arguments]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    with (out / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point, change = "sb3_metra/PointMass-v0", TINY | NETWORKS
    train(monkeypatch, tmp_path, point, change, "--steps", "400", "--eval-freq", "200", "--checkpoint-minutes", "60")
    first = METRA.load(find_checkpoint(tmp_path) / "model")
    assert (first.num_timesteps, first._n_updates) == (400, 2)
    rows = train(
        monkeypatch, tmp_path, point, change, "--steps", "800", "--eval-freq", "200", "--checkpoint-minutes", "60"
    )
    second = METRA.load(find_checkpoint(tmp_path) / "model")
    assert (second.num_timesteps, second._n_updates) == (800, 6)
    assert [int(float(row["time/total_timesteps"])) for row in rows] == [200, 400, 600, 800]
    seconds = [float(row["time/cpu_seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    second.load_replay_buffer(find_checkpoint(tmp_path) / "replay.zip")
    assert second.replay_buffer is not None
    assert second.replay_buffer.size() == 400  # of each of two environments
    names = {path.name for path in tmp_path.iterdir()}
    assert {"settings.json", "model.zip", "best_model.zip", "skills.png"} <= names


def test_another_method_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    change = TINY | {name: value for name, value in NETWORKS.items() if name != "phi_kwargs"} | {"skill_dim": 3}
    arguments = ["--algo", "diayn", "--steps", "400", "--eval-freq", "400"]
    train(monkeypatch, tmp_path, "sb3_metra/PointMass-v0", change, *arguments)
    assert DIAYN.load(tmp_path / "model").skill_prior.discrete
    assert json.loads((tmp_path / "settings.json").read_text())["algorithm"] == "diayn"


@pytest.mark.skipif(sys.platform == "win32", reason="EGL and OSMesa draw on Linux")
def test_any_task_of_the_suite_is_trained_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    small = {"depth": 1}
    change = TINY | NETWORKS | {"policy": "CnnPolicy", "buffer_size": 1000, "n_envs": 1}  # each is a process
    change["policy_kwargs"] = {"net_arch": [8], "features_extractor_kwargs": small}
    arguments = ["--env-kwargs", '{"camera": "cam0", "frame_size": 46, "max_episode_steps": 50}', "--cell-size", "0.05"]
    rows = train(
        monkeypatch, tmp_path, "dmc/point_mass-easy", change, *arguments, "--steps", "400", "--eval-freq", "400"
    )
    assert float(rows[-1]["eval/policy_state_coverage"]) > 0
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["settings"]["env_kwargs"] == {"camera": "cam0", "frame_size": 46, "max_episode_steps": 50}
    assert METRA.load(tmp_path / "model").observation_space.shape == (9, 46, 46)
