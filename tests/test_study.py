"""Studies on this machine: their folder, retries, kills and results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

import sb3_metra
from sb3_metra.cli import main
from sb3_metra.study import attempt as attempt_module
from sb3_metra.study import folder, local
from sb3_metra.study.attempt import attempt
from sb3_metra.study.folder import (
    State,
    end_trial,
    locked,
    note_error,
    opened,
    read_error,
    read_result,
    state_of,
    table,
    to_run,
)
from sb3_metra.study.plan import Study, make_study
from sb3_metra.study.progress import read_rows
from sb3_metra.study.trial import Trial

POINT = "sb3_metra/PointMass-v0"
TINY: dict[str, Any] = {
    "methods": ["diayn"],
    "environments": {POINT: {"n_timesteps": 600, "eval_freq": 200}},
    "seeds": [0, 1],
    "settings": {
        "n_envs": 2,
        "train_freq": 100,
        "gradient_steps": 1,
        "learning_starts": 100,
        "batch_size": 16,
        "buffer_size": 1000,
        "objective_batch_size": None,
        "policy_kwargs": {"net_arch": [8]},
    },
    "eval_episodes": 2,
    "retries": 1,
}
FIRST, SECOND = (f"diayn_sb3_metra-PointMass-v0_s{seed}" for seed in (0, 1))


@pytest.fixture
def study() -> Study:
    return make_study("tiny", TINY)


# The folder


def test_a_folder_belongs_to_one_study_at_a_time(study: Study, tmp_path: Path) -> None:
    with opened(study, tmp_path / "out") as mark:
        message = "--out must be a folder of its own, got .*, where a study is running"
        with pytest.raises(ValueError, match=message), opened(study, tmp_path / "out"):
            pass
    with opened(study, tmp_path / "out") as again:
        assert again == mark


def test_a_changed_study_is_refused_and_a_longer_one_is_not(study: Study, tmp_path: Path) -> None:
    with opened(study, tmp_path):
        end_trial(tmp_path / FIRST, "finished")
        end_trial(tmp_path / SECOND, "failed", "why")
    for change, message in (
        ({"settings": TINY["settings"] | {"gamma": 0.5}}, f"in {FIRST}, gamma was 0.99 and is 0.5: undo that"),
        ({"seeds": [1, 2]}, f"{FIRST} is not in it any more"),
        ({"eval_episodes": 3}, "eval_episodes was 2 and is 3"),
    ):
        with pytest.raises(ValueError, match=message), opened(make_study("tiny", TINY | change), tmp_path):
            pass
    longer = make_study("tiny", TINY | {"seeds": [0, 1, 2], "retries": 5})
    with opened(longer, tmp_path):
        assert to_run(longer, tmp_path) == [SECOND, SECOND.replace("s1", "s2")]  # what failed is tried again


def test_a_folder_of_somebody_else_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    message = r"--out must be a new folder or that of a study, got .* with thesis\.tex"
    with pytest.raises(ValueError, match=message), opened(study, tmp_path):
        pass


def test_states_come_from_files(study: Study, tmp_path: Path) -> None:
    place = tmp_path / FIRST
    assert state_of(place) == State()
    place.mkdir()
    (place / "settings.json").touch()
    assert state_of(place) == State("begun")
    header = "time/total_timesteps,eval/policy_state_coverage,time/cpu_seconds\n"
    (place / "progress.csv").write_text(header + "200,7,1.5\n300,9,3\n")
    assert state_of(place) == State("begun", 300, 9.0, 3.0)
    end_trial(tmp_path / SECOND, "failed", "KeyError: 'x'")
    text = table(study, tmp_path, [FIRST])
    cells = text.splitlines()[1].split()
    assert cells == [POINT, "diayn", "2", "0", "1", "1", "25%", "9.0"]
    assert f"failed: {SECOND}: KeyError: 'x'" in text
    (place / "checkpoints").mkdir()
    end_trial(place, "finished")
    assert state_of(place).status == "finished"
    assert not (place / "checkpoints").exists()


def test_errors_are_one_line_and_read_once(tmp_path: Path) -> None:
    note_error(tmp_path, ValueError("a\n b"))
    assert read_error(tmp_path, "no word") == "ValueError: a b"
    assert read_error(tmp_path, "no word") == "no word"


# One attempt


def test_an_attempt_trains_and_is_not_made_twice(study: Study, tmp_path: Path) -> None:
    with opened(study, tmp_path) as mark:
        seen: list[dict] = []
        result = attempt(str(tmp_path), FIRST, mark, seen.append)
        assert (result["status"], result["steps"]) == ("finished", 600)
        assert [row["steps"] for row in seen] == [200, 400]
        assert not (tmp_path / FIRST / "checkpoints").exists()
        assert attempt(str(tmp_path), FIRST, mark) == read_result(tmp_path / FIRST)


def test_an_attempt_waits_for_an_earlier_one_that_is_ending(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that is begun again finds trials of the killed one that still hold their folders."""
    with opened(study, tmp_path) as mark:
        end_trial(tmp_path / FIRST, "finished")
        held = FileLock(tmp_path / FIRST / ".lock", thread_local=False)
        held.acquire()
        threading.Timer(0.3, held.release).start()
        assert attempt(str(tmp_path), FIRST, mark)["status"] == "finished"
        monkeypatch.setattr(attempt_module, "_LOCK_SECONDS", 0.01)
        with held, pytest.raises(ValueError, match=r"a trial must be a folder of its own, got .* a study is running"):
            attempt(str(tmp_path), FIRST, mark)


