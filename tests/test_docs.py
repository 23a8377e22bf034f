"""The documentation speaks of what exists: its links, files, modules, commands and options, and its Python compiles."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from sb3_metra.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ABSOLUTE = re.compile(r"^(https?|mailto):")
FENCE = re.compile(r"^ *```.*?^ *```$", flags=re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """GitHub's anchor of a heading, which MyST uses, too."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)}


def broken_links(page: Path) -> list[str]:
    """Links within the repository that lead to no file or to no heading."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if ABSOLUTE.match(link) or path.startswith("<"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One `two`, three\n\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text("[1](b.md#one-two-three) [2](https://x.org) [3](b.md#no-heading) [4](c.md) [5](#none) [6](b.md)")
    assert broken_links(page) == ["b.md#no-heading", "c.md", "#none"]


def test_files_that_are_named_exist() -> None:
    missing = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"\b((?:examples|benchmarks|tests|sb3_metra)/[\w/]+\.\w+)", page.read_text("utf-8"))
        if not (ROOT / name).exists()
    }
    assert missing == {
        ("add_a_method.md", "sb3_metra/algorithms/penalty.py"),  # the reader's own
        ("add_a_method.md", "sb3_metra/hyperparams/penalty.yml"),
        ("migration.md", "tests/main.py"),  # the authors'
    }


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:n]))
        except ImportError as error:
            if (error.name or "").startswith("sb3_metra."):
                continue
            return True  # it needs an extra that is not installed
        try:
            for part in parts[n:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


def test_names_that_are_mentioned_exist() -> None:
    names = {name for page in PAGES for name in re.findall(r"\b(sb3_metra(?:\.\w+)+)", page.read_text("utf-8"))}
    files = {name for name in names if name.endswith((".md", ".py", ".yml"))}
    assert len(names) > 40
    assert [name for name in sorted(names - files) if not exists(name)] == []
    assert not exists("sb3_metra.METRO")
    assert not exists("sb3_metra.no.such")


def test_python_compiles() -> None:
    pattern = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    trees = [ast.parse(block, str(page)) for page in PAGES for block in pattern.findall(page.read_text("utf-8"))]
    assert len(trees) > 40


def options_used() -> dict[str, set[str]]:
    """Options by the command that the documentation gives them to."""
    used: dict[str, set[str]] = {}
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for command, rest in re.findall(r"sb3-metra (\w+)([^`\n#]*)", text):
            used.setdefault(command, set()).update(re.findall(r"(?<!\w)(--?[a-z][\w-]*)", rest))
    return used


def test_commands_take_the_options_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rl_zoo3")
    used = options_used()
    del used["COMMAND"]
    assert len(used) == 11
    for command, options in used.items():
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0, command
        known = capsys.readouterr().out
        assert {option for option in options if not re.search(rf"(?<![\w-]){option}\b", known)} <= {"-o"}, command
