"""What is installed: one version, the data files, the typed marker, and refusals of versions that cannot work."""

import re
import subprocess
import sys
from email.message import Message
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import sb3_metra
from sb3_metra.common import versions
from sb3_metra.common.versions import check_versions

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sb3_metra"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Build a wheel from a copy of what is tracked, so that nothing built earlier can leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for file in [
        *PACKAGE.rglob("*"),
        *(ROOT / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")),
    ]:
        if file.is_file() and "__pycache__" not in file.parts:
            target = source / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_every_file_of_the_package(wheel: ZipFile) -> None:
    """Modules and data alike: a file that is not in the wheel exists for developers only."""
    tracked = {file.relative_to(ROOT).as_posix() for file in PACKAGE.rglob("*") if file.is_file()}
    tracked = {name for name in tracked if "__pycache__" not in name}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == tracked
    data = {"py.typed", "envs/state_normalization.json", "hyperparams/metra.yml", "hyperparams/metra_paper.yml"}
    assert {f"sb3_metra/{name}" for name in data} <= packed


def test_wheel_states_its_metadata(wheel: ZipFile) -> None:
    folder = f"sb3_metra-{sb3_metra.__version__}.dist-info"
    lines = wheel.read(f"{folder}/METADATA").decode().splitlines()
    assert {"Name: sb3-metra", f"Version: {sb3_metra.__version__}", "License-Expression: MIT"} <= set(lines)
    assert "Requires-Python: >=3.10" in lines
    assert "sb3-metra = sb3_metra.cli:script" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sb3_metra.__version__
    assert citation["license"] == "MIT"
    assert metadata.version("sb3-metra") == sb3_metra.__version__, "installed before the version changed: install again"
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased" or headings[0].startswith(f"## {sb3_metra.__version__}")


def test_the_core_needs_what_the_import_needs() -> None:
    core = [line for line in metadata.requires("sb3-metra") or [] if "extra ==" not in line]
    assert {Requirement(line).name for line in core} == {
        "torch",
        "stable-baselines3",
        "gymnasium",
        "numpy",
        "packaging",
        "safetensors",
    }