def test_mistakes_fail_at_once_and_accidents_may_go_well_another_time(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        def train(*args: Any, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(attempt_module, "train", train)

    with opened(study, tmp_path) as mark:
        fail(OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            attempt(str(tmp_path), FIRST, mark)
        assert read_error(tmp_path / FIRST, "") == "OSError: [Errno 28] No space left on device"
        assert to_run(study, tmp_path) == [FIRST, SECOND]
        fail(ValueError("env cannot be\nbuilt"))
        assert attempt(str(tmp_path), FIRST, mark)["status"] == "failed"
        assert read_result(tmp_path / FIRST)["error"] == "ValueError: env cannot be built"


def test_a_machine_that_cannot_take_part_says_so(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"must see the folder .*, which all machines share"):
        attempt(str(tmp_path / "nowhere"), FIRST, "x")
    with opened(study, tmp_path) as mark:
        with pytest.raises(RuntimeError, match=r"must see the folder .* of this study, but there is another one"):
            attempt(str(tmp_path), FIRST, "x")
        monkeypatch.setattr(sb3_metra, "__version__", "9.9")
        with pytest.raises(RuntimeError, match=r"must have sb3_metra .*, as the study has, got 9\.9"):
            attempt(str(tmp_path), FIRST, mark)
        (tmp_path / SECOND).mkdir()
        with locked(tmp_path / SECOND, "a trial"):
            pass  # free again


# Several at a time


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> list[str]:
    """Let short programs stand for trials; what was started, in order."""
    started: list[str] = []

    def start(study: Study, out: Path, name: str, mark: str, gpus: list[int]) -> subprocess.Popen[bytes]:
        (out / name).mkdir(exist_ok=True)
        started.append(name)
        command = [sys.executable, "-S", "-c", code, str(out / name)]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    monkeypatch.setattr(local, "_start", start)
    monkeypatch.setattr(local, "_POLL_SECONDS", 0.01)
    return started


FINISH = 'import sys, pathlib; pathlib.Path(sys.argv[1], "result.json").write_text(\'{"status": "finished"}\')'
DIE = "import os; os.kill(os.getpid(), 9)"
SECOND_DIES = f"import sys\nif sys.argv[1].endswith('s1'):\n {DIE}\nelse:\n {FINISH}"


def test_as_many_trials_as_jobs_run_at_once(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, running = pretend(monkeypatch, FINISH), []
    with opened(study, tmp_path) as mark:
        local.run_local(study, tmp_path, mark, 1, lambda names: running.append(len(names)))
    assert started == [FIRST, SECOND]
    assert max(running) <= 1
    assert to_run(study, tmp_path) == []


def test_a_killed_trial_is_tried_again_and_the_others_go_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = pretend(monkeypatch, SECOND_DIES)
    with opened(study, tmp_path) as mark:
        local.run_local(study, tmp_path, mark, 2, lambda names: None)
    assert sorted(started) == [FIRST, SECOND, SECOND]
    assert read_result(tmp_path / FIRST)["status"] == "finished"
    result = read_result(tmp_path / SECOND)
    assert result["status"] == "failed"
    assert result["error"].startswith("killed by signal 9: ")


@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_costs_its_own_trial_only(before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written for the second trial: no log, so that it cannot start, or not how it ended."""
    pretend(monkeypatch, SECOND_DIES)
    begin, write = local._start, folder.write_json

    def full(name: str) -> None:
        if name == SECOND:
            raise OSError(errno.ENOSPC, "No space left on device")

    def start(study: Study, out: Path, name: str, *rest: Any) -> subprocess.Popen[bytes]:
        if before:
            full(name)
        return begin(study, out, name, *rest)

    def write_json(path: Path, content: Any) -> None:
        full(path.parent.name)
        write(path, content)

    monkeypatch.setattr(local, "_start", start)
    monkeypatch.setattr(folder, "write_json", write_json)
    study = make_study("tiny", TINY | {"seeds": [0, 1, 2], "retries": 0})
    sentence = f"{SECOND} failed: {'OSError' if before else 'killed by signal 9'}: .* No space left on device$"
    with opened(study, tmp_path) as mark, pytest.warns(UserWarning, match=sentence):
        local.run_local(study, tmp_path, mark, 1, lambda names: None)
    assert to_run(study, tmp_path) == [SECOND]


def test_gpus_are_shared() -> None:
    gpus = local.Gpus(2, 0.5)
    taken = [gpus.take() for _ in range(5)]
    assert taken == [[0], [0], [1], [1], None]
    gpus.give_back([1])
    assert gpus.take() == [1]
    whole = local.Gpus(3, 2)
    assert (whole.take(), whole.take()) == ([0, 1], None)
    assert local.Gpus(0, 0).take() == []
    with pytest.raises(ValueError, match=r"gpus must be at most 0, the GPUs of this machine, got 0\.5"):
        local.Gpus(0, 0.5)


def test_a_scheduler_needs_ray(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scheduler must run on Ray: leave out --jobs"):
        local.run_local(dataclasses.replace(study, scheduler={"name": "asha"}), tmp_path, "", 1, lambda names: None)


def test_the_command_runs_and_draws_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")

    def run_here(study: Study, out: Path, mark: str, jobs: int, show: local.Show) -> None:
        assert jobs == 2
        attempt(str(out), FIRST, mark)
        show([SECOND])
        end_trial(out / SECOND, "failed", "KeyError: 'x'")

    monkeypatch.setattr("sb3_metra.commands.study.run_local", run_here)
    file, out = tmp_path / "tiny.yml", tmp_path / "out"
    file.write_text(yaml.safe_dump(TINY))
    words = ["study", str(file), "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main([*words, "--jobs", "2", "--no-intervals"])
    assert end.value.code == 1  # a trial failed
    errors = capsys.readouterr().err
    assert f"failed: {SECOND}: KeyError: 'x'" in errors
    rows = read_rows(out / "results.csv")
    assert [(row["method"], row["seed"], row["change"], row["steps"]) for row in rows] == [
        ("diayn", "0", "", str(steps)) for steps in (200, 400, 600)
    ]
    assert {"results.md", "sb3_metra-PointMass-v0_steps.png", "sb3_metra-PointMass-v0_cpu_minutes.png"} <= {
        path.name for path in out.iterdir()
    }
    assert main([*words, "--status"]) == 0
    assert "50%" in capsys.readouterr().out
    assert main([*words, "--jobs", "0"]) == 2
    assert "--jobs must be an integer of at least 1, got 0" in capsys.readouterr().err


# Real ones


def start(file: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sb3_metra.cli", "study", str(file), "--out", str(out), *words]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)


def results(out: Path) -> list[dict[str, str]]:
    """The CSV without what no two runs share."""
    return [{name: x for name, x in row.items() if name != "cpu_seconds"} for row in read_rows(out / "results.csv")]


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    """The study is killed in the middle of a trial: its trials end with it, and go on from their checkpoints."""
    content = TINY | {"checkpoint_minutes": 1e-9, "environments": {POINT: {"n_timesteps": 4000, "eval_freq": 1000}}}
    file = tmp_path / "tiny.yml"
    file.write_text(yaml.safe_dump(content))
    assert start(file, tmp_path / "whole", "--jobs", "2").wait() == 0
    out = tmp_path / "killed"
    process = start(file, out, "--jobs", "1")
    while len(list(out.glob("*s0/checkpoints/step_*"))) == 0 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # the trial's process ends, too, and lets go of its folder
        try:
            with locked(out / FIRST, "a trial"):
                break
        except ValueError:
            time.sleep(0.1)
    else:
        pytest.fail("the trial goes on without the study")
    assert not read_result(out / FIRST)
    assert start(file, out, "--jobs", "2").wait() == 0
    assert "steps: policy state coverage" in (out / FIRST / "log.txt").read_text()
    assert results(out) == results(tmp_path / "whole")
    times = {name: os.stat(out / name / "result.json").st_mtime for name in (FIRST, SECOND)}
    assert start(file, out, "--jobs", "2").wait() == 0
    assert times == {name: os.stat(out / name / "result.json").st_mtime for name in (FIRST, SECOND)}


def test_a_trial_is_plain(study: Study) -> None:
    """What engines send from machine to machine."""
    trial = study.trials[FIRST]
    assert Trial(**json.loads(json.dumps(dataclasses.asdict(trial)))) == trial
