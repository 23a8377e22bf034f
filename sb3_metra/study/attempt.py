"""
One attempt at a trial, wherever it runs: the function that every engine calls.

``python -m sb3_metra.study.attempt OUT NAME MARK`` makes one in a process of its own, which ends with its parent.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th

import sb3_metra
from sb3_metra.study.folder import end_trial, locked, note_error, read_folder, read_result
from sb3_metra.study.trial import train

MISTAKES = (TypeError, ValueError, AssertionError, gym.error.Error)
"""What fails again if it is tried again."""

_LOCK_SECONDS = 60.0  # the attempt of a study that was killed ends soon after it


def attempt(out: str, name: str, mark: str, on_evaluation: Callable[[dict[str, Any]], None] | None = None) -> dict:
    """
    Run a trial to its end, from its newest checkpoint.

    :param out: the study's folder, which all machines see under this path
    :param name: of the trial
    :param mark: of the study
    :param on_evaluation: called with the steps, coverage and CPU seconds of each evaluation but the last one
    :return: what its ``result.json`` says, also if the trial cannot work
    :raises Exception: if another attempt may succeed; ``error.txt`` holds the reason in one line
    """
    place = Path(out) / name
    try:
        study = _check_machine(Path(out), mark)
        place.mkdir(exist_ok=True)
        with locked(place, "a trial", _LOCK_SECONDS):
            if result := read_result(place):
                return result
            th.set_num_threads(max(1, int(study.cpus)))
            try:
                train(
                    study.trials[name],
                    place,
                    study.device,
                    checkpoint_minutes=study.checkpoint_minutes,
                    verbose=1,
                    on_evaluation=on_evaluation,
                )
            except MISTAKES as error:
                traceback.print_exc()
                return end_trial(place, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
            return end_trial(place, "finished")
    except Exception as error:
        note_error(place, error)
        raise


def _check_machine(out: Path, mark: str) -> Any:
    """Refuse a machine that cannot take part."""
    here = platform.node()
    try:
        study, found, version = read_folder(out)
    except ValueError as error:
        raise RuntimeError(f"{here} must see the folder {out}, which all machines share: {error}") from error
    if found != mark:
        raise RuntimeError(f"{here} must see the folder {out} of this study, but there is another one")
    if version != sb3_metra.__version__:
        raise RuntimeError(f"{here} must have sb3_metra {version}, as the study has, got {sb3_metra.__version__}")
    return study


def _end_with_parent() -> None:
    """The standard input is a pipe that the parent holds open: it closes when the parent dies."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """Make an attempt; the status is 1 if another attempt may succeed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        out, name, mark = sys.argv[1:4]
        attempt(out, name, mark)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread still reads
