"""The package's rooms: who imports whom, what an import costs, and how long a file or a function may be."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sb3_metra"
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60

# Modules that stand for themselves; every other module may import the versions it needs checked.
LEAVES = {
    f"sb3_metra.common.{name}" for name in ("type_aliases", "versions", "files", "inputs", "arguments", "goal_spaces")
}
SPACES = {f"sb3_metra.common.{name}" for name in ("spaces", "checks", "counted_actions")}
VALUES = LEAVES | SPACES | {"sb3_metra.common.skills", "sb3_metra.common.dual"}
NETWORKS = VALUES | {"sb3_metra.common.networks"}
OBJECTIVE = NETWORKS | {"sb3_metra.common.objective", "sb3_metra.common.representation"}
ARRAYS = {f"sb3_metra.common.{name}" for name in ("arrays", "checks", "episodes")}
BUFFERS = ARRAYS | {"sb3_metra.common.buffers", "sb3_metra.common.frame_buffer"}
FILES = {
    f"sb3_metra.common.{name}"
    for name in ("files", "archive", "plain", "saving", "loading", "replay_file", "policy_file", "normalization")
} | {"sb3_metra.common.saved_attributes"}
POLICY = {f"sb3_metra.common.{name}" for name in ("actor_critic", "categorical", "policy_file", "prediction")}
STEPS = {"sb3_metra.common.optimization", "sb3_metra.common.captured_step"}
WORKERS = {"sb3_metra.common.workers"}
COLLECTING = {f"sb3_metra.common.{name}" for name in ("collectors", "playback", "collecting")}
LOOP = (
    OBJECTIVE
    | BUFFERS
    | STEPS
    | FILES
    | WORKERS
    | {
        f"sb3_metra.common.{name}"
        for name in ("constructor", "actor_critic", "policies", "training_env", "env_state", "checkpoint")
    }
    | {f"sb3_metra.common.{name}" for name in ("sac", "persistent", "overlap", "skill_discovery")}
    | COLLECTING
)
ASKED = {"sb3_metra.common.skills", "sb3_metra.common.skill_model"} | LEAVES
EVALUATION = {"sb3_metra.evaluation*"} | ASKED
ROOMS = {"sb3_metra", "sb3_metra.algorithms*", "sb3_metra.envs*", "sb3_metra.hyperparams"}
ROOMS |= {"sb3_metra.downstream*", "sb3_metra.doctor*", "sb3_metra.export*", "sb3_metra.pretrained"}
PROGRAMS = LOOP | EVALUATION | ROOMS

# The first pattern that fits a module says what of the package it may import. A new module needs a line here.
ALLOWED_INSIDE: dict[str, set[str]] = {
    "sb3_metra": {
        "sb3_metra.algorithms",
        "sb3_metra.envs",
        "sb3_metra.common.plain",
        "sb3_metra.common.policies",
        "sb3_metra.common.versions",
        "sb3_metra.pretrained",
    },
    "sb3_metra.common": set(),
    "sb3_metra.common.type_aliases": set(),
    "sb3_metra.common.versions": set(),
    "sb3_metra.common.files": set(),
    "sb3_metra.common.last_words": set(),
    "sb3_metra.common.workers": {"sb3_metra.common.last_words"},
    "sb3_metra.common.inputs": {"sb3_metra.common.arguments"},
    "sb3_metra.common.goal_spaces": set(),
    "sb3_metra.common.skill_model": {"sb3_metra.common.skills"} | LEAVES,
    "sb3_metra.common.arguments": set(),
    "sb3_metra.common.counted_actions": set(),
    "sb3_metra.common.spaces": SPACES | LEAVES,
    "sb3_metra.common.skills": LEAVES,
    "sb3_metra.common.dual": LEAVES,
    "sb3_metra.common.networks": VALUES,
    "sb3_metra.common.spectral_norm": set(),
    "sb3_metra.common.particle_entropy": set(),
    "sb3_metra.common.objective": NETWORKS,
    "sb3_metra.common.extractors": NETWORKS,
    "sb3_metra.common.skill_counts": LEAVES,
    "sb3_metra.common.representation": OBJECTIVE,
    "sb3_metra.common.actor_critic": OBJECTIVE,
    "sb3_metra.common.categorical": OBJECTIVE | {"sb3_metra.common.actor_critic"},
    "sb3_metra.common.policies": OBJECTIVE | FILES | POLICY,
    "sb3_metra.common.policy_file": {"sb3_metra.common.archive", "sb3_metra.common.saving"},
    "sb3_metra.common.prediction": LEAVES,
    "sb3_metra.common.arrays": LEAVES,
    "sb3_metra.common.checks": LEAVES,
    "sb3_metra.common.episodes": LEAVES,
    "sb3_metra.common.buffers": ARRAYS | LEAVES,
    "sb3_metra.common.frame_buffer": BUFFERS | LEAVES,
    "sb3_metra.common.constructor": BUFFERS | NETWORKS,
    "sb3_metra.common.optimization": LEAVES,
    "sb3_metra.common.captured_step": LEAVES,
    "sb3_metra.common.training_env": SPACES,
    "sb3_metra.common.plain": LEAVES,
    "sb3_metra.common.normalization": LEAVES,
    "sb3_metra.common.archive": LEAVES,
    "sb3_metra.common.saving": LEAVES | {"sb3_metra.common.archive", "sb3_metra.common.plain"},
    "sb3_metra.common.replay_file": VALUES | {"sb3_metra.common.archive"},
    "sb3_metra.common.loading": VALUES | FILES,
    "sb3_metra.common.saved_attributes": VALUES
    | {f"sb3_metra.common.{name}" for name in ("constructor", "normalization", "policies")},
    "sb3_metra.common.sac": {"sb3_metra.common.extractors"}
    | (
        LOOP
        - FILES
        - COLLECTING
        - {f"sb3_metra.common.{name}" for name in ("persistent", "overlap", "skill_discovery")}
    ),
    "sb3_metra.common.env_state": {"sb3_metra.common.wrapper_state"},
    "sb3_metra.common.wrapper_state": set(),
    "sb3_metra.common.checkpoint": FILES
    | LEAVES
    | {f"sb3_metra.common.{name}" for name in ("env_state", "saved_attributes", "spaces")}
    | {"sb3_metra.common.skill_discovery"},  # whose class it names for the type checker
    "sb3_metra.common.persistent": LOOP - COLLECTING - {"sb3_metra.common.overlap", "sb3_metra.common.skill_discovery"},
    "sb3_metra.common.overlap": LOOP - COLLECTING - {"sb3_metra.common.skill_discovery"},
    "sb3_metra.common.collectors": ARRAYS | LEAVES,
    "sb3_metra.common.playback": ARRAYS
    | LEAVES
    | {"sb3_metra.common.collectors", "sb3_metra.common.overlap", "sb3_metra.common.plain"}
    | {"sb3_metra.common.collecting"},  # whose class it names for the type checker
    "sb3_metra.common.collecting": LOOP - {"sb3_metra.common.skill_discovery"},
    "sb3_metra.common.skill_discovery": LOOP | {"sb3_metra.export"},
    "sb3_metra.common.prompts": ARRAYS | LEAVES,
    "sb3_metra.common.representation_discovery": LOOP | {"sb3_metra.common.prompts"},
    "sb3_metra.common.successor_features": LOOP | {"sb3_metra.common.representation_discovery"},
    "sb3_metra.algorithms": {"sb3_metra.algorithms.*", "sb3_metra.common.skill_discovery"} | FILES,
    "sb3_metra.algorithms.genda": LOOP
    | {"sb3_metra.algorithms.metra", "sb3_metra.common.extractors", "sb3_metra.common.skill_counts"},
    "sb3_metra.algorithms.*": LOOP
    | {f"sb3_metra.common.{name}" for name in ("representation_discovery", "successor_features")}
    | {f"sb3_metra.common.{name}" for name in ("spectral_norm", "particle_entropy")},
    "sb3_metra.envs*": {"sb3_metra.envs*", "sb3_metra.common.versions", "sb3_metra.common.wrapper_state"} | WORKERS,
    "sb3_metra.evaluation*": EVALUATION,
    "sb3_metra.doctor*": EVALUATION | {"sb3_metra.common.counted_actions", "sb3_metra.doctor*"},
    "sb3_metra.hyperparams": set(),
    "sb3_metra.export.skill_player": set(),  # is copied, and runs without this package
    "sb3_metra.export*": {"sb3_metra.export*"} | FILES | ASKED,
    "sb3_metra.downstream*": {"sb3_metra.downstream*"} | ASKED,
    "sb3_metra.pretrained": {"sb3_metra.algorithms"} | LEAVES,
    "sb3_metra.zoo_files": set(),
    "sb3_metra.zoo_input": LEAVES | {"sb3_metra.zoo_files"},
    "sb3_metra.zoo_runs": LOOP
    | {"sb3_metra.zoo_files", "sb3_metra.zoo_input", "sb3_metra.envs.batch", "sb3_metra.collectors*"},
    "sb3_metra.zoo": PROGRAMS | {"sb3_metra.commands.loading", "sb3_metra.zoo_*"},
    "sb3_metra.study*": PROGRAMS
    | {"sb3_metra.study*", "sb3_metra.zoo_files", "sb3_metra.zoo_input"}
    | {"sb3_metra.cluster", "sb3_metra.collectors*"},
    "sb3_metra.cluster": set(),
    "sb3_metra.collectors*": LOOP | {"sb3_metra", "sb3_metra.cluster", "sb3_metra.collectors*"},
    "sb3_metra.headless": {"sb3_metra.envs"},
    "sb3_metra.demo": PROGRAMS | {"sb3_metra.headless"},
    "sb3_metra.commands*": PROGRAMS
    | {"sb3_metra.zoo", "sb3_metra.demo", "sb3_metra.headless", "sb3_metra.commands*"}
    | {"sb3_metra.study*"},
    "sb3_metra.cli": {"sb3_metra", "sb3_metra.commands*", "sb3_metra.pretrained"},
}

# Packages that only one room may import, so that the others work without them.
ALLOWED_OUTSIDE: dict[str, set[str]] = {
    "matplotlib": {"sb3_metra.evaluation.plotting*"},
    "onnx": {"sb3_metra.export.*"},
    "onnxruntime": {"sb3_metra.export.skill_player"},
    "huggingface_hub": {"sb3_metra.export.hub"},
    "rliable": {"sb3_metra.evaluation.aggregate"},
    "imageio": {"sb3_metra.evaluation.video"},
    "PIL": {"sb3_metra.evaluation.video", "sb3_metra.evaluation.report_page.film"},
    "imageio_ffmpeg": {"sb3_metra.evaluation.video"},
    "moviepy": {"sb3_metra.evaluation.video"},
    "cv2": {"sb3_metra.evaluation.video"},
    "rl_zoo3": {"sb3_metra.zoo", "sb3_metra.zoo_runs"},
    "sb3_contrib": {"sb3_metra.zoo"},
    "optuna": {"sb3_metra.zoo"},
    "ray": {"sb3_metra.cluster", "sb3_metra.collectors.on_ray", "sb3_metra.study.on_ray"},
    "submitit": {"sb3_metra.study.on_slurm"},
    "mujoco": {"sb3_metra.envs*"},
    "dm_control": {"sb3_metra.envs*"},
    "shimmy": {"sb3_metra.envs*"},
    "gymnasium_robotics": {"sb3_metra.envs*"},
    "minigrid": {"sb3_metra.envs*"},
}


def module_name(file: Path, root: Path) -> str:
    """Give a file's dotted name: ``root/sb3_metra/common/__init__.py`` is ``sb3_metra.common``."""
    parts = list(file.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full dotted name of everything a file imports, at whatever depth and in whatever way."""
    module = module_name(file, root)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
                source = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in {"import_module", "importlib.import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def matches(name: str, patterns: set[str]) -> bool:
    """Tell whether a module is one of those named; ``a.b*`` names a.b and all that is in it."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def wrong_imports(root: Path) -> list[str]:
    """List each import of the package under ``root`` that runs the wrong way, as ``file:line: a sentence``."""
    files = {module_name(file, root): file for file in sorted((root / PACKAGE).rglob("*.py"))}
    faults = []
    for module, file in files.items():
        allowed = next((allowed for pattern, allowed in ALLOWED_INSIDE.items() if fnmatch(module, pattern)), None)
        if allowed is None:
            faults.append(f"{file.relative_to(root)}: no line of ALLOWED_INSIDE says what {module} may import")
            continue
        for line, name in imported_names(file, root):
            # "from package import name" imports package.name where that is a module, and the package otherwise.
            target = name if name in files else name.rpartition(".")[0]
            if name.split(".")[0] == PACKAGE:
                fits = target == module or matches(target, allowed)
            else:
                target = name.split(".")[0]
                fits = matches(module, ALLOWED_OUTSIDE.get(target, {"*"}))
            if not fits:
                faults.append(f"{file.relative_to(root)}:{line}: {module} must not import {target}")
    return faults


def too_long(root: Path) -> list[str]:
    """List the package's files that are too long, and its functions whose bodies are, docstrings left out."""
    faults = []
    for file in sorted((root / PACKAGE).rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if (lines := len(source.splitlines())) >= MAX_FILE_LINES:
            faults.append(f"{file.relative_to(root)}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines >= MAX_FUNCTION_LINES:
                faults.append(f"{file.relative_to(root)}:{node.lineno}: the body of {node.name} has {lines} lines")
    return faults


def test_imports_run_one_way() -> None:
    assert wrong_imports(ROOT) == []


def test_files_and_functions_are_short() -> None:
    assert too_long(ROOT) == []


def test_every_package_has_an_init_file() -> None:
    folders = {file.parent for file in (ROOT / PACKAGE).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("path", "source", "target"),
    [
        ("envs/point.py", "from sb3_metra.algorithms.metra import METRA", "sb3_metra.algorithms.metra"),
        ("evaluation/rollout.py", "from sb3_metra import METRA", "sb3_metra"),
        ("evaluation/rollout.py", "from ..algorithms import metra", "sb3_metra.algorithms.metra"),
        ("common/networks.py", "from sb3_metra.common import policies", "sb3_metra.common.policies"),
        ("common/networks.py", "import sb3_metra.common.buffers", "sb3_metra.common.buffers"),
        ("common/buffers.py", "def f():\n    from .skill_discovery import x", "sb3_metra.common.skill_discovery"),
        ("algorithms/lsd.py", "from sb3_metra.algorithms.metra import METRAObjective", "sb3_metra.algorithms.metra"),
        ("algorithms/lsd.py", "from sb3_metra.algorithms.diayn import DIAYN", "sb3_metra.algorithms.diayn"),
        ("evaluation/rollout.py", "import matplotlib.pyplot as plt", "matplotlib"),
        ("evaluation/plotting/curves.py", "import importlib\nimportlib.import_module('imageio.v3')", "imageio"),
        ("downstream/wrappers.py", "from sb3_metra import METRA", "sb3_metra"),
        ("cli.py", "from rl_zoo3.train import train", "rl_zoo3"),
        ("algorithms/metra.py", "import mujoco", "mujoco"),
    ],
)
def test_an_import_the_wrong_way_is_caught(tmp_path: Path, path: str, source: str, target: str) -> None:
    for name in ("algorithms/metra.py", "common/policies.py", "common/buffers.py", "common/skill_discovery.py", path):
        file = tmp_path / PACKAGE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / PACKAGE / "algorithms").mkdir(exist_ok=True)
    (tmp_path / PACKAGE / "algorithms" / "diayn.py").touch()
    (tmp_path / PACKAGE / "__init__.py").touch()
    assert wrong_imports(tmp_path) == []
    culprit = tmp_path / PACKAGE / path
    culprit.write_text(f"{source}\n")
    module = module_name(culprit, tmp_path)
    line = len(source.splitlines())
    assert wrong_imports(tmp_path) == [f"{PACKAGE}/{path}:{line}: {module} must not import {target}"]


def test_a_module_without_a_line_in_the_table_is_caught(tmp_path: Path) -> None:
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "helpers.py").touch()
    assert len(wrong_imports(tmp_path)) == 1


def test_what_is_too_long_is_caught(tmp_path: Path) -> None:
    def write(statements: int, padding: int) -> None:
        body = "\n".join(["    x = 1"] * statements)
        docstring = '    """\n    Neither this nor\n    the signature counts.\n    """'
        source = f"def f(\n    a,\n    b,\n):\n{docstring}\n{body}\n"
        (tmp_path / PACKAGE / "metra.py").write_text(source + "\n" * padding)

    (tmp_path / PACKAGE).mkdir()
    write(MAX_FUNCTION_LINES - 1, padding=0)
    assert too_long(tmp_path) == []
    write(MAX_FUNCTION_LINES, padding=0)
    assert too_long(tmp_path) == [f"{PACKAGE}/metra.py:1: the body of f has {MAX_FUNCTION_LINES} lines"]
    write(1, padding=MAX_FILE_LINES - 10)
    assert too_long(tmp_path) == []
    write(1, padding=MAX_FILE_LINES - 9)
    assert too_long(tmp_path) == [f"{PACKAGE}/metra.py: {MAX_FILE_LINES} lines"]


def test_importing_the_package_is_light() -> None:
    """
    ``import sb3_metra`` loads the algorithms and the environments' names, and neither the environments themselves nor
    pictures, the zoo or MuJoCo; an algorithm finds an environment by its name then.
    """
    rooms = ["envs.point", "envs.locomotion", "evaluation", "downstream", "doctor", "export", "study", "collectors"]
    rooms += ["zoo", "commands", "cli", "demo"]
    heavy = [*(f"{PACKAGE}.{room}" for room in rooms), *(set(ALLOWED_OUTSIDE) - {"cv2"})]
    code = (
        f"import sys, {PACKAGE}; print([name for name in {heavy!r} if name in sys.modules]); "
        f"print({PACKAGE}.METRA('MlpPolicy', 'sb3_metra/PointMass-v0', buffer_size=256, device='cpu').action_space)"
    )
    result = run_python("-c", code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[]", "Box(-1.0, 1.0, (2,), float32)"]
