"""Every example runs, with few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs import run_python

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
#: Atari plays 48 games to the end, fine-tuning takes thousands of gradient steps however few the steps, and the others
#: begin as ``discover_skills`` does.
SLOW = ("atari", "fine_tune", "follow_waypoints", "hierarchical_control", "reach_goals")


@pytest.mark.parametrize(
    "example",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in EXAMPLES],
)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    done = run_python(str(example), "--steps", "1600", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "skill" in done.stdout
