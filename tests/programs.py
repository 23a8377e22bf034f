"""Python programs in processes of their own, forked from one that has imported torch and SB3, which takes seconds."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOADED = ("stable_baselines3", "torch._dynamo")  # nothing of this package, of MuJoCo or of drawing


def run_python(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: int = 120
) -> subprocess.CompletedProcess[str]:
    """
    Run ``python`` with arguments, as ``subprocess.run`` does, but with ``PRELOADED`` imported already.

    A test of imports, of threads or of Python's start needs ``subprocess.run`` itself.

    :param arguments: ``-c`` and a program, ``-m`` and a module, or a file; then the program's own arguments
    :param cwd: the folder it runs in, by default the current one
    :param env: its environment variables, by default the current ones
    :param timeout: seconds after which it is killed
    :return: its exit status, and what it wrote
    """
    if sys.platform != "linux":
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "timeout": timeout,
            "folder": folder,
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        written = [Path(folder, name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, status, *written)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that forks one for each program; it ends with this one."""
    command = [sys.executable, str(Path(__file__).resolve())]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def serve() -> dict[str, Any] | None:
    """Fork a process for each request and report its status; in that process, return the request."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def execute(arguments: list[str], cwd: str, env: dict[str, str], timeout: int, folder: str) -> None:
    """Become a program, as Python's command line does."""
    signal.alarm(timeout)
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        os.dup2(os.open(os.path.join(folder, name), flags | os.O_CREAT), number)
    sys.stdin = open(0)  # noqa: SIM115  # and nothing of the requests that follow
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    kind, *rest = arguments
    sys.path[0] = "" if kind in ("-c", "-m") else str(Path(kind).parent)
    sys.path[1:1] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    if kind == "-c":
        sys.argv = [kind, *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    for preloaded in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(preloaded)
    gc.freeze()
    if (request := serve()) is not None:
        execute(**request)
