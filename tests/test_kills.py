"""Runs that are killed at any instant, also while they write, and disks that are full."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sb3_metra import METRA
from sb3_metra.common.checkpoint import find_checkpoint
from tests.test_save_load import assert_same_tensors

ROOT = Path(__file__).resolve().parents[1]
KILLS = 20


def start(folder: Path, **kwargs: Any) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.killed_run", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait() == 0
    rng, killed, steps = random.Random(0), 0, []
    while killed < KILLS:
        process = start(tmp_path / "killed")
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("begins at "), line
        steps.append(int(line.split()[-1]))
        time.sleep(rng.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break  # it was quicker
        killed += 1
        if (tmp_path / "killed" / "checkpoints").is_dir() and list(
            (tmp_path / "killed" / "checkpoints").glob("step_*")
        ):
            find_checkpoint(tmp_path / "killed")
    assert start(tmp_path / "killed").wait() == 0
    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    whole, again = (METRA.load(tmp_path / name / "final", device="cpu") for name in ("whole", "killed"))
    assert_same_tensors(again.get_parameters(), whole.get_parameters())


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    """A limit of the size of files stands for the full disk: the model fits, and replay outgrows it on the way."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (103_000, resource.RLIM_INFINITY))

    process = start(tmp_path / "full", stderr=subprocess.PIPE, preexec_fn=limit)
    _, errors = process.communicate()
    assert "no checkpoint could be written to" in errors
    found = find_checkpoint(tmp_path / "full")
    assert not list((tmp_path / "full" / "checkpoints").glob(".*"))
    assert start(tmp_path / "full").wait() == 0
    assert start(tmp_path / "whole").wait() == 0
    whole, again = (METRA.load(tmp_path / name / "final", device="cpu") for name in ("whole", "full"))
    assert found.name < "step_000000002400"
    assert_same_tensors(again.get_parameters(), whole.get_parameters())
