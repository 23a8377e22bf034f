"""A run's ``progress.csv`` that is complete at any time, and continues when a run resumes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

from sb3_metra.common.files import atomic_path

STEPS, CPU = "time/total_timesteps", "time/cpu_seconds"


class ProgressLog(KVWriter):
    """
    SB3's log of a run as CSV: the file is replaced by a longer one for each line.

    :param path: the file; what it holds stays
    :param until: the step that the run resumes from; what was logged after it is forgotten
    """

    def __init__(self, path: Path, until: int = 0) -> None:
        self.path = path
        self.spent = 0.0
        """CPU seconds of earlier processes, which the logged ones are counted on from."""
        kept = read_rows(path) if until and path.is_file() else []
        self.rows = [row for row in kept if float(row[STEPS]) <= until]

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Add a line.

        :param key_values: values by name
        :param key_excluded: formats that a value is not for, by name
        :param step: unused, SB3's signature
        """
        row = {name: x for name, x in key_values.items() if "csv" not in key_excluded.get(name, ())}
        if CPU in row:
            row[CPU] += self.spent
        self.rows.append({name: str(x) for name, x in row.items()})
        write_rows(self.path, self.rows)

    def close(self) -> None:
        """There is nothing to close."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """
    The lines of a CSV file, by column.

    :param path: the file
    """
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]], first: Mapping[str, Any] | tuple[str, ...] = ()) -> None:
    """
    Write lines as CSV, atomically.

    :param path: the file
    :param rows: values by column
    :param first: columns that come before the others, which are sorted
    """
    columns = [*first, *sorted({name for row in rows for name in row} - set(first))]
    with atomic_path(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
