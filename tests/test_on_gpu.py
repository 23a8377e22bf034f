"""benchmarks/on_gpu.py: no part of a visit to a GPU takes another's time or results."""

from __future__ import annotations

import json
import os
import runpy
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "on_gpu.py"), run_name="on_gpu")
Part, pack, train = (SCRIPT[name] for name in ("Part", "pack", "train"))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are POSIX")

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"  # dead, and nobody has asked


def test_a_part_that_hangs_ends_with_its_children_and_others_go_on(tmp_path: Path) -> None:
    start = time.monotonic()
    assert Part("hangs", ["-c", HANGS], 2.0).run(tmp_path, left=100.0) == "time is over"
    assert Part("late", ["-c", "import time; time.sleep(60)"], 60.0).run(tmp_path, left=-5.0) == "time is over"
    assert time.monotonic() - start < 30.0
    child = int((tmp_path / "hangs.txt").read_text().split()[-1])
    deadline = time.monotonic() + 5.0
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)
    assert Part("fails", ["-c", "raise SystemExit(3)"], 10.0).run(tmp_path, left=100.0) == "exit status 3"
    assert Part("works", ["-c", "print('a number')"], 10.0).run(tmp_path, left=100.0) == "exit status 0"
    endings = {name: x["ended"] for name, x in json.loads((tmp_path / "parts.json").read_text()).items()}
    assert endings == {
        "hangs": "time is over",
        "late": "time is over",
        "fails": "exit status 3",
        "works": "exit status 0",
    }
    with tarfile.open(tmp_path / "send" / "results.tgz") as tar:
        assert {f"{name}.txt" for name in endings} | {"parts.json"} == set(tar.getnames())


def test_no_file_to_send_is_large_and_models_are_whole(tmp_path: Path) -> None:
    run = tmp_path / "Ant"
    (run / "checkpoints").mkdir(parents=True)
    model = os.urandom(2_500)
    (run / "model.zip").write_bytes(model)
    (run / "checkpoints" / "model.zip").write_bytes(model)
    (run / "progress.csv").write_text("a,b\n")
    (tmp_path / "long.txt").write_text("x" * 200)
    pack(tmp_path, max_bytes=1_000)
    send = tmp_path / "send"
    assert sorted(path.name for path in send.iterdir()) == [*(f"Ant_model.zip.00{i}" for i in range(3)), "results.tgz"]
    assert b"".join(path.read_bytes() for path in sorted(send.glob("Ant_model.zip.*"))) == model
    with tarfile.open(send / "results.tgz") as tar:
        assert tar.getnames() == ["Ant/progress.csv"]
    (run / "model.zip").write_bytes(model[:900])
    pack(tmp_path, max_bytes=1_000)
    assert [path.name for path in send.glob("Ant_model.zip.*")] == ["Ant_model.zip.000"]  # no piece of the old one


@pytest.mark.parametrize(
    ("answered", "endings", "tried"),
    [
        (("egl_1", "egl_8", "osmesa_1", "osmesa_8"), ["exit status 0"], [("egl", True)]),
        (("egl_1", "osmesa_1", "osmesa_8"), ["exit status 0"], [("osmesa", True)]),
        (("egl_1", "egl_8", "osmesa_1", "osmesa_8"), ["exit status 1"] * 2, [("egl", True), ("osmesa", False)]),
        ((), ["exit status 1", "exit status 0"], [("egl", True), ("osmesa", False)]),
    ],
)
def test_training_draws_with_what_answered(
    answered: tuple[str, ...],
    endings: list[str],
    tried: list[tuple[str, bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("egl_1", "egl_8", "osmesa_1", "osmesa_8")
    known = {f"environments_{x}": {"ended": "exit status 0" if x in answered else "time is over"} for x in names}
    (tmp_path / "parts.json").write_text(json.dumps(known))
    got: list[tuple[str, bool]] = []

    def run(part: Any, out: Path, left: float) -> str:
        got.append((part.environ["MUJOCO_GL"], "'overlap': True" in " ".join(part.command)))
        return endings[len(got) - 1]

    monkeypatch.setattr(Part, "run", run)
    args = SimpleNamespace(out=tmp_path, gl=["egl", "osmesa"], quick=False, device="cuda")
    train(args, "sb3_metra/QuadrupedPixels-v0", time.monotonic() + 600.0)
    assert got == tried
