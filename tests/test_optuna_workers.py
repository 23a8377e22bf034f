"""A search for hyperparameters by several processes, which share a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sb3_metra.cli import main

optuna = pytest.importorskip("optuna")
zoo = pytest.importorskip("sb3_metra.zoo")

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["--env", "sb3_metra/PointMass-v0", "--optimize", "-n", "800", "--n-evaluations", "1", "--eval-episodes", "2"]
TINY = ["n_envs:2", "batch_size:16", "train_freq:100"]


@pytest.mark.slow
def test_two_workers_share_a_search(tmp_path: Path) -> None:
    """They begin at once, in an empty database, and share six trials."""
    storage = f"sqlite:///{tmp_path}/search.db"
    shared = ["--storage", storage, "--study-name", "point", "--max-total-trials", "6", "--no-optim-plots"]
    words = ["train", *WORDS, *shared, "-f", str(tmp_path), "-params", *TINY, "--seed"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "sb3_metra.cli", *words, str(seed)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for seed in (1, 2)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    study = optuna.load_study(storage=storage, study_name="point")
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert 6 <= len(study.trials) <= 7  # each worker counts before it begins
    assert len(complete) == len(study.trials)
    assert all(trial.value > 0 for trial in complete)
    assert all("Best trial:" in output for output in outputs)


def test_a_database_that_cannot_be_opened_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(zoo.time, "sleep", waited.append)
    storage = f"sqlite:///{tmp_path}/nowhere/search.db"
    assert main(["train", *WORDS, "--storage", storage, "--study-name", "x"]) == 2
    error = capsys.readouterr().err
    assert f"--storage must be a database, got '{storage}': " in error
    assert error.count("\n") == 1
    assert len(waited) == 3


def test_workers_wait_for_whoever_makes_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bool] = []
    create = optuna.create_study

    def busy(**kwargs: object) -> object:
        tries.append(True)
        if len(tries) < 3:
            raise zoo.SQLAlchemyError("UNIQUE constraint failed")
        return create(**kwargs)

    monkeypatch.setattr(zoo.optuna, "create_study", busy)
    monkeypatch.setattr(zoo.time, "sleep", lambda seconds: None)
    storage = f"sqlite:///{tmp_path}/search.db"
    zoo._open_storage(["--optimize", "--storage", storage, "--study-name", "x"])
    assert len(tries) == 3
    assert optuna.load_study(storage=storage, study_name="x").direction.name == "MAXIMIZE"
    zoo._open_storage(["--optimize", "--storage", "a.log", "--study-name", "y"])  # rl_zoo3's own
    zoo._open_storage(["--storage", storage, "--study-name", "z", "--trial-id", "1"])  # no search
    assert len(tries) == 3
