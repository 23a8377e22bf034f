"""Environments in worker processes that never keep training waiting: a worker that fails is named, with its words."""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing as mp
import select
import signal
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection, util
from typing import Any, NoReturn

import gymnasium as gym
from stable_baselines3.common.vec_env import CloudpickleWrapper, SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_metra.common.last_words import LastWords, Listener, run_worker

STEP_TIMEOUT = 30.0
"""Seconds without an answer after which a worker counts as hanging; or 20 times its slowest answer, if that is more."""

_SLOWER = 20.0  # times the slowest answer so far: an environment that is slow may be slower at times
_MAKING_TIMEOUT = 300.0  # seconds; all workers import their simulators at the same time
_WARN_AFTER = 8.0  # seconds without an answer
_TICK = 1.0  # seconds between two looks at all workers, once one of them does not answer
_GRACE = 5.0  # seconds to end in, if nothing more is expected of the workers

# What the server that forks workers imports once, if it is there, so that no worker has to. Neither MuJoCo nor what
# imports it: they load OpenGL, whose drivers do not survive a fork.
_PRELOADED = [
    "sb3_metra.common.last_words",
    *("absl.logging", "dm_env", "labmaze", "lxml.etree", "PIL.Image", "scipy.ndimage", "tree"),  # for dm_control
]


class WorkerError(ChildProcessError):
    """
    A worker raised, ended, was killed or hangs. ``__cause__`` is what it raised, if that can be sent.

    The environments are lost, the model is not: save it, or give it new environments and continue.

    :param message: one sentence
    :param worker: index of the worker, which is its environment's
    """

    def __init__(self, message: str, worker: int) -> None:
        super().__init__(message)
        self.worker = worker


Check = Callable[[tuple[Any, ...], gym.Space, int], None]
"""Raises ValueError for an answer to ``reset`` or ``step`` that does not fit the space of observations; takes both, and
the worker's index."""


def guard_workers(venv: VecEnv, step_timeout: float | None = None, check: Check | None = None) -> None:
    """
    Let SB3's ``SubprocVecEnv`` raise if a worker fails, instead of waiting forever; others are left alone.

    Each of its methods raises a :class:`WorkerError` as soon as a worker raises, ends or is killed. If a worker hangs,
    they warn after 8 seconds and raise after ``step_timeout``. ``close`` ends all workers, and so does the program's
    end. Guarding twice does no harm.

    :param venv: environments, also within ``VecEnvWrapper``
    :param step_timeout: seconds without an answer after which a worker counts as hanging, or 20 times its slowest
        answer so far, if that is more; ``math.inf``: never; ``None``: as before, at first ``STEP_TIMEOUT``
    :param check: looks at what SB3's workers answer
    :raises ValueError: for a limit that is none
    :raises WorkerError: if a worker has failed already
    """
    check_timeout(step_timeout)
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
    if not isinstance(venv, SubprocVecEnv) or venv.closed:
        return
    if not isinstance(venv.remotes[0], _Remote):
        _watch_over(venv)
        if type(venv).__init__ is SubprocVecEnv.__init__:  # the workers run SB3's loop
            for remote in venv.remotes:
                remote.send(("has_attr", Listener()))
            for remote in venv.remotes:
                remote.recv()
    if step_timeout is not None:
        venv.remotes[0].watch.step_timeout = float(step_timeout)
    if check is not None and type(venv).__init__ in (SubprocVecEnv.__init__, WorkerVecEnv.__init__):  # SB3's loop
        space = venv.observation_space
        venv.remotes[0].watch.check = lambda answer, index: check(answer, space, index)


def check_timeout(step_timeout: float | None) -> None:
    """
    Refuse a limit that is none.

    :param step_timeout: seconds, or ``None``
    :raises ValueError: for anything else
    """
    is_number = isinstance(step_timeout, int | float) and not isinstance(step_timeout, bool)
    if step_timeout is not None and not (is_number and step_timeout > 0):
        raise ValueError(f"step_timeout must be a number of seconds above 0, or None, got {step_timeout!r}.")


