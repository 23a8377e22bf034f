"""benchmarks/on_gpu.py: no part of a visit to a GPU takes another's time or results."""

from __future__ import annotations

import copy
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
import safetensors.torch
import torch as th

from tests.toys import tiny_model

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


def test_no_file_to_send_is_large_and_weights_are_whole(tmp_path: Path) -> None:
    run, send, model = tmp_path / "Ant", tmp_path / "send", tiny_model(seed=0)
    (run / "checkpoints" / "step_1").mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    (tmp_path / "long.txt").write_text("x" * 2_000)
    tiny_model(seed=1).save(run / "best_model")
    os.utime(run / "best_model.zip", (1.0, 1.0))
    model.save(run / "checkpoints" / "step_1" / "model")  # the newest counts
    for max_bytes in (1_000, 100_000):
        pack(tmp_path, max_bytes)
        assert max(path.stat().st_size for path in send.iterdir()) <= max_bytes
        with tarfile.open(send / "results.tgz") as tar:
            assert tar.getnames() == (
                ["Ant/settings.json"] if max_bytes == 1_000 else ["Ant/settings.json", "long.txt"]
            )
        for network in ("actor", "critic", "objective"):
            content = b"".join(path.read_bytes() for path in sorted(send.glob(f"Ant_{network}.safetensors*")))
            other = copy.deepcopy(getattr(model, network))
            for parameter in other.parameters():
                parameter.data.zero_()
            other.load_state_dict(safetensors.torch.load(content))
            for x, y in zip(other.parameters(), getattr(model, network).parameters(), strict=True):
                assert th.allclose(x, y, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in send.iterdir()) == [
        "Ant_actor.safetensors",
        "Ant_critic.safetensors",
        "Ant_objective.safetensors",
        "results.tgz",
    ]  # no piece is left


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
        words = " ".join(part.command)
        assert "'learning_rate': 0.5" in words
        assert "--checkpoint-minutes 7.0" in words
        got.append((part.environ["MUJOCO_GL"], "'overlap': True" in words))
        return endings[len(got) - 1]

    monkeypatch.setattr(Part, "run", run)
    settings = {"change": {"learning_rate": 0.5}, "checkpoint_minutes": 7.0}
    args = SimpleNamespace(out=tmp_path, gl=["egl", "osmesa"], quick=False, device="cuda", **settings)
    train(args, "sb3_metra/QuadrupedPixels-v0", time.monotonic() + 600.0)
    assert got == tried


def test_every_part_of_a_gradient_step_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, out = Path(__file__).parents[1] / "benchmarks" / "step_parts.py", tmp_path / "parts.json"
    words = ["--observations", "state", "--variants", "float32", "tf32", "--device", "cpu", "--batch-size", "8"]
    monkeypatch.setattr(sys, "argv", [str(script), *words, "--width", "8", "--repeats", "1", "--out", str(out)])
    threads = th.get_num_threads()
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        th.set_num_threads(threads)
    times = json.loads(out.read_text())["ms"]
    assert set(times) == {"float32", "tf32"}
    assert {"sampling", "phi and lambda", "reward", "critics", "actor", "gradient step"} <= set(times["float32"])
