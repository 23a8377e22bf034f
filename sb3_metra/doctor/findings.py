"""Findings, the checks that they come from, and the diagnosis of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sb3_metra.doctor.examination import Examination

_WIDTH = 100  # columns of a printed finding

Severity = Literal["error", "warning"]

#: An error spoils the skills; a warning may.
SEVERITIES: tuple[Severity, ...] = ("error", "warning")

#: Looks at a run and returns what is wrong, with numbers, or ``None``.
Look = Callable[["Examination"], str | None]


class CannotTell(Exception):
    """A check does not apply; the message says what it lacks."""


@dataclass(frozen=True)
class Finding:
    """
    Something that is wrong with a run.

    :param name: of the check that found it
    :param severity: ``"error"`` or ``"warning"``
    :param evidence: what was seen, with numbers
    :param healthy: what a healthy run shows instead
    :param remedy: what to do
    :param read: the page to read on
    """

    name: str
    severity: Severity
    evidence: str
    healthy: str
    remedy: str
    read: str

    def __str__(self) -> str:
        rows = {"seen": self.evidence, "healthy": self.healthy, "remedy": self.remedy, "read on": self.read}
        lines = [
            textwrap.fill(f"  {name + ':':<9}{text}", _WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False)
            for name, text in rows.items()
        ]
        return "\n".join([f"{self.severity}: {self.name}", *lines])


@dataclass(frozen=True)
class Check:
    """
    One thing to look at.

    :param name: of the check and of its finding
    :param severity: of its finding
    :param healthy: as in :class:`Finding`
    :param remedy: as in :class:`Finding`
    :param read: as in :class:`Finding`
    :param look: what is wrong in an examination, in words, or ``None``; raises :class:`CannotTell` if it does not apply
    """

    name: str
    severity: Severity
    healthy: str
    remedy: str
    read: str
    look: Look


def check(
    severity: Severity, *, healthy: str, remedy: str, read: str = "docs/guide/doctor.md"
) -> Callable[[Look], Check]:
    """
    Make a check of a function, whose name is that of the finding.

    :param severity: of the finding
    :param healthy: what a healthy run shows
    :param remedy: what to do
    :param read: the page to read on
    """

    def make(look: Look) -> Check:
        return Check(look.__name__, severity, healthy, remedy, read, look)

    return make


@dataclass
class Diagnosis:
    """
    What came out of an examination.

    :param findings: errors first
    :param passed: names of the checks that found nothing
    :param unchecked: for each check that does not apply, why
    """

    findings: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """The findings that spoil the skills."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def verdict(self) -> str:
        """One sentence."""
        checked = len(self.passed) + len({finding.name for finding in self.findings})
        count = f"{checked} checks, {len(self.unchecked)} that do not apply"
        if not self.findings:
            return f"Healthy: nothing was found in {count}."
        names = ", ".join(finding.name for finding in self.findings)
        state = "Ill" if self.errors else "Healthy, with warnings"
        return f"{state}: {names} ({count})."

    def __str__(self) -> str:
        parts = [self.verdict, *map(str, self.findings)]
        if self.unchecked:
            parts.append("\n".join(["not checked:", *(f"  {name}: {why}" for name, why in self.unchecked.items())]))
        return "\n\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"verdict": self.verdict, "healthy": not self.errors, **asdict(self)}
