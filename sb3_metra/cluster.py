"""The way to a Ray cluster."""

from __future__ import annotations

import logging
import socket

import ray

_CONNECT_SECONDS = 5.0


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
    if address is None:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return True
    try:
        if address != "auto":
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} must be that of a running Ray cluster, got {address!r}: {reason}") from error
    return True