class WorkerVecEnv(SubprocVecEnv):
    """
    SB3's ``SubprocVecEnv``, guarded from the making of the environments on, as :func:`guard_workers` guards others.

    Workers start fast: they are forked from a server that has imported PyTorch, SB3 and this package, if it was not
    running before.

    :param env_fns: functions that make an environment, each called in its own process
    :param start_method: how processes are started; ``None``: ``"forkserver"`` if there is one, else ``"spawn"``
    :param step_timeout: as for :func:`guard_workers`; an environment may take 300 seconds to be made
    :raises ValueError: for arguments that cannot work
    :raises WorkerError: if a worker fails while its environment is made
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        start_method: str | None = None,
        step_timeout: float | None = None,
    ) -> None:
        check_timeout(step_timeout)
        methods = mp.get_all_start_methods()
        if start_method not in (None, *methods):
            raise ValueError(f"start_method must be one of {methods} or None, got {start_method!r}.")
        if not env_fns:
            raise ValueError("env_fns must hold at least one function, got none.")
        self.waiting = self.closed = False
        context: Any = mp.get_context(start_method or ("forkserver" if "forkserver" in methods else "spawn"))
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(_PRELOADED)  # without effect on a server that runs already
        self.remotes, self.work_remotes = zip(*[context.Pipe() for _ in env_fns], strict=True)
        self.processes = []
        for pipe, parent_pipe, make in zip(self.work_remotes, self.remotes, env_fns, strict=True):
            process = context.Process(
                target=run_worker, args=(pipe, parent_pipe, CloudpickleWrapper(make)), daemon=True
            )
            process.start()
            self.processes.append(process)
            pipe.close()
        _watch_over(self)
        try:
            guard_workers(self, step_timeout)
            for remote in self.remotes:
                remote.send(("get_spaces", None))
            made = [remote.recv() for remote in self.remotes]
            VecEnv.__init__(self, len(env_fns), *made[0])
        except BaseException:
            self.close()
            raise


class _Remote:
    """
    The main process's end of the pipe to one worker, which gives up if no answer can come any more.

    :param pipe: the end that SB3 uses
    :param process: the worker
    :param index: its index
    :param watch: what is known of all workers
    """

    def __init__(self, pipe: Any, process: Any, index: int, watch: _Watch) -> None:
        self.pipe, self.process, self.index, self.watch = pipe, process, index, watch
        self.asked = "get_spaces"
        self.fileno, self.close = pipe.fileno, pipe.close
        self.answers = _waiter(pipe, process.sentinel)

    @property
    def doing(self) -> str:
        """What the worker was asked to do, within a sentence."""
        return "while its environment was made" if self.asked == "get_spaces" else f"during {self.asked}"

    def send(self, message: tuple[str, Any]) -> None:
        """
        Ask the worker for something.

        :param message: SB3's command and its data
        :raises WorkerError: if a worker has failed
        """
        if self.watch.failure is not None:
            self.watch.repeat(self.watch.failure)
        self.asked = message[0]
        try:
            self.pipe.send(message)
        except OSError:  # nobody reads any more
            self.watch.fail(self)

    def recv(self) -> Any:
        """
        Wait for the worker's answer, and look at it.

        :return: the answer
        :raises ValueError: if it does not fit
        :raises WorkerError: if a worker has failed, or this one gives no answer for too long
        """
        answer = self._answer()
        if self.watch.check is not None and self.asked in ("reset", "step"):
            try:
                self.watch.check(answer, self.index)
            except ValueError:
                for other in self.watch.remotes[self.index + 1 :]:  # were asked, too
                    other._answer()
                raise
        return answer

    def _answer(self) -> Any:
        """
        Wait for the worker's answer.

        :return: the answer
        :raises WorkerError: if a worker has failed, or this one gives no answer for too long
        """
        if self.watch.failure is not None:
            self.watch.repeat(self.watch.failure)
        if not self.answers(_TICK):
            self.watch.wait_for(self)
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.watch.fail(self)
        if isinstance(answer, LastWords):
            self.watch.fail(self, answer)
        return answer


def _waiter(pipe: Any, sentinel: int) -> Callable[[float], bool]:
    """
    Make a function that waits for a worker for some seconds, and tells whether it has answered and lives.

    :param pipe: the pipe to the worker
    :param sentinel: what becomes ready once the worker has ended; a pipe does not always, if processes are forked
    """
    if not hasattr(select, "poll"):
        return lambda seconds: connection.wait([pipe, sentinel], seconds) == [pipe]
    poller, answered = select.poll(), pipe.fileno()  # costs a fifth of connection.wait
    poller.register(answered, select.POLLIN)
    poller.register(sentinel, select.POLLIN)

    def wait(seconds: float) -> bool:
        ready = poller.poll(1000.0 * seconds)
        return len(ready) == 1 and ready[0][0] == answered

    return wait


class _Watch:
    """
    What is known of the workers of one vectorised environment.

    :param pipes: the main process's ends of the pipes
    :param processes: the workers
    """

    def __init__(self, pipes: Iterable[Any], processes: Iterable[Any]) -> None:
        pairs = enumerate(zip(pipes, processes, strict=True))
        self.remotes = tuple(_Remote(pipe, process, index, self) for index, (pipe, process) in pairs)
        self.step_timeout = STEP_TIMEOUT
        self.check: Callable[[tuple[Any, ...], int], None] | None = None
        self.slowest = 0.0  # seconds of the slowest answer, if that was no matter of one tick
        self.failure: WorkerError | None = None

    @property
    def limit(self) -> float:
        """Seconds without an answer after which a worker counts as hanging."""
        return max(self.step_timeout, _SLOWER * self.slowest)

    def repeat(self, failure: WorkerError) -> NoReturn:
        """
        Say again what has failed; what is in the pipes no longer belongs to what is asked.

        :param failure: what has been said
        :raises WorkerError: always
        """
        raise WorkerError(str(failure), failure.worker) from failure.__cause__

    def fail(self, remote: _Remote, words: LastWords | None = None, reason: str | None = None) -> NoReturn:
        """
        Give up.

        :param remote: the worker that failed
        :param words: what it has sent before it ended; ``None``: look whether it has
        :param reason: why it counts as failed, if it has not ended
        :raises WorkerError: always
        """
        if words is None and reason is None:
            words = _read_last_words(remote.pipe)
        if words is not None:
            reason = f"raised {words.name} {remote.doing}: {words.message or 'it gave no reason'}"
        name = f"Worker {remote.index} of {len(self.remotes)} (the first is 0)"
        self.failure = WorkerError(f"{name} {reason or _how_it_ended(remote)}", remote.index)
        raise self.failure from (None if words is None else words.cause())

    def wait_for(self, remote: _Remote) -> None:
        """
        Wait for an answer that takes its time, and look after all workers meanwhile.

        A wait counts as a tick at most: a program that is stopped for an hour has not waited for an hour.

        :param remote: the worker that was asked
        :raises WorkerError: if a worker has ended, or this one gives no answer for too long
        """
        making = remote.asked == "get_spaces"
        limit, warn_after = self.limit, max(_WARN_AFTER, 2.0 * self.slowest)
        if making:
            limit = max(limit, _MAKING_TIMEOUT)
            warn_after = limit / 4
        waited = _TICK
        while not remote.pipe.poll():
            for each in self.remotes:
                if each.process.exitcode is not None:
                    self.fail(each)
            if waited >= limit:
                remote.process.kill()
                self.fail(remote, reason=f"gave no answer for {waited:.0f} s {remote.doing} and was killed; {_ADVICE}")
            if waited >= warn_after:
                _warn(
                    f"Worker {remote.index} gives no answer {remote.doing} for {waited:.0f} s, of at most {limit:.0f}."
                )
                warn_after = math.inf
            before = time.monotonic()
            remote.answers(_TICK)
            waited += min(time.monotonic() - before, _TICK)
        if waited > _TICK and not making:
            self.slowest = max(self.slowest, waited)


_ADVICE = "if that is what an environment may take, raise step_timeout"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _read_last_words(pipe: Any) -> LastWords | None:
    """
    Read what a worker has sent, up to its last words.

    :param pipe: the pipe to the worker
    """
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll():
            answer = pipe.recv()
            if isinstance(answer, LastWords):
                return answer
    return None


def _how_it_ended(remote: _Remote) -> str:
    """
    Tell how a worker has ended that left no words.

    :param remote: the worker
    """
    remote.process.join(_TICK)
    code = remote.process.exitcode
    if code is None:
        return f"closed its connection {remote.doing}"
    if code >= 0:
        return f"ended with exit code {code} {remote.doing}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name} {remote.doing}{hint}"


def _watch_over(venv: SubprocVecEnv) -> None:
    """
    Give environments watched pipes, and a ``close`` that comes to an end.

    :param venv: the environments
    """
    watch = _Watch(venv.remotes, venv.processes)
    venv.remotes = watch.remotes
    # weakly, so that environments that are dropped end as soon as before
    venv.close = functools.partial(_close, weakref.ref(venv))  # type: ignore[method-assign]
    util.Finalize(venv, _end, (watch.remotes, _GRACE), exitpriority=10)  # before multiprocessing waits for its children


def _close(reference: weakref.ref[SubprocVecEnv]) -> None:
    """
    Close environments and end their workers, within seconds if one has failed or a step is under way.

    :param reference: the environments
    """
    venv = reference()
    if venv is None or venv.closed:
        return
    venv.closed = True
    watch = venv.remotes[0].watch
    in_order = watch.failure is None and not venv.waiting
    _end(venv.remotes, watch.limit if in_order else _GRACE)


def _end(remotes: Sequence[_Remote], seconds: float) -> None:
    """
    Ask workers to close, drop what they still answer, and kill those that do not end.

    :param remotes: the workers
    :param seconds: how long they may take, all together
    """
    for remote in remotes:
        with contextlib.suppress(OSError):  # it has ended
            remote.pipe.send(("close", None))
    pipes = {remote.pipe for remote in remotes if not remote.pipe.closed}
    until = time.monotonic() + seconds
    while living := [remote.process.sentinel for remote in remotes if remote.process.exitcode is None]:
        if (left := until - time.monotonic()) <= 0.0:
            break
        for pipe in pipes.intersection(connection.wait([*living, *pipes], min(left, _TICK))):
            try:
                pipe.recv_bytes()
            except (EOFError, OSError):
                pipes.remove(pipe)
    late = [remote for remote in remotes if remote.process.exitcode is None]
    for remote in late:
        remote.process.kill()
    for remote in remotes:
        remote.process.join(_TICK)
        remote.close()
    if late:
        _warn(f"Killed workers that did not close within {seconds:.0f} s: {[remote.index for remote in late]}.")
