"""Studies as jobs, by submitit's local executor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sb3_metra.cli import main
from sb3_metra.study.attempt import attempt
from sb3_metra.study.folder import opened, read_result
from sb3_metra.study.plan import make_study
from tests.test_study import FIRST, SECOND, TINY, results

submitit = pytest.importorskip("submitit")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.mark.slow
def test_jobs_give_what_one_process_gives(file: Path, tmp_path: Path) -> None:
    words = ["study", str(file), "--slurm", "cluster=local", "partition=any", "--out"]
    assert main([*words, str(tmp_path / "jobs")]) == 0
    assert json.loads((tmp_path / "jobs" / FIRST / "job.json").read_text())["cluster"] == "local"
    study = make_study("tiny", TINY)
    with opened(study, tmp_path / "here") as mark:
        for name in study.trials:
            attempt(str(tmp_path / "here"), name, mark)
    assert main([*words, str(tmp_path / "here")]) == 0  # nothing is left to run
    assert results(tmp_path / "jobs") == results(tmp_path / "here")


@pytest.mark.slow
def test_a_job_that_fails_is_queued_again(tmp_path: Path) -> None:
    from sb3_metra.study import on_slurm

    study, out = make_study("tiny", TINY), tmp_path / "out"
    with opened(study, out) as mark:
        (out / SECOND / "progress.csv").mkdir(parents=True)  # cannot be written
        on_slurm.run_slurm(study, out, mark, ["cluster=local"], lambda names: None)
    assert read_result(out / FIRST)["status"] == "finished"
    assert read_result(out / SECOND)["status"] == "failed"
    assert len(list((out / "slurm").glob("*_submitted.pkl"))) == 3


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        (["partition"], {}, "--slurm must be KEY=VALUE, such as partition=gpu, got 'partition'"),
        (["partition=x"], {}, "--slurm must fit the SLURM of this machine, got partition=x: Could not detect"),
        (["cluster=mars"], {}, "--slurm must fit the SLURM of this machine, got cluster=mars: "),
        (["cluster=local", "partitoin=x"], {}, "--slurm must fit the SLURM of this machine, got .*partitoin"),
        (["cluster=local"], {"gpus": 0.5}, "gpus must be a whole number on SLURM, got 0.5"),
        (["cluster=local"], {"scheduler": "asha"}, "scheduler must run on Ray: leave out --slurm"),
    ],
)
def test_what_cannot_be_queued_is_one_sentence(words: list[str], change: dict, message: str, tmp_path: Path) -> None:
    from sb3_metra.study import on_slurm

    with pytest.raises(ValueError, match=message) as raised:
        on_slurm.run_slurm(make_study("tiny", TINY | change), tmp_path, "mark", words, lambda names: None)
    assert "\n" not in str(raised.value)


def test_a_job_that_is_preempted_is_queued_as_it_was() -> None:
    from sb3_metra.study import on_slurm

    again = on_slurm.TrialJob().checkpoint("out", "name", "mark")
    assert isinstance(again.function, on_slurm.TrialJob)
    assert again.args == ("out", "name", "mark")


def test_jobs_of_a_study_that_was_killed_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_metra.study import on_slurm

    class Job:
        def __init__(self, folder: Path, job_id: str) -> None:
            self.job_id = job_id

        def done(self) -> bool:
            return self.job_id == "7_1"

    monkeypatch.setattr(on_slurm.submitit, "SlurmJob", Job)
    executor: Any = SimpleNamespace(cluster="slurm", folder=tmp_path)
    found = {}
    for name, known in {
        "running": {"job_id": "7_0", "cluster": "slurm"},
        "ended": {"job_id": "7_1", "cluster": "slurm"},
        "elsewhere": {"job_id": "7_0", "cluster": "local"},
        "new": None,
    }.items():
        (tmp_path / name).mkdir()
        if known is not None:
            (tmp_path / name / "job.json").write_text(json.dumps(known))
        found[name] = on_slurm._find_job(executor, tmp_path / name)
    assert found.pop("running").job_id == "7_0"
    assert found == dict.fromkeys(("ended", "elsewhere", "new"))
