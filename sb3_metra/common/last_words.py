"""What runs in a worker process of a vectorised environment, so that it sends what ends it."""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from collections.abc import Callable
from multiprocessing import util
from typing import Any, NamedTuple

from stable_baselines3.common.vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.subproc_vec_env import _worker


class LastWords(NamedTuple):
    """What a worker sends before an exception ends it."""

    name: str
    message: str
    trace: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: Exception) -> LastWords:
        """
        Write an exception down.

        :param error: the exception
        """
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        try:
            pickled = pickle.dumps(error)
        except Exception:  # it may hold anything
            pickled = None
        return cls(type(error).__name__, " ".join(str(error).split()), trace, pickled)

    def cause(self) -> BaseException:
        """The exception, if it can be built again, and the worker's traceback in any case."""
        trace = RuntimeError(f"in the worker:\n{self.trace}")
        try:
            error = pickle.loads(self.pickled or b"")
        except Exception:  # its class may be unknown here, or its constructor want other arguments
            return trace
        error.__cause__ = trace
        return error


class Listener:
    """Lets a worker that runs SB3's loop send its last words: unpickling calls a function in the worker."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return _listen, ()


def _listen() -> str:
    """
    Register what multiprocessing calls while an exception ends this worker.

    :return: the name of an attribute, which SB3's ``has_attr`` wants
    """
    util.Finalize(None, _send_last_words, exitpriority=10)
    return "unwrapped"


def _send_last_words() -> None:
    """Send the exception that ends this worker through the pipe that SB3's loop holds."""
    error = sys.exc_info()[1]
    if not isinstance(error, Exception):  # none, or sys.exit
        return
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is _worker.__code__:
            with contextlib.suppress(Exception):  # the main process may have gone
                frame.f_locals["remote"].send(LastWords.of(error))


def run_worker(pipe: Any, parent_pipe: Any, make: CloudpickleWrapper) -> None:
    """
    Run SB3's loop and send what ends it, from the making of the environment on.

    :param pipe: the worker's end
    :param parent_pipe: the main process's end
    :param make: makes the environment
    """
    try:
        _worker(pipe, parent_pipe, make)
    except Exception as error:
        with contextlib.suppress(Exception):
            pipe.send(LastWords.of(error))
        sys.exit(1)
