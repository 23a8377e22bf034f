"""Collectors as actors of Ray, on this machine or on the nodes of a cluster."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

from sb3_metra import __version__
from sb3_metra.common.arguments import check_table, instance, number, optional
from sb3_metra.common.collectors import CHECKS as OF_ALL
from sb3_metra.common.collectors import Answer, Collectors, Kit, Lost, Order, Weights

CHECKS = OF_ALL | {
    "address": optional(instance("a string", str)),
    "num_cpus": number(0),
    "timeout": optional(number(above=0)),
}
"""What arguments of collectors on Ray must be."""

_BUILD_SECONDS = 300.0  # to find room, and then to import and to make environments; more if an order may take more


class RayCollectors(Collectors):
    """
    Collectors on the nodes of a Ray cluster, or on this machine: a process for each.

    Episodes come in messages, one for each time that all environments of a collector have ended an episode. A
    collector that dies or hangs, alone or with its node, is replaced, and its order is given again: no transition
    comes twice.

    :param env: an environment's registered name, or a function that makes one
    :param n: number of collectors
    :param max_staleness: how many rounds old the weights of an episode may be; older episodes are dropped.
        0: each round waits for episodes of its own weights, and a run depends on its seed alone. ``None``: twice ``n``
    :param max_episode_steps: steps in which an episode must end
    :param address: of a Ray cluster, ``"auto"`` for the one that this machine belongs to; ``None``: the one that this
        process is connected to, or else one on this machine
    :param num_cpus: CPUs of each collector
    :param timeout: seconds that an order may take, one episode in each environment; a collector that takes longer
        hangs. ``None``: no limit
    :raises ImportError: without Ray
    :raises ValueError: for an argument that does not fit
    """

    def __init__(
        self,
        env: str | Callable[[], Any],
        n: int = 1,
        max_staleness: int | None = None,
        max_episode_steps: int = 10_000,
        *,
        address: str | None = None,
        num_cpus: float = 1,
        timeout: float | None = 300.0,
    ) -> None:
        super().__init__(env, n, max_staleness, max_episode_steps)
        read = check_table(CHECKS, {"address": address, "num_cpus": num_cpus, "timeout": timeout})
        self.address: str | None = read["address"]
        self.num_cpus: float = read["num_cpus"]
        self.timeout: float | None = read["timeout"]
        self._connected = False  # by this object
        self._forget()
        _import_ray()

    def _forget(self) -> None:
        self._actors: dict[int, Any] = {}
        self._places: dict[int, str] = {}  # of those that have found room
        self._ready: set[int] = set()
        self._pending: dict[Any, tuple[int, float]] = {}  # what is to come, by reference: of whom, and until when
        self._weights: tuple[int, Any] = (-1, None)  # a round, and a reference to its weights

    # Making

    def _open(self, kit: Kit) -> None:
        ray = _import_ray()
        from sb3_metra.cluster import check_room, connect, live_nodes

        self._connected = connect("address", self.address)
        check_room(live_nodes(), "n", self.n, self.num_cpus)
        self._payload = ray.put(ray.cloudpickle.dumps(kit))
        for index in range(self.n):
            self._make(index)
        while len(self._ready) < self.n:
            self.receive(wait=True)

    def _make(self, index: int) -> None:
        ray = _import_ray()
        strategy = "SPREAD" if ray.util.get_current_placement_group() is None else None  # in the CPUs of the group
        options = {"num_cpus": self.num_cpus, "max_restarts": 0, "scheduling_strategy": strategy}
        self._actors[index] = actor = ray.remote(_make_actor_class()).options(**options).remote()
        self._pending[actor.place.remote()] = index, math.inf  # it may wait for room

    def _build(self, index: int, place: str) -> None:
        self._places[index] = place
        threads = max(1, int(self.num_cpus))
        reference = self._actors[index].build.remote(self._payload, __version__, threads)
        self._pending[reference] = index, time.monotonic() + self._build_seconds

    @property
    def _build_seconds(self) -> float:
        return math.inf if self.timeout is None else max(_BUILD_SECONDS, self.timeout)

    def _close(self) -> None:
        ray = _import_ray()
        if ray.is_initialized():
            for actor in self._actors.values():
                _end(actor)
            if self._connected:
                ray.shutdown()
        self._connected = False
        self._forget()

    # Orders

    def ready(self) -> list[int]:
        """Which collectors are there, by index."""
        return sorted(self._ready)

    def send(self, index: int, order: Order, weights: Weights) -> None:
        """
        Give an order to a collector that has none.

        :param index: of the collector
        :param order: the order
        :param weights: of the actor; they go to each node once a round
        """
        if self._weights[0] != order.round:
            self._weights = order.round, _import_ray().put(weights)
        reference = self._actors[index].collect.remote(order, self._weights[1])
        self._pending[reference] = index, time.monotonic() + (self.timeout or math.inf)

    def _receive(self, wait: bool) -> list[tuple[int, Answer | Lost]]:
        """
        As :meth:`receive`.

        :raises TimeoutError: if collectors find no room on the cluster, and there is none to wait for
        """
        ray = _import_ray()
        if wait:
            self._wait()
        if not self._pending:
            return []
        done, rest = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        answers = [self._read(reference) for reference in done]
        now = time.monotonic()
        answers += [self._end_hanging(reference) for reference in rest if self._pending[reference][1] <= now]
        return [answer for answer in answers if answer is not None]

    def _wait(self) -> None:
        """Until something has come, or is overdue."""
        soonest = min(until for _, until in self._pending.values())
        seconds = self._build_seconds if soonest == math.inf else max(0.0, soonest - time.monotonic())
        limit = None if seconds == math.inf else seconds
        if not _import_ray().wait(list(self._pending), timeout=limit)[0] and soonest == math.inf:
            raise TimeoutError(f"collectors must find room on the cluster within {seconds:g} s, got none")

    def _read(self, reference: Any) -> tuple[int, Answer | Lost] | None:
        """What has come; ``None`` if it is no answer to an order."""
        ray, index = _import_ray(), self._pending.pop(reference)[0]
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if index in self._ready or not self._ready or self._kit is None:
                raise cause from error
            self._give_up(index, cause)
        except ray.exceptions.RayError as error:
            words = " ".join(str(error).split()).partition(" Some common causes")[0]
            return self._replace(index, f"{self._places.get(index, 'it')} died: {words}")
        else:
            if index in self._ready:
                return index, answer
            if index in self._places:
                self._ready.add(index)
            else:
                self._build(index, answer)
        return None

    def _end_hanging(self, reference: Any) -> tuple[int, Lost]:
        index, _ = self._pending.pop(reference)
        what = f"episodes within timeout={self.timeout:g} s" if index in self._ready else "environments in time"
        return self._replace(index, f"{self._places[index]} gave no {what}")

    def _replace(self, index: int, reason: str) -> tuple[int, Lost]:
        _end(self._actors[index])
        self._ready.discard(index)
        self._places.pop(index, None)
        self._make(index)
        return index, Lost(reason)

    def _give_up(self, index: int, error: Exception) -> None:
        """A replacement could not be made where it was put: the others go on."""
        _end(self._actors.pop(index))
        warnings.warn(f"collector {index} cannot be replaced, {len(self._actors)} continue: {error}", stacklevel=2)

    def states(self, index: int) -> list[Any] | None:
        """
        The states of a collector's environments between two orders.

        :param index: of the collector
        """
        ray = _import_ray()
        try:
            return ray.get(self._actors[index].get_states.remote(), timeout=self.timeout)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):  # it is replaced with the next order
            return None


def _end(actor: Any) -> None:
    ray = _import_ray()
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(f'RayCollectors needs Ray ({error}): pip install "sb3-metra[distributed]"') from error
    return ray


def _make_actor_class() -> type:
    """A class inside a function is sent whole: a node that lacks this package can still say so."""

    class RayCollector:
        """A collector on the node that Ray chose."""

        def place(self) -> str:
            """Where it is; nothing is imported yet, so that this comes once there is room."""
            import os
            import platform

            return f"process {os.getpid()} on {platform.node()}"

        def build(self, payload: bytes, version: str, threads: int) -> None:
            """Make the collector; an error in the constructor would only say that the actor died."""
            import pickle
            import platform

            here = platform.node()
            try:
                import sb3_metra
                from sb3_metra.collectors.collector import Collector
            except ImportError as error:
                raise RuntimeError(f"{here} must have sb3_metra, as the learner has: {error}") from None
            if sb3_metra.__version__ != version:
                raise RuntimeError(
                    f"{here} must have sb3_metra {version}, as the learner has, got {sb3_metra.__version__}"
                )
            import torch

            torch.set_num_threads(threads)
            try:
                kit = pickle.loads(payload)
            except Exception as error:
                raise ValueError(f"env and policy must be known on {here}: {type(error).__name__}: {error}") from None
            self.collector = Collector(kit)

        def collect(self, order: Any, weights: Any) -> Any:
            """Run an order's episodes."""
            return self.collector.collect(order, weights)

        def get_states(self) -> Any:
            """The states of the environments."""
            return self.collector.get_states()

    return RayCollector
