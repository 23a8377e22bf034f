"""A study's folder: its trials and how far each is. These files are its only state."""

from __future__ import annotations

import json
import secrets
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import sb3_metra
from sb3_metra.common.files import write_json
from sb3_metra.common.inputs import check_folder
from sb3_metra.study.plan import Study
from sb3_metra.study.progress import CPU, STEPS, read_rows
from sb3_metra.study.trial import CHECKPOINTS, PROGRESS, SETTINGS, Trial

STUDY, RESULT, ERROR, LOG, LOCK = "study.json", "result.json", "error.txt", "log.txt", ".lock"

_MOST_FAILED = 10


@dataclass(frozen=True)
class State:
    """
    How far a trial is.

    :param status: ``waiting``, ``begun``, ``finished``, ``stopped`` by a scheduler, or ``failed``
    :param steps: environment steps at its last evaluation
    :param coverage: at its last evaluation; ``None`` before the first one
    :param cpu_seconds: until its last evaluation
    :param error: why it failed
    """

    status: str = "waiting"
    steps: int = 0
    coverage: float | None = None
    cpu_seconds: float = 0.0
    error: str = ""


@contextmanager
def opened(study: Study, out: Path) -> Iterator[str]:
    """
    Own a study's folder while it is open. Finished trials stay, failed ones run again.

    :param study: what to run
    :param out: its folder
    :return: the study's mark, by which other machines know the folder
    :raises ValueError: if the folder is in use, or holds another study
    """
    with locked(check_folder("--out", out), "--out"):
        known = _read(out) if (out / STUDY).is_file() else None
        if known is None and (strangers := [path.name for path in out.iterdir() if path.name != LOCK]):
            raise ValueError(f"--out must be a new folder or that of a study, got {str(out)!r} with {strangers[0]}")
        if known is not None:
            _check_same(known, study, out)
        mark = known["mark"] if known is not None else secrets.token_hex(8)
        write_json(out / STUDY, {"mark": mark, "version": sb3_metra.__version__, **study.as_json()})
        for name in study.trials:
            if read_result(out / name).get("status") == "failed":
                (out / name / RESULT).unlink()
        yield mark


def _check_same(known: Mapping[str, Any], study: Study, out: Path) -> None:
    """Refuse a study with changed trials; it may have further ones."""
    for name, trial in known["trials"].items():
        if name not in study.trials:
            what = f"{name} is not in it any more"
        elif differences := _differences(trial, json.loads(json.dumps(asdict(study.trials[name])))):
            what = f"in {name}, {differences[0]}"
        else:
            continue
        raise ValueError(
            f"STUDY must not change after {str(out)!r} began, but {what}: undo that, or choose another --out"
        )


def _differences(before: Any, now: Any, name: str = "it") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in _differences(before.get(key), now.get(key), key)]
    return [] if before == now else [f"{name} was {before!r} and is {now!r}"]


