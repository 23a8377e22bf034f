"""The page that shows how to add a method: its code runs as a reader would run it, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sb3_metra
from tests.toys import scripted_envs

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "add_a_method.md"


def blocks() -> list[str]:
    """The Python code of the page, block by block."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run(code: list[str]) -> dict[str, Any]:
    """Run blocks one after another in one module."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in code:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sb3_metra.ALGORITHMS, "PenaltyMETRA", None)
    code = [block.replace("learn(4_000)", "learn(1_600)") for block in blocks()]
    assert code != blocks()
    names = run(code)
    model = names["model"]
    assert type(model) is names["PenaltyMETRA"]
    assert (model.num_timesteps, model.weight) == (1_600, 10.0)
    assert np.isfinite(model.encode(np.ones(2, np.float32))).all()
    assert int(capsys.readouterr().out) > 0


def test_the_method_is_as_short_as_the_page_says() -> None:
    lines = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(lines) <= 40


def test_its_test_can_fail() -> None:
    """With another penalty the hand-computed numbers no longer hold."""
    method, test, *_ = blocks()
    changed = method.replace("- 1.0).relu()", "- 2.0).relu()")
    assert changed != method
    with pytest.raises(AssertionError):
        run([changed, test])


def test_wrong_arguments_are_refused() -> None:
    method = run(blocks()[:1])["PenaltyMETRA"]
    with pytest.raises(ValueError, match="weight must be greater than 0, got 0"):
        method("MlpPolicy", scripted_envs(), weight=0)
