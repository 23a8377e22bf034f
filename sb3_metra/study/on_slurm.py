"""Trials as jobs of SLURM, by submitit. The only module that imports it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import submitit
    from submitit.helpers import DelayedSubmission
except ImportError as error:
    raise ImportError(f'a study on SLURM needs submitit ({error}): pip install "sb3-metra[distributed]"') from error

from sb3_metra.common.files import write_json
from sb3_metra.study.attempt import attempt
from sb3_metra.study.folder import fail_trial, read_error, read_result, to_run
from sb3_metra.study.local import Show
from sb3_metra.study.plan import Study

_JOB = "job.json"
_POLL_SECONDS = 1.0
_FOLDER = "slurm"


class TrialJob:
    """A trial as a job. One that runs out of time, or is preempted, is queued again and continues."""

    def __call__(self, out: str, name: str, mark: str) -> dict[str, Any]:
        """
        Run the trial.

        :param out: the study's folder
        :param name: of the trial
        :param mark: of the study
        """
        return attempt(out, name, mark)

    def checkpoint(self, *arguments: str) -> DelayedSubmission:
        """
        What to queue again: the same, because the trial's folder has the checkpoint.

        :param arguments: of the call
        """
        return DelayedSubmission(self, *arguments)


def run_slurm(study: Study, out: Path, mark: str, words: Sequence[str], show: Show) -> None:
    """
    Run a study's trials as jobs and wait. Jobs continue without this process; the same command finds them.

    :param study: the study
    :param out: its folder, which all nodes see under this path
    :param mark: of the study
    :param words: options of ``sbatch`` as ``KEY=VALUE``, and ``cluster=local`` to try it on this machine
    :param show: called from time to time
    :raises ValueError: if the jobs cannot be queued
    """
    study.check_without_ray("--slurm")
    executor = _make_executor(study, out, words)
    jobs = {name: job for name in to_run(study, out) if (job := _find_job(executor, out / name)) is not None}
    new = [name for name in to_run(study, out) if name not in jobs]
    jobs |= dict(zip(new, _submit(executor, out, new, mark), strict=True))
    failures = dict.fromkeys(jobs, 0)
    while jobs:
        time.sleep(_POLL_SECONDS)
        for name, job in list(jobs.items()):
            if not job.done():
                continue
            del jobs[name]
            if read_result(out / name):
                continue
            error = read_error(out / name, f"job {job.job_id} ended as {job.state}: {job.paths.stderr} may say why")
            if failures[name] < study.retries:
                failures[name] += 1
                jobs |= dict(zip([name], _submit(executor, out, [name], mark), strict=True))
            else:
                fail_trial(out / name, error)
        show(jobs)


def _make_executor(study: Study, out: Path, words: Sequence[str]) -> submitit.AutoExecutor:
    options: dict[str, int | str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key or not value:
            raise ValueError(f"--slurm must be KEY=VALUE, such as partition=gpu, got {word!r}")
        options[key] = int(value) if value.isdigit() else value
    if study.gpus != int(study.gpus):
        raise ValueError(f"gpus must be a whole number on SLURM, got {study.gpus:g}")
    cluster = str(options.pop("cluster", "slurm"))
    try:
        executor = submitit.AutoExecutor(out.resolve() / _FOLDER, cluster=cluster)
        executor.update_parameters(
            name=study.name,
            cpus_per_task=math.ceil(study.cpus),
            gpus_per_node=int(study.gpus),
            **{f"slurm_{key}": value for key, value in options.items()},
        )
    except (NameError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--slurm must fit the SLURM of this machine, got {' '.join(words)}: {reason}") from error
    return executor


def _submit(executor: submitit.AutoExecutor, out: Path, names: list[str], mark: str) -> list[submitit.Job[Any]]:
    if not names:
        return []
    count = len(names)
    jobs = executor.map_array(TrialJob(), [str(out.resolve())] * count, names, [mark] * count)
    for name, job in zip(names, jobs, strict=True):
        (out / name).mkdir(exist_ok=True)
        write_json(out / name / _JOB, {"job_id": job.job_id, "cluster": executor.cluster})
    return list(jobs)


def _find_job(executor: submitit.AutoExecutor, place: Path) -> submitit.Job[Any] | None:
    """The job that an earlier process queued, if it has not ended."""
    try:
        known = json.loads((place / _JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if known["cluster"] != executor.cluster:
        return None
    kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[executor.cluster]
    job: submitit.Job[Any] = kind(executor.folder, known["job_id"])
    return None if job.done() else job
