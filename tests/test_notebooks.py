"""Every notebook holds no outputs, parses, and runs from the first cell to the last."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.programs import run_python

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
SHORT = {"STEPS": 2400, "N_ENVS": 4, "N_GOALS": 2}
notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def script(path: Path, settings: dict[str, int]) -> str:
    """The code of a notebook, without IPython's magic, with other values of its settings."""
    lines = [line for cell in code_cells(path) for line in [*"".join(cell["source"]).splitlines(), ""]]
    code = "\n".join(line for line in lines if not line.startswith("%"))
    for name, value in settings.items():
        code = re.sub(rf"^{name} = [\d_]+$", f"{name} = {value}", code, flags=re.MULTILINE)
    return code


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["goals_and_prompts", "half_cheetah", "own_environment"]


@notebook
def test_notebook_is_clean_and_short(path: Path) -> None:
    for cell in code_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len(cell["source"]) <= 20
    compile(script(path, {}), path.name, "exec")


@pytest.mark.slow
@notebook
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    code = script(path, SHORT)
    assert any(f"{name} = {value}\n" in code for name, value in SHORT.items())
    done = run_python("-c", code, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"}, timeout=300)
    assert done.returncode == 0, done.stderr
