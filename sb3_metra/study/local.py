"""Trials as processes on this machine: no engine needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

import torch as th

from sb3_metra.study.folder import LOG, fail_trial, read_error, read_result, to_run
from sb3_metra.study.plan import Study

Show = Callable[[Collection[str]], None]
"""Called now and then with the names of the trials that run."""

_POLL_SECONDS = 0.2


class Gpus:
    """
    The GPUs of this machine, shared by trials.

    :param count: how many there are
    :param share: what a trial takes: a part of one, or several whole ones
    :raises ValueError: if there are too few
    """

    def __init__(self, count: int, share: float) -> None:
        if share > count:
            raise ValueError(f"gpus must be at most {count}, the GPUs of this machine, got {share:g}")
        self.share = share
        self.free = [1.0] * count

    def take(self) -> list[int] | None:
        """Indices of GPUs for a trial; ``None`` if there is none left."""
        need = min(self.share, 1.0)
        found = [i for i, left in enumerate(self.free) if left + 1e-9 >= need][: max(1, int(self.share))]
        if not self.share:
            return []
        if len(found) < max(1, int(self.share)):
            return None
        for i in found:
            self.free[i] -= need
        return found

    def give_back(self, taken: list[int]) -> None:
        """
        End a trial.

        :param taken: what :meth:`take` returned
        """
        for i in taken:
            self.free[i] += min(self.share, 1.0)


def run_local(study: Study, out: Path, mark: str, jobs: int, show: Show) -> None:
    """
    Run a study's trials, several at a time.

    :param study: the study
    :param out: its folder
    :param mark: of the study
    :param jobs: number of trials that run at once
    :param show: called from time to time
    :raises ValueError: if this machine cannot run it
    """
    study.check_without_ray("--jobs")
    gpus = Gpus(th.cuda.device_count(), study.gpus)
    waiting = deque((name, 0) for name in to_run(study, out))
    running: dict[str, tuple[subprocess.Popen[bytes], int, list[int]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs and (taken := gpus.take()) is not None:
                name, failures = waiting.popleft()
                try:
                    running[name] = (_start(study, out, name, mark, taken), failures, taken)
                except OSError as error:  # its disk is full
                    gpus.give_back(taken)
                    fail_trial(out / name, f"{type(error).__name__}: {error}")
            time.sleep(_POLL_SECONDS)
            for name, (process, failures, taken) in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[name]
                gpus.give_back(taken)
                if not _ended(out / name, status, failures, study.retries):
                    waiting.append((name, failures + 1))
            show(running)
    finally:
        for process, _, _ in running.values():
            process.kill()
            process.wait()


def _start(study: Study, out: Path, name: str, mark: str, gpus: list[int]) -> subprocess.Popen[bytes]:
    (out / name).mkdir(exist_ok=True)
    environ = os.environ | {"OMP_NUM_THREADS": str(max(1, int(study.cpus)))}
    if study.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        known = visible.split(",") if visible else [str(i) for i in range(th.cuda.device_count())]
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(known[i] for i in gpus)
    command = [sys.executable, "-m", "sb3_metra.study.attempt", str(out), name, mark]
    with (out / name / LOG).open("ab") as log:
        return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=log, stderr=log)


def _ended(place: Path, status: int, failures: int, retries: int) -> bool:
    """Whether a trial needs no further attempt."""
    if read_result(place):
        return True
    killed = f"killed by signal {-status}" if status < 0 else f"its process ended with status {status}"
    error = read_error(place, f"{killed}: {place / LOG} may say why")
    if failures < retries:
        return False
    fail_trial(place, error)
    return True
