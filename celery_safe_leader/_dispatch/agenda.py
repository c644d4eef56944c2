"""When each entry is due next: a heap that costs nothing for entries that are not due."""

from __future__ import annotations

import heapq

__all__ = ["Agenda"]

_MOST_STALE = 64
"""So many stale places, and one for each name, are left in the heap before it is made anew."""


class Agenda:
    """Names in the order of their moments, each at most once. Not thread-safe.

    Putting a name again replaces its moment. Its old place stays in the heap and is skipped when
    it comes up, which is cheaper than finding it. Once most places are old ones, the heap is made
    anew: it holds at most twice as many places as there are names, and a few more.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._moments: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._moments)

    def put(self, name: str, moment_us: int | None) -> None:
        """Set the moment of ``name``; ``None``: never, until it is put again."""
        if moment_us is None:
            self.remove(name)
        elif self._moments.get(name) != moment_us:
            self._moments[name] = moment_us
            heapq.heappush(self._heap, (moment_us, name))
            self._bound_stale()

    def remove(self, name: str) -> None:
        """Remove ``name``, if it is there."""
        if self._moments.pop(name, None) is not None:
            self._bound_stale()

    def clear(self) -> None:
        """Remove all names."""
        self._heap.clear()
        self._moments.clear()

    def next_us(self) -> int | None:
        """Return the earliest moment, if there is any."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def first(self, most: int) -> list[tuple[int, str]]:
        """Return up to ``most`` moments and names, the earliest first. From any thread.

        While another thread changes the agenda, some of them may be out of date.
        """
        # The n earliest of a heap lie in its first n levels; one level more, since some are stale.
        places = self._heap[: 1 << (most + 1)]
        moments = self._moments
        return heapq.nsmallest(most, {at for at in places if moments.get(at[1]) == at[0]})

    def pop_due(self, until_us: int, most: int) -> list[tuple[int, str]]:
        """Remove and return up to ``most`` names with a moment up to ``until_us``.

        Returns:
            Moment and name of each, the earliest first.
        """
        due: list[tuple[int, str]] = []
        heap, moments = self._heap, self._moments
        while heap and len(due) < most and heap[0][0] <= until_us:
            place = heapq.heappop(heap)
            if moments.get(place[1]) == place[0]:  # else it is stale
                del moments[place[1]]
                due.append(place)
        return due

    def _drop_stale(self) -> None:
        heap = self._heap
        while heap and self._moments.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)

    def _bound_stale(self) -> None:
        if len(self._heap) > 2 * len(self._moments) + _MOST_STALE:
            self._heap = [(moment, name) for name, moment in self._moments.items()]
            heapq.heapify(self._heap)
