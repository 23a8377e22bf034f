"""Collectors in this process, one after the other: no faster, but easy to inspect."""

from __future__ import annotations

import copy

from sb3_metra.collectors.collector import Collector
from sb3_metra.common.collectors import Answer, Collectors, Kit, Lost, Order, Weights


class LocalCollectors(Collectors):
    """
    Collectors in this process, for tests and to find a fault of an environment without Ray.

    Parameters: see :class:`~sb3_metra.common.collectors.Collectors`.
    """

    _collectors: list[Collector] = []  # noqa: RUF012  # replaced, never changed

    def _open(self, kit: Kit) -> None:
        self._sent: list[tuple[int, Order, Weights]] = []
        self._collectors = [Collector(copy.deepcopy(kit)) for _ in range(self.n)]

    def _close(self) -> None:
        for collector in self._collectors:
            collector.close()
        self._collectors = []

    def ready(self) -> list[int]:
        """Which collectors are there, by index."""
        return list(range(len(self._collectors)))

    def send(self, index: int, order: Order, weights: Weights) -> None:
        """
        Give an order to a collector that has none.

        :param index: of the collector
        :param order: the order
        :param weights: of the actor
        """
        self._sent.append((index, order, weights))

    def _receive(self, wait: bool) -> list[tuple[int, Answer | Lost]]:
        """The oldest order is run only if there is nothing else to do."""
        if not wait:
            return []
        index, order, weights = self._sent.pop(0)
        return [(index, self._collectors[index].collect(order, weights))]

    def states(self, index: int) -> list | None:
        """
        The states of a collector's environments.

        :param index: of the collector
        """
        return self._collectors[index].get_states()