@contextmanager
def locked(folder: Path, what: str, seconds: float = 0.0) -> Iterator[None]:
    """
    Lock a folder against other processes; the lock of a killed process is released.

    :param folder: the folder
    :param what: its name in an error
    :param seconds: to wait for a process that holds it
    :raises ValueError: if another process holds it
    """
    lock = FileLock(folder / LOCK, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{what} must be a folder of its own, got {str(folder)!r}, where a study is running") from None
    try:
        yield
    finally:
        lock.release()


def read_folder(out: Path) -> tuple[Study, str, str]:
    """
    The study that a folder holds.

    :param out: the folder
    :return: the study, its mark, and the version of the package that it was begun with
    :raises ValueError: if it holds none
    """
    content = _read(out)
    return Study.from_json(content), content["mark"], content["version"]


def _read(out: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((out / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{out} must hold a study, but its {STUDY} cannot be read: {error}") from error
    return content


def read_result(place: Path) -> dict[str, Any]:
    """
    How a trial ended; empty if it has not.

    :param place: the trial's folder
    """
    try:
        result: dict[str, Any] = json.loads((place / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return result


def end_trial(place: Path, status: str, error: str = "") -> dict[str, Any]:
    """
    Store how a trial ended. A checkpoint is kept only if it failed.

    :param place: the trial's folder
    :param status: ``finished``, ``stopped`` or ``failed``
    :param error: why it failed
    :return: what its ``result.json`` says
    """
    place.mkdir(exist_ok=True)
    state = _last_evaluation(place)
    result = {"status": status, "steps": state.steps, "coverage": state.coverage, "cpu_seconds": state.cpu_seconds}
    write_json(place / RESULT, result | ({"error": error} if error else {}))
    if status != "failed":
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)
    return result


def fail_trial(place: Path, error: str) -> None:
    """
    Store that a trial failed, also if its disk is full: the others continue, and the same command tries it again.

    :param place: the trial's folder
    :param error: why
    """
    try:
        end_trial(place, "failed", error)
    except OSError as problem:
        warnings.warn(f"{place.name} failed: {error}; its folder does not say so: {problem}", stacklevel=2)


def note_error(place: Path, error: BaseException | str) -> None:
    """
    Store why an attempt failed, for the process that started it.

    :param place: the trial's folder
    :param error: what was raised, or words
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    with suppress(OSError):  # the disk may be what is full
        place.mkdir(exist_ok=True)
        (place / ERROR).write_text(" ".join(text.split()) + "\n", encoding="utf-8")


def read_error(place: Path, otherwise: str) -> str:
    """
    Why an attempt failed; can be read once.

    :param place: the trial's folder
    :param otherwise: what to say if no reason was stored
    """
    try:
        text = (place / ERROR).read_text(encoding="utf-8").strip()
        (place / ERROR).unlink()
    except OSError:
        return otherwise
    return text or otherwise


def state_of(place: Path) -> State:
    """
    How far a trial is.

    :param place: its folder
    """
    if result := read_result(place):
        return State(**result)
    if not (place / SETTINGS).is_file():
        return State()
    return _last_evaluation(place)


def _last_evaluation(place: Path) -> State:
    rows = read_rows(place / PROGRESS) if (place / PROGRESS).is_file() else []
    if not rows:
        return State("begun")
    coverage = rows[-1].get("eval/policy_state_coverage") or rows[-1].get("eval/task_coverage")
    number = float(coverage) if coverage else None
    return State("begun", int(float(rows[-1][STEPS])), number, float(rows[-1].get(CPU) or 0.0))


def to_run(study: Study, out: Path) -> list[str]:
    """
    Names of the trials that have not ended.

    :param study: the study
    :param out: its folder
    """
    return [name for name in study.trials if not read_result(out / name)]


def table(study: Study, out: Path, running: Collection[str] = ()) -> str:
    """
    How far a study is, with a line for each environment, method and change.

    :param study: the study
    :param out: its folder
    :param running: names of the trials that run now
    """
    states = {name: state_of(out / name) for name in study.trials}
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, trial in study.trials.items():
        groups.setdefault((trial.env, trial.method, trial.change), []).append(name)
    lines: list[tuple[str, ...]] = [
        ("environment", "method", "change", "trials", "ended", "running", "failed", "steps", "coverage")
    ]
    for key, names in groups.items():
        lines.append((*key, *_count(study.trials, {name: states[name] for name in names}, running)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    failed = [f"failed: {name}: {state.error}" for name, state in states.items() if state.status == "failed"]
    more = [f"and {len(failed) - _MOST_FAILED} more"] if len(failed) > _MOST_FAILED else []
    return "\n".join([*shown, *failed[:_MOST_FAILED], *more])


def _count(trials: Mapping[str, Trial], states: Mapping[str, State], running: Collection[str]) -> tuple[str, ...]:
    status = Counter(state.status for state in states.values())
    steps = sum(min(1.0, state.steps / trials[name].steps) for name, state in states.items()) / len(states)
    coverages = [state.coverage for state in states.values() if state.coverage is not None]
    coverage = f"{sum(coverages) / len(coverages):.1f}" if coverages else "-"
    ended, failed = status["finished"] + status["stopped"], status["failed"]
    live = sum(name in running for name in states)
    return str(len(states)), str(ended), str(live), str(failed), f"{steps:.0%}", coverage
