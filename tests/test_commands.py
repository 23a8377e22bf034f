"""The commands ``evaluate`` and ``compare`` on models and logs whose answers are known."""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import sb3_metra
from sb3_metra import METRA
from sb3_metra.algorithms import ALGORITHMS
from sb3_metra.cli import main
from sb3_metra.commands import evaluate as evaluate_command
from sb3_metra.commands.compare import group_runs, summarize
from sb3_metra.commands.loading import find_model
from tests.toys import TINY

POINT = "sb3_metra/PointMass-v0"
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning")


class Bare(gym.Env):
    """Tells neither coordinates nor tasks, and cannot render."""

    metadata: dict = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, 0.1 * self.steps, np.float32), 1.0, self.steps == 4, False, {}


class Tasks(Bare):
    """Tells tasks, of which the second one is achieved in the third step and undone in the fourth."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        tasks = {"kettle": False, "microwave": self.steps >= 3}
        return observation, reward, terminated, truncated, {"tasks": tasks}


@pytest.fixture(autouse=True)
def _registered() -> None:
    for name, entry_point in (("Bare-v0", Bare), ("Tasks-v0", Tasks)):
        if name not in gym.registry:
            gym.register(name, entry_point=entry_point)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model for the point mass, untrained."""
    folder = tmp_path_factory.mktemp("run")
    METRA("MlpPolicy", POINT, **TINY).save(folder / "model")
    return folder


