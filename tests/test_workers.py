"""Environments in worker processes: one that fails is named at once, nothing hangs, and what was learnt is kept."""

import math
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_metra import METRA
from sb3_metra.cli import main
from sb3_metra.common import workers
from sb3_metra.common.workers import WorkerError, WorkerVecEnv, guard_workers
from tests.programs import run_python
from tests.toys import TINY

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals and fork are not Windows'"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

FAILURES = {
    "raise": r"raised RuntimeError {}: the simulator broke",
    "exit": r"ended with exit code 3 {}$",
    "leave": r"ended with exit code 4 {}$",
    "kill": r"was killed by SIGKILL {}, as the system does when memory runs out$",
    "end": r"was killed by SIGTERM {}$",
}


class BrokenSimulator(RuntimeError):
    """An exception that cannot be built again from its message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)


def fail(how: str) -> None:
    """Do to this process what goes wrong with simulators."""
    if how == "raise":
        raise RuntimeError("the simulator\nbroke")
    if how == "refuse":
        raise ValueError("gravity must be above 0, got -1.")
    if how == "odd":
        raise BrokenSimulator("no license", 7)
    if how == "exit":
        os._exit(3)
    if how == "leave":
        sys.exit(4)
    if how == "hang":
        time.sleep(3600)
    if how == "slow":
        time.sleep(1.5)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "end": signal.SIGTERM, "stop": signal.SIGSTOP}.get(how, 0))


class Frail(gym.Env):
    """An environment that fails, in a way, at a moment: while it is made, at a reset, or after some steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, how: str = "", when: str = "") -> None:
        self.how, self.when, self.steps = how, when, 0
        self.at("making")

    def at(self, moment: str) -> None:
        if moment == self.when:
            fail(self.how)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at("reset")
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.steps >= 3:
            self.at("step")
        if self.steps >= 150:
            self.at("late step")
        return np.zeros(3, np.float32), 0.0, False, self.steps % 10 == 0, {}

    def close(self) -> None:
        self.at("close")


def frail(how: str = "", when: str = "") -> gym.Env:
    return Monitor(Frail(how, when))


def make(cls: type[SubprocVecEnv], how: str = "", when: str = "", **kwargs: Any) -> SubprocVecEnv:
    """Three environments in forked processes, of which the second fails."""
    venv = cls([frail, partial(frail, how, when), frail], start_method="fork", **kwargs)
    guard_workers(venv)
    return venv


def step_until_it_fails(venv: SubprocVecEnv) -> None:
    venv.reset()
    for _ in range(5):
        venv.step(np.zeros((venv.num_envs, 2), np.float32))


def assert_ended(venv: SubprocVecEnv, seconds: float = 2.0) -> None:
    """Closing takes no longer than that, and no process is left."""
    start = time.monotonic()
    venv.close()
    assert time.monotonic() - start < seconds
    assert venv.closed
    assert not any(process.is_alive() for process in venv.processes)


@pytest.mark.parametrize(
    ("cls", "how", "when"),
    [
        pytest.param(cls, how, when, marks=[] if is_usual else [pytest.mark.slow])
        for how in FAILURES
        for cls, when, is_usual in (
            (SubprocVecEnv, "step", True),
            (SubprocVecEnv, "reset", False),
            (WorkerVecEnv, "step", False),
            (WorkerVecEnv, "reset", how in ("raise", "kill")),
        )
    ],
)
def test_a_worker_that_fails_is_named_at_once(cls: type[SubprocVecEnv], how: str, when: str) -> None:
    venv = make(cls, how, when)
    start = time.monotonic()
    message = "^Worker 1 of 3 \\(the first is 0\\) " + FAILURES[how].format(f"during {when}")
    with pytest.raises(WorkerError, match=message) as failure:
        step_until_it_fails(venv)
    assert time.monotonic() - start < 3
    assert failure.value.worker == 1
    with pytest.raises(WorkerError, match=message):  # whatever is asked later gets the same answer
        venv.get_attr("steps")
    assert_ended(venv)


@pytest.mark.parametrize("cls", [SubprocVecEnv, WorkerVecEnv])
def test_what_a_worker_raised_is_the_cause(cls: type[SubprocVecEnv]) -> None:
    venv = make(cls, "raise", "step")
    with pytest.raises(WorkerError) as failure:
        step_until_it_fails(venv)
    cause = failure.value.__cause__
    assert (type(cause), str(cause)) == (RuntimeError, "the simulator\nbroke")
    assert 'in step\n    self.at("step")' in str(cause.__cause__)  # the worker's traceback
    venv.close()

    venv = make(cls, "odd", "step")
    with pytest.raises(WorkerError, match=r"1 of 3 .* raised BrokenSimulator during step: no license$") as failure:
        step_until_it_fails(venv)
    assert str(failure.value.__cause__).startswith("in the worker:\nTraceback")
    assert_ended(venv)


