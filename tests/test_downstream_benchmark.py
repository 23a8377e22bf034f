"""The script that measures what skills are worth: its episodes, its counting and its intervals."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.toys import tiny_model


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("rl_zoo3", reason="reading settings and TQC need the extra zoo")
    path = Path(__file__).parents[1] / "benchmarks" / "downstream.py"
    spec = importlib.util.spec_from_file_location("downstream_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_evaluation_runs_the_same_episodes(script: ModuleType) -> None:
    seen: list[np.ndarray] = []

    def predict(observation: dict[str, np.ndarray], deterministic: bool) -> tuple[np.ndarray, None]:
        seen.append(observation["goal"].copy())
        return np.clip(10 * (observation["goal"] - observation["observation"]), -1, 1), None

    env = script.make_envs("sb3_metra/PointMassGoal-v0", seed=3)
    first, again = (script.evaluate(SimpleNamespace(predict=predict), env, 16) for _ in range(2))
    assert first == again
    np.testing.assert_array_equal(seen[:400], seen[400:])
    assert len(np.unique(np.concatenate([seen[0], seen[200]]), axis=0)) == 16
    assert first[1] == 1.0
    # Straight to a goal within 7.5 along each axis at 0.1 a step: at most 75 of the 200 steps are spent on the way.
    assert 125 < first[0] <= 200


@pytest.mark.parametrize(("controller", "step_length"), [("skills", 25), ("ppo", 1)])
def test_a_run_counts_steps_of_the_body(
    script: ModuleType, controller: str, step_length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "skills"
    found.mkdir()
    tiny_model("sb3_metra/PointMass-v0").save(found / "model")
    (found / "progress.csv").write_text(
        "time/total_timesteps,time/cpu_seconds,eval/policy_state_coverage\n100000,42.5,235\n"
    )
    (found / "settings.json").write_text('{"env": "sb3_metra/PointMass-v0", "seed": 0}')
    skills = ["--skills", str(found)] if controller == "skills" else []
    words = ["run", "sb3_metra/PointMassGoal-v0", controller, "--out", str(tmp_path / "run"), *skills]
    words += ["--steps", "1600", "--episodes", "2", "--eval-freq", "800"]
    words += ["--change", "{'n_steps': 100, 'n_epochs': 1}" if controller == "ppo" else "{}"]
    monkeypatch.setattr(sys, "argv", ["downstream.py", *words])
    script.main()
    with (tmp_path / "run" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["steps"]) for row in rows] == [0, 800, 1600]
    record = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert record["skill_length"] == (step_length if controller == "skills" else None)
    if controller == "skills":
        assert (record["discovery"]["steps"], record["discovery"]["cpu_seconds"]) == (100_000, 42.5)


def test_an_interval_is_students(script: ModuleType) -> None:
    # Mean 2, standard deviation 1, three values: 4.3027 / sqrt(3) = 2.484.
    assert script.interval([1.0, 2.0, 3.0], ".2f") == "2.00 ± 2.48"
    assert script.interval([1.5], ".1f") == "1.5"
    assert script.interval([np.nan, np.nan], ".1f") == "-"