@pytest.fixture(scope="session")
def discrete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three discrete skills."""
    folder = tmp_path_factory.mktemp("discrete")
    METRA("MlpPolicy", POINT, skill_dim=3, discrete=True, **TINY).save(folder / "model")
    return folder


def read(capsys: pytest.CaptureFixture[str]) -> dict:
    """What was printed on the standard output, which must be nothing but JSON."""
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# Which model a folder stands for


def test_a_folder_stands_for_its_best_or_newest_whole_model(tmp_path: Path) -> None:
    whole = METRA("MlpPolicy", POINT, **TINY)
    for age, name in enumerate(("new.zip", "old.zip", ".old.0a1b.tmp.zip")):  # the last is what a kill leaves behind
        whole.save(tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert find_model(tmp_path).name == "new.zip"
    content = (tmp_path / "old.zip").read_bytes()
    (tmp_path / "best_model.zip").write_bytes(content)
    os.utime(tmp_path / "best_model.zip", (1, 1))
    assert find_model(tmp_path).name == "best_model.zip"
    assert find_model(tmp_path / "old.zip").name == "old.zip"
    for torn in ("best_model.zip", "new.zip"):
        (tmp_path / torn).write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"best_model.zip .*old.zip is taken instead"):
        assert find_model(tmp_path).name == "old.zip"


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, message in ((tmp_path, "which holds no .zip file"), (tmp_path / "x", "which does not exist")):
        assert main(["evaluate", str(path), "--env", POINT]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


# evaluate


def test_evaluate_prints_all_metrics_and_a_table(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model), "--env", POINT, "--n-skills", "3", "--table", "--progress"]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out)
    assert {"policy_state_coverage", "distance", "phi_cosine", "phi_violation", "episode_return"} <= set(result)
    assert result["model"] == str(model / "model.zip")
    rows = [line.split() for line in streams.err.splitlines() if line.startswith(("+", "-"))]
    assert len(rows) == 3
    assert "straightness" in streams.err
    assert "3/3" in streams.err or "skills:" in streams.err


def test_evaluate_averages_over_seeds(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(model), "--env", POINT, "--n-skills", "2", "--seed"]
    singles = []
    for seed in ("3", "4"):
        assert main([*arguments, seed]) == 0
        singles.append(read(capsys)["distance"])
    assert main([*arguments, "3", "4"]) == 0
    result = read(capsys)
    assert result["seed"] == [3, 4]
    assert [metrics["distance"] for metrics in result["by_seed"]] == singles
    assert result["distance"] == pytest.approx(np.mean(singles))


def test_evaluate_counts_cells_of_one_column(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(model), "--env", POINT, "--n-skills", "3", "--max-episode-steps", "40", "--cell-size"]
    results = []
    for extra in (["0.01", "0.01"], ["0.01"], ["0.01", "1000"], ["0.01", "--columns", "0"]):
        assert main([*arguments, *extra]) == 0
        results.append(read(capsys)["policy_state_coverage"])
    assert results[0] == results[1] > results[2]
    # around the origin, cells of 1000 split y in two: at most twice the cells of x alone
    assert results[3] <= results[2] <= 2 * results[3]


def test_evaluate_writes_pictures_a_table_and_a_video(discrete: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--n-skills", "6", "--n-envs", "2", "--out", str(tmp_path), "--video", "2", "--theme", "dark"]
    assert main(["evaluate", str(discrete), "--env", POINT, *arguments, "--env-kwargs", "width:48", "height:48"]) == 0
    result = read(capsys)
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {f"{name}.{ending}" for name in ("skills", "each_skill", "phi") for ending in ("png", "svg")}
    assert names == pictures | {"evaluation.json", "skills.csv", "skills.mp4"}
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    with (tmp_path / "skills.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert np.mean([float(row["distance"]) for row in rows]) == pytest.approx(result["distance"])


def test_evaluate_says_what_an_environment_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    METRA("MlpPolicy", "Bare-v0", **TINY).save(tmp_path / "model")
    assert main(["evaluate", str(tmp_path), "--env", "Bare-v0", "--n-skills", "2"]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out)
    assert result["policy_state_coverage"] is None
    assert result["episode_return"] == 4.0
    assert 'No coverage: Bare-v0 reports neither info["coordinates"] nor info["tasks"]' in streams.err
    out = ["--out", str(tmp_path / "out"), "--video", "1"]
    assert main(["evaluate", str(tmp_path), "--env", "Bare-v0", *out]) == 2
    assert '--video needs an environment with the render mode "rgb_array", got Bare-v0' in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--env", "Bare-v0", "--video", "1"]) == 2
    assert "--video needs a folder to write to: add --out DIR" in capsys.readouterr().err


def test_evaluate_counts_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    METRA("MlpPolicy", "Tasks-v0", **TINY).save(tmp_path / "model")
    assert main(["evaluate", str(tmp_path), "--env", "Tasks-v0", "--n-skills", "2", "--table"]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out)
    assert (result["task_coverage"], result["tasks"]) == (1, ["microwave"])
    assert "microwave" in streams.err
    assert "No coverage" not in streams.err


def test_evaluate_names_the_missing_library_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("sb3_metra.evaluation.plotting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sb3_metra.evaluation, "plotting", raising=False)
    monkeypatch.setattr(evaluate_command, "evaluate", lambda *args, **kwargs: pytest.fail("measured before"))
    assert main(["evaluate", str(model), "--env", POINT, "--out", str(tmp_path)]) == 2
    assert 'pip install "sb3-metra[plot]"' in capsys.readouterr().err


# compare


def write_log(path: Path, coverage: list[float], steps: int = 100) -> Path:
    """A log such as SB3's, with lines between that hold no evaluation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["time/total_timesteps,eval/policy_state_coverage,train/dual_lambda"]
    for i, value in enumerate(coverage, 1):
        lines += [f"{i * steps - 50},,3.0", f"{i * steps},{value},2.0"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_compare_puts_seeds_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rliable")
    aggregate = importlib.import_module("sb3_metra.evaluation.aggregate")
    interval = aggregate._interval  # of fewer samples
    monkeypatch.setattr(aggregate, "_interval", lambda table, name, reps, *rest: interval(table, name, 100, *rest))
    for seed, values in enumerate(([1, 5, 9], [3, 7], [2, 6, 30])):
        write_log(tmp_path / f"a_s{seed}" / "progress.csv", values)
    npz = tmp_path / "zoo" / "evaluations.npz"
    npz.parent.mkdir()
    np.savez(npz, timesteps=[100, 200], results=[[4.0], [8.0]])
    out = tmp_path / "out"
    assert main(["compare", f"a={tmp_path}/a_s*", f"b={npz.parent}", "--out", str(out)]) == 0
    table = read(capsys)
    first, second = table["methods"]["a"], table["methods"]["b"]
    assert first["n_runs"] == 3
    assert first["last"] == 200.0  # what all three reach
    assert first["final"]["runs"] == [5.0, 7.0, 6.0]
    assert first["best"]["runs"] == [9.0, 7.0, 30.0]
    assert first["final"]["iqm"]["value"] == pytest.approx(6.0)
    assert 5.0 <= first["final"]["mean"]["low"] < 6.0 < first["final"]["mean"]["high"] <= 7.0
    assert first["best"]["median"]["value"] == 9.0
    assert second["final"] == {"runs": [8.0], "mean": {"value": 8.0, "low": None, "high": None}}
    assert {path.name for path in out.iterdir()} == {"comparison.json", "comparison.png", "comparison.svg"}
    assert json.loads((out / "comparison.json").read_text()) == table


def test_compare_takes_other_columns_and_no_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    monkeypatch.delitem(sys.modules, "sb3_metra.evaluation.aggregate", raising=False)
    monkeypatch.delattr(sb3_metra.evaluation, "aggregate", raising=False)
    logs = [str(write_log(tmp_path / f"{name}.csv", [1, 2])) for name in ("x", "y")]
    runs = [f"both={log}" for log in logs]
    out = ["--out", str(tmp_path / "out"), "--metric", "dual_lambda"]
    assert main(["compare", *runs, *out, "--no-intervals"]) == 0
    assert read(capsys)["methods"]["both"]["final"] == {
        "runs": [2.0, 2.0],
        "mean": {"value": 2.0, "low": None, "high": None},
    }
    assert main(["compare", *runs, *out]) == 2
    assert 'pip install "sb3-metra[stats]"' in capsys.readouterr().err


def test_compare_labels_runs_by_their_folder_or_file(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "fast" / "progress.csv", [1]).parent
    kept = write_log(tmp_path / "kept" / "ant_s0.csv", [1])
    assert group_runs([str(folder), str(folder / "progress.csv"), str(kept)]) == {
        "fast": [folder / "progress.csv"] * 2,
        "ant_s0": [kept],
    }


def test_compare_reads_a_log_that_was_kept_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.csv").write_text("steps,policy_state_coverage\n100,3\n200,5\n")
    assert main(["compare", str(tmp_path / "kept.csv"), "--out", str(tmp_path / "out")]) == 0
    result = read(capsys)["methods"]["kept"]
    assert (result["last"], result["final"]["runs"]) == (200.0, [5.0])


def test_compare_takes_evaluations_of_saved_models(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "evaluation"
    short = ["--n-skills", "2", "--max-episode-steps", "20"]
    assert main(["evaluate", str(model), "--env", POINT, *short, "--out", str(out)]) == 0
    coverage = read(capsys)["policy_state_coverage"]
    assert main(["compare", str(out), "--out", str(tmp_path / "out")]) == 0
    assert read(capsys)["methods"]["evaluation"]["final"]["runs"] == [coverage]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "RUN must be a file, or a folder with one of progress.csv, evaluations.npz, evaluation.json"),
        ("", "must hold at least one line of the log, got none"),
        ("time/total_timesteps,train/dual_lambda\n1,2\n", "must have one column 'eval/policy_state_coverage'"),
        ("time/total_timesteps,eval/policy_state_coverage\n1,\n", "must hold a value of 'eval/policy_state_coverage'"),
    ],
)
def test_compare_says_what_is_wrong_with_a_run(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "progress.csv").write_text(content)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert str(tmp_path) in streams.err
    assert streams.out == ""