@pytest.mark.parametrize("how", ["hang", "stop"])
@pytest.mark.parametrize("when", ["step", "reset"])
def test_a_worker_that_hangs_is_named(how: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_WARN_AFTER", 1.0)
    venv = make(SubprocVecEnv, how, when)
    guard_workers(venv, step_timeout=2.5)
    guard_workers(venv)  # as METRA does: the limit stays
    start = time.monotonic()
    message = f"1 of 3 .* gave no answer for . s during {when} and was killed; if .* take, raise step_timeout$"
    warning = f"Worker 1 gives no answer during {when} for . s, of at most 2"
    with pytest.warns(RuntimeWarning, match=warning), pytest.raises(WorkerError, match=message):
        step_until_it_fails(venv)
    assert 2 < time.monotonic() - start < 6
    assert_ended(venv)


def test_slow_environments_get_more_time() -> None:
    venv = make(SubprocVecEnv, "slow", "reset")
    guard_workers(venv, step_timeout=0.5)
    with pytest.raises(WorkerError, match="gave no answer"):
        venv.reset()
    venv.close()
    venv = make(SubprocVecEnv, "slow", "step")
    guard_workers(venv, step_timeout=5)
    step_until_it_fails(venv)  # which is not the case
    guard_workers(venv, step_timeout=0.1)
    assert venv.remotes[0].watch.limit > 20  # its answers took more than a second each
    step_until_it_fails(venv)
    assert_ended(venv)


def test_another_workers_end_is_seen_while_one_is_slow() -> None:
    venv = SubprocVecEnv([partial(frail, "hang", "reset"), partial(frail, "raise", "reset")], start_method="fork")
    guard_workers(venv)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"^Worker 1 of 2 .* raised RuntimeError during reset"):
        venv.reset()
    assert time.monotonic() - start < 5
    with pytest.warns(RuntimeWarning, match=r"Killed workers that did not close within 5 s: \[0\]"):
        assert_ended(venv, seconds=8)


@pytest.mark.parametrize("how", ["exit", "kill", "raise", "refuse"])
def test_a_worker_that_fails_while_its_environment_is_made(how: str) -> None:
    before = set(mp.active_children())
    end = {"refuse": "raised ValueError {}: gravity must be above 0, got -1.$", **FAILURES}[how]
    message = "^Worker 1 of 3 .* " + end.format("while its environment was made")
    with pytest.raises(WorkerError, match=message):
        make(WorkerVecEnv, how, "making")
    assert set(mp.active_children()) == before


def test_a_worker_that_had_failed_before() -> None:
    venv = SubprocVecEnv([frail, frail], start_method="fork")
    normalized = VecNormalize(venv)
    venv.processes[1].kill()
    venv.processes[1].join()
    with pytest.raises(WorkerError, match=r"^Worker 1 of 2 .* was killed by SIGKILL"):
        METRA("MlpPolicy", normalized, **TINY)
    assert_ended(venv)


@pytest.mark.parametrize("how", ["hang", "exit"])
def test_a_worker_that_does_not_close(how: str) -> None:
    venv = make(WorkerVecEnv, how, "close", step_timeout=1.0)
    venv.reset()
    if how == "hang":
        with pytest.warns(RuntimeWarning, match=r"Killed workers that did not close within 1 s: \[1\]"):
            assert_ended(venv)
    else:
        assert_ended(venv)
    venv.close()  # again


def test_closing_in_the_middle_of_a_step() -> None:
    venv = make(SubprocVecEnv)
    venv.reset()
    venv.step_async(np.zeros((3, 2)))
    assert_ended(venv)


def test_environments_that_are_dropped_end() -> None:
    venv = make(SubprocVecEnv)
    processes = venv.processes
    del venv
    for process in processes:
        process.join(2)
        assert process.exitcode == 0


