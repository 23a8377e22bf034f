"""Connecting to a Ray cluster, and whether it has room."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Mapping, Sequence

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die

_CONNECT_SECONDS = 5.0
_PARTS = 10_000  # in which Ray counts a resource
_MOST_KINDS = 5  # of nodes in an error


def connect(name: str, address: str | None) -> bool:
    """
    Connect to Ray, unless this process is connected.

    :param name: of the argument that holds the address
    :param address: of a cluster, ``auto`` for the one that this machine belongs to; ``None``: one on this machine
    :return: whether this call did it: then ``ray.shutdown()`` ends it
    :raises ValueError: if the cluster cannot be reached
    """
    if ray.is_initialized():
        return False
    if address is None:  # "local", or Ray would join a cluster that it has heard of on this machine
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return True
    try:
        found = canonicalize_bootstrap_address_or_die(address) if address == "auto" else address
        host, _, port = found.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()  # Ray would wait for minutes
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} must be the address of a running Ray cluster, got {address!r}: {reason}") from error
    return True


def live_nodes() -> list[dict[str, float]]:
    """Resources of each node that is alive, by name: all that it has, whoever uses it now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_room(
    nodes: Sequence[Mapping[str, float]], name: str, n: int, num_cpus: float, own: Mapping[str, float] | None = None
) -> None:
    """
    Refuse what would wait forever, because it would not fit on an empty cluster.

    :param nodes: resources of each node, by name
    :param name: of the argument that holds the number of collectors
    :param n: number of collectors, which may be on different nodes
    :param num_cpus: CPUs of each collector
    :param own: what a trial takes itself, all on one node: ``CPU`` and ``GPU``
    :raises ValueError: if there is no room
    """
    asked = {kind: x for kind, x in (own or {}).items() if x}
    hosts = [node for node in nodes if all(_parts(node.get(kind, 0.0)) >= _parts(x) for kind, x in asked.items())]
    if not hosts:
        words = " and ".join(f"{kind.lower()}s" for kind in asked)
        got = " and ".join(f"{x:g}" for x in asked.values())
        raise ValueError(f"{words} must fit on one node of the cluster ({_describe(nodes)}), got {got}")
    if not (each := _parts(num_cpus)):
        return
    cpus = asked.get("CPU", 0.0)
    taken = min(_places(node, each) - _places(node, each, cpus) for node in hosts)  # on the best host
    if n > (most := sum(_places(node, each) for node in nodes) - taken):
        beside = f" beside the trial's own {cpus:g}" if cpus else ""
        raise ValueError(
            f"{name} must be at most {most}, with {num_cpus:g} CPUs each{beside}, to fit on the nodes of the cluster "
            f"({_describe(nodes)}), got {n}"
        )


def _places(node: Mapping[str, float], each: int, taken: float = 0.0) -> int:
    return (_parts(node.get("CPU", 0.0)) - _parts(taken)) // each


def _parts(x: float) -> int:
    return round(x * _PARTS)


def _describe(nodes: Sequence[Mapping[str, float]]) -> str:
    """Such as ``2 x 16 CPUs, 1 x 4 CPUs and 1 GPUs``, the largest first."""
    kinds = Counter((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes)
    words = [
        f"{count} x {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        for (cpus, gpus), count in sorted(kinds.items(), reverse=True)
    ]
    return ", ".join(words[:_MOST_KINDS] + ["..."] * (len(words) > _MOST_KINDS))
