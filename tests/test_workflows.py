"""What runs elsewhere: workflows and hooks are YAML, name targets that exist, and agree with setup.cfg."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} == {"tests", "docs", "nightly", "publish"}
    for path in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / ".readthedocs.yaml"]:
        assert isinstance(read(path), dict), path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_exist(path: Path) -> None:
    """Targets and variables of the Makefile, and files of the repository."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    variables = set(re.findall(r"^(\w+) \?=", makefile, flags=re.MULTILINE))
    commands = [step["run"].split() for step in steps(path) if "run" in step]
    words = [word for command in commands if command[0] == "make" for word in command[1:]]
    assert {word for word in words if "=" not in word} <= targets
    assert {word.partition("=")[0] for word in words if "=" in word} <= variables
    assert set(read(path).get("env", {})) <= variables  # a workflow's environment is for make
    assert all((ROOT / command[1]).is_file() for command in commands if command[1].endswith(".py"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_held_to_a_major_version(path: Path) -> None:
    actions = [step["uses"] for step in steps(path) if "uses" in step]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w/-]+@(release/)?v\d+", action)] == []


def test_the_matrix_is_the_versions_that_are_promised() -> None:
    classifiers = setup()["metadata"]["classifiers"]
    promised = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, flags=re.MULTILINE)
    tests = read(ROOT / ".github" / "workflows" / "tests.yml")
    assert tests["jobs"]["tests"]["strategy"]["matrix"]["python"] == promised


def test_the_hook_is_the_linter_of_the_tests() -> None:
    lines = setup()["options.extras_require"]["tests"].split("\n")
    ruff = next(Requirement(line) for line in lines if line.startswith("ruff"))
    hooks = {
        entry["repo"].rsplit("/", 1)[-1]: entry["rev"] for entry in read(ROOT / ".pre-commit-config.yaml")["repos"]
    }
    assert ruff.specifier.contains(hooks["ruff-pre-commit"].removeprefix("v"))


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".github" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def absolute_links() -> ModuleType:
    return load_script("absolute_links")


def test_links_become_absolute(absolute_links: ModuleType) -> None:
    text = '[a](docs/a.md#b) [b](#b) [c](https://c.org) ![d](d.png) <img src="e.png"> [![f](f.svg)](g)'
    here = "https://github.com/o/n"
    assert absolute_links.absolute(text, here, "v1") == (
        f"[a]({here}/blob/v1/docs/a.md#b) [b](#b) [c](https://c.org) ![d]({here}/raw/v1/d.png) "
        f'<img src="{here}/raw/v1/e.png"> [![f]({here}/raw/v1/f.svg)]({here}/blob/v1/g)'
    )


def test_the_readme_links_to_files_that_exist(absolute_links: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = [path.partition("#")[0] for _, path in absolute_links.LINK.findall(text)]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert not absolute_links.LINK.search(absolute_links.absolute(text, "https://github.com/o/n", "v1"))


def test_badges_open_the_notebooks_in_colab(tmp_path: Path) -> None:
    colab_badges = load_script("colab_badges")
    for original in sorted(colab_badges.NOTEBOOKS.glob("*.ipynb")):
        copy = tmp_path / original.name
        copy.write_bytes(original.read_bytes())
        colab_badges.add_badge(copy, "wrong/address")
        colab_badges.add_badge(copy, "o/n")
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (original, copy))
        badge, empty, *rest = after["cells"][0]["source"]
        path = original.relative_to(ROOT).as_posix()
        assert badge.endswith(f"](https://colab.research.google.com/github/o/n/blob/main/{path})\n")
        assert [empty, *rest] == ["\n", *before["cells"][0]["source"]]
        assert after["cells"][1:] == before["cells"][1:]