def test_what_the_guard_leaves_alone() -> None:
    dummy = DummyVecEnv([frail])
    guard_workers(dummy)
    assert vars(dummy).keys() == vars(DummyVecEnv([frail])).keys()
    venv = make(SubprocVecEnv)
    remotes = venv.remotes
    guard_workers(VecNormalize(venv))
    assert venv.remotes is remotes
    venv.close()
    guard_workers(venv)

    class OwnLoop(SubprocVecEnv):
        def __init__(self, env_fns: list[Callable[[], gym.Env]]) -> None:
            super().__init__(env_fns, "fork")

    own = OwnLoop([partial(frail, "raise", "step")])
    guard_workers(own)
    with pytest.raises(WorkerError, match=r"Worker 0 of 1 .* ended with exit code 1 during step"):
        step_until_it_fails(own)
    assert_ended(own)


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan, True, "30", [1]])
def test_limits_that_are_none(timeout: Any) -> None:
    message = "^step_timeout must be a number of seconds above 0, or None, got "
    with pytest.raises(ValueError, match=message):
        guard_workers(DummyVecEnv([frail]), timeout)
    with pytest.raises(ValueError, match=message):
        WorkerVecEnv([frail], step_timeout=timeout)


def test_workers_that_cannot_be_started() -> None:
    with pytest.raises(ValueError, match=r"start_method must be one of \[.*\] or None, got 'thread'"):
        WorkerVecEnv([frail], start_method="thread")
    with pytest.raises(ValueError, match="env_fns must hold at least one function, got none"):
        WorkerVecEnv([])


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_what_was_learnt_is_kept(how: str, tmp_path: Path) -> None:
    venv = SubprocVecEnv([frail, partial(frail, how, "step")], start_method="fork")
    model = METRA("MlpPolicy", DummyVecEnv([frail, frail]), **TINY)
    model.learn(64)
    learnt = model.policy.state_dict()["actor.mu.weight"].clone()
    model.set_env(VecNormalize(venv, norm_obs=False, norm_reward=False))
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"^Worker 1 of 2 .* (raised|was killed)"):
        model.learn(64)
    assert time.monotonic() - start < 5
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu")
    assert (loaded.policy.state_dict()["actor.mu.weight"] == learnt).all()
    assert_ended(venv)
    model.set_env(DummyVecEnv([frail, frail]))
    model.learn(64)
    assert model.num_timesteps == 64


@pytest.mark.slow
def test_train_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rl_zoo3")
    kwargs = {"how": "kill", "when": "late step"}
    gym.register("Frail-v0", "tests.test_workers:Frail", max_episode_steps=100, kwargs=kwargs)
    settings = [f"{name}:{value!r}" for name, value in TINY.items() if name not in ("seed", "device")]
    arguments = ["--env", "Frail-v0", "--vec-env", "subproc", "--eval-freq", "-1", "-n", "1000", "-f", str(tmp_path)]
    try:
        assert main(["train", *arguments, "-params", "n_envs:2", *settings]) == 1
    finally:
        del gym.registry["Frail-v0"]
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("sb3-metra train: Worker 0 of 2 (the first is 0) was killed by SIGKILL during step")
    assert METRA.load(tmp_path / "metra/Frail-v0_1/Frail-v0.zip").num_timesteps == 298
    assert not mp.active_children()


PROGRAM = """
import sys, time
from functools import partial
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_metra import METRA
from tests.test_workers import frail
from tests.toys import TINY

if __name__ == "__main__":
    venv = SubprocVecEnv([frail, partial(frail, sys.argv[1], "step")], start_method=sys.argv[2])
    model = METRA("MlpPolicy", venv, **TINY)
    if sys.argv[1] == "idle":
        sys.exit("nothing is closed")
    print(time.time(), flush=True)
    model.learn(100)
"""


@pytest.mark.parametrize(
    ("how", "method", "last_line"),
    [
        ("raise", "fork", "(the first is 0) raised RuntimeError during step: the simulator broke"),
        pytest.param("idle", "fork", "nothing is closed", marks=pytest.mark.slow),
        pytest.param("raise", "forkserver", "RuntimeError during step: the simulator broke", marks=pytest.mark.slow),
    ],
)
def test_a_program_ends_with_its_workers(how: str, method: str, last_line: str, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run_python(str(program), how, method, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 1
    assert any(line.endswith(last_line) for line in done.stderr.splitlines()), done.stderr
    if how != "idle":
        assert time.time() - float(done.stdout) < 20  # 2 on a quiet machine


def test_what_is_imported_before_the_fork_starts_neither_threads_nor_opengl() -> None:
    program = f"""
import importlib, os, sys
for name in {workers._PRELOADED}:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
tasks = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
print(tasks, [name for name in ("mujoco", "dm_control", "OpenGL", "glfw") if name in sys.modules])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "1 []"