def test_the_documentation_names_every_bound_and_every_extra() -> None:
    page = (ROOT / "docs" / "guide" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w\[\]-]+)` \| `([^`]+)` \| [\d.]+ \|$", page, flags=re.MULTILINE)
    documented = {Requirement(name).name: SpecifierSet(bounds) for name, bounds in rows}
    declared = {}
    for line in metadata.requires("sb3-metra") or []:
        requirement = Requirement(line)
        bounded_above = any(specifier.operator in ("<", "==") for specifier in requirement.specifier)
        if bounded_above and not (_is_of(line, "tests") or _is_of(line, "docs")):
            declared[requirement.name] = requirement.specifier
    assert documented == declared
    for extra in metadata.metadata("sb3-metra").get_all("Provides-Extra") or []:
        assert re.search(rf"^\| .*`{extra}`.* \| ", page, flags=re.MULTILINE), extra


def test_every_make_command_in_the_documentation_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    variables = set(re.findall(r"^(\w+) \?=", makefile, flags=re.MULTILINE))
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *(ROOT / "docs").rglob("*.md")]
    used = [
        words.split()
        for file in files
        for words in re.findall(r"^(?:\$ |)make ([^#\n]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert {words[0] for words in used} >= {"demo", "test"}
    assert {words[0] for words in used} <= targets
    assert {word.split("=")[0] for words in used for word in words[1:]} <= variables


def test_ci_ends_with_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").split()
    assert script[-2:] == ["make", "test"]


def test_all_holds_every_extra_that_users_need() -> None:
    by_extra = {
        extra: {
            str(Requirement(line.split(";")[0])) for line in metadata.requires("sb3-metra") or [] if _is_of(line, extra)
        }
        for extra in metadata.metadata("sb3-metra").get_all("Provides-Extra") or []
    }
    users = set(by_extra) - {"all", "tests", "docs"}
    assert users == {
        "mujoco",
        "dmc",
        "kitchen",
        "minigrid",
        "atari",
        "progress",
        "zoo",
        "plot",
        "stats",
        "export",
        "hub",
        "distributed",
    }
    assert by_extra["all"] == set().union(*(by_extra[extra] for extra in users))


def _is_of(line: str, extra: str) -> bool:
    return f'extra == "{extra}"' in line


def test_the_installed_versions_are_accepted() -> None:
    check_versions()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that the check believes to be installed; a package that is not named here is missing."""
    found = {"torch": "2.13.0+cpu", "stable-baselines3": "2.9.2", "gymnasium": "1.4.0", "numpy": "2.4.6"}
    found |= {"packaging": "26.0", "mujoco": "3.17.0", "dm_control": "1.0.50", "shimmy": "2.0.1"}

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    declared = Message()
    declared["Version"] = "0.1.0"
    for extra in ("mujoco", "dmc"):
        declared["Provides-Extra"] = extra
    needed = [
        "torch<3,>=2.8",
        "stable-baselines3<3,>=2.9.2",
        "gymnasium<2,>=1.2",
        "numpy<3,>=2",
        "packaging",
        'mujoco<3.18,>=3.17; extra == "mujoco"',
        'mujoco<3.18,>=3.17; extra == "dmc"',
        'dm_control==1.0.50; python_version < "99" and extra == "dmc"',
        'shimmy[dm-control]<3,>=2.0.1; python_version < "3" and extra == "dmc"',
    ]
    monkeypatch.setattr(versions.metadata, "version", version)
    monkeypatch.setattr(versions.metadata, "metadata", lambda name: declared)
    monkeypatch.setattr(versions.metadata, "requires", lambda name: needed)
    return found


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("stable-baselines3", "2.9.2"),
        ("stable-baselines3", "2.10.0a3"),
        ("torch", "2.8.0"),
        ("torch", "2.14.0.dev1+cu130"),
    ],
)
def test_versions_that_work_are_accepted(installed: dict[str, str], package: str, version: str) -> None:
    installed[package] = version
    check_versions()
    check_versions("mujoco")
    check_versions("dmc")


@pytest.mark.parametrize(
    ("extra", "package", "version", "sentence"),
    [
        (
            "",
            "stable-baselines3",
            "2.9.1",
            "sb3-metra 0.1.0 needs stable-baselines3<3,>=2.9.2, but 2.9.1 is installed: "
            'run pip install "stable-baselines3<3,>=2.9.2"',
        ),
        (
            "",
            "torch",
            "2.7.1+cu128",
            'sb3-metra 0.1.0 needs torch<3,>=2.8, but 2.7.1+cu128 is installed: run pip install "torch<3,>=2.8"',
        ),
        (
            "dmc",
            "mujoco",
            "4.0.0",
            "sb3-metra[dmc] 0.1.0 needs mujoco<3.18,>=3.17, but 4.0.0 is installed: "
            'run pip install "mujoco<3.18,>=3.17"',
        ),
        (
            "dmc",
            "dm_control",
            "1.0.38",
            "sb3-metra[dmc] 0.1.0 needs dm_control==1.0.50, but 1.0.38 is installed: "
            'run pip install "dm_control==1.0.50"',
        ),
        (
            "mujoco",
            "mujoco",
            None,
            "sb3-metra[mujoco] 0.1.0 needs mujoco<3.18,>=3.17, which is not installed: "
            'run pip install "mujoco<3.18,>=3.17"',
        ),
    ],
)
def test_a_version_that_cannot_work_is_refused(
    installed: dict[str, str], extra: str, package: str, version: str | None, sentence: str
) -> None:
    installed.pop(package)
    if version is not None:
        installed[package] = version
    with pytest.raises(ImportError) as refusal:
        check_versions(extra)
    assert str(refusal.value) == sentence


def test_one_command_repairs_several_faults(installed: dict[str, str]) -> None:
    installed["mujoco"] = "4.0.0"
    installed["dm_control"] = "1.0.38"
    with pytest.raises(ImportError, match=r'run pip install "mujoco<3\.18,>=3\.17" "dm_control==1\.0\.50"$'):
        check_versions("dmc")
    check_versions()  # the core does not look at an extra's packages


def test_an_unknown_extra_is_refused(installed: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="extra must be one of mujoco, dmc, got 'dcm'"):
        check_versions("dcm")


def test_a_bare_source_tree_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions.metadata, "metadata", missing)
    check_versions()
    check_versions("dmc")


def test_importing_the_package_refuses_an_old_stable_baselines3() -> None:
    """In a process of its own, where SB3 claims to be old before anything is imported."""
    code = """
from importlib import metadata
found = metadata.version
metadata.version = lambda name: "2.9.1" if name == "stable-baselines3" else found(name)
import sb3_metra
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0, "sb3_metra/__init__.py does not check the versions before anything else"
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: sb3-metra ")
    assert 'but 2.9.1 is installed: run pip install "stable-baselines3<3,>=2.9.2"' in last_line