def test_summaries_need_no_library_for_single_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    table = summarize({"a": [(np.array([1.0, 3.0]), np.array([4.0, 2.0]))]})
    assert table["a"]["final"]["mean"]["value"] == 2.0
    assert table["a"]["best"]["mean"]["value"] == 4.0


# Every method


USUAL = ("DIAYN", "METRA")  # without phi, and with it


@pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in sorted(ALGORITHMS)]
)
def test_every_method_is_measured_drawn_and_explored(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands ask what a model can do: one without phi has no goals, and a page without it."""
    has_phi = hasattr(ALGORITHMS[name], "encode")
    arguments = {key: value for key, value in TINY.items() if has_phi or key != "phi_kwargs"}
    ALGORITHMS[name]("MlpPolicy", POINT, **arguments).save(tmp_path / "model")
    common = [str(tmp_path / "model.zip"), "--env", POINT, "--max-episode-steps", "20"]
    assert main(["evaluate", *common, "--n-skills", "2", "--out", str(tmp_path / "out")]) == 0
    result = read(capsys)
    assert ("phi_violation" in result) == (tmp_path / "out" / "phi.png").is_file() == has_phi
    assert main(["report", *common, "--n-skills", "2", "--no-video"]) == 0
    assert ("learns no φ" in capsys.readouterr().err) == (not has_phi)
    assert main(["goals", *common, "--n-goals", "1", "--n-envs", "1"]) == (0 if has_phi else 2)
    assert has_phi or f"model must have a method encode for reaching goals, got {name}" in capsys.readouterr().err
