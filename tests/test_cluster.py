"""The way to a cluster, and room on it: what cannot fit is refused, counted by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("ray")

import ray

from sb3_metra.cluster import check_room, connect

THREES = [{"CPU": 3.0}, {"CPU": 3.0}]
GPU_APART = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]


def test_a_cluster_that_has_ended_is_not_waited_for_nor_taken_for_a_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable, as Ray's own note of the last cluster, leads nowhere."""
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **kwargs: begun.append(kwargs))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match=r"--address must be the address of a running .*, got 'auto': .*refused"):
        connect("--address", "auto")
    assert begun == []
    assert connect("--address", None)
    assert begun[0]["address"] == "local"


@pytest.mark.parametrize(
    ("nodes", "num_cpus", "own", "most"),
    [
        (THREES, 2, {}, 2),  # one on each node, of 6 CPUs
        (THREES, 1.5, {}, 4),
        (THREES, 4, {}, 0),
        (THREES, 2, {"CPU": 1.0}, 2),  # the trial takes what is left of a node
        (THREES, 2, {"CPU": 2.0}, 1),
        ([{"CPU": 5.0}, {"CPU": 4.0}], 2, {"CPU": 1.0}, 4),  # on the first node, or there are three
        ([{"CPU": 4.0}, {"CPU": 5.0}], 2, {"CPU": 1.0}, 4),
        (GPU_APART, 2, {"CPU": 1.0, "GPU": 1.0}, 2),  # on the second node, which is full then
        (GPU_APART, 2, {"CPU": 1.0, "GPU": 0.0}, 2),
        (GPU_APART, 1, {"CPU": 2.0, "GPU": 0.5}, 4),
        ([{"CPU": 0.3}], 0.1, {}, 3),  # 0.3 // 0.1 is 2
        ([{"GPU": 1.0}, {"CPU": 1.0}], 1, {}, 1),
    ],
)
def test_as_many_collectors_as_fit_on_the_nodes(
    nodes: list[dict[str, float]], num_cpus: float, own: dict[str, float], most: int
) -> None:
    check_room(nodes, "n", most, num_cpus, own)
    with pytest.raises(ValueError, match=f"n must be at most {most}, with {num_cpus:g} CPUs each.*, got {most + 1}$"):
        check_room(nodes, "n", most + 1, num_cpus, own)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"CPU": 5.0, "GPU": 0.0}, "cpus must 5"),
        ({"CPU": 3.0, "GPU": 1.0}, "cpus and gpus must 3 and 1"),
        ({"CPU": 1.0, "GPU": 2.0}, "cpus and gpus must 1 and 2"),
    ],
)
def test_a_trial_is_on_one_node(own: dict[str, float], message: str) -> None:
    told = "must fit on one node of the cluster (1 x 4 CPUs, 1 x 2 CPUs and 1 GPUs), got"
    with pytest.raises(ValueError, match=re.escape(message.replace("must", told)) + "$"):
        check_room(GPU_APART, "collectors", 0, 0.0, own)


def test_the_sentence_names_the_argument_what_came_and_what_fits() -> None:
    sentence = (
        "collectors must be at most 2, with 2 CPUs each beside the trial's own 1, to fit on the nodes of the cluster "
        "(2 x 3 CPUs), got 3"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        check_room(THREES, "collectors", 3, 2, {"CPU": 1.0, "GPU": 0.0})


def test_collectors_that_take_nothing_always_fit_and_many_kinds_of_nodes_are_not_all_told() -> None:
    check_room(THREES, "n", 1000, 0)
    with pytest.raises(ValueError, match=r"\(1 x 7 CPUs, 1 x 6 CPUs, 1 x 5 CPUs, 1 x 4 CPUs, 1 x 3 CPUs, \.\.\.\)"):
        check_room([{"CPU": float(x)} for x in range(1, 8)], "n", 1, 8)
