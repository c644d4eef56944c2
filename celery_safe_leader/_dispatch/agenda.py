"""When each entry is due next: a heap that costs nothing for entries that are not due."""

from __future__ import annotations

import heapq

__all__ = ["Agenda"]


class Agenda:
    """Names in the order of their moments, each at most once. Not thread-safe.

    Putting a name again replaces its moment. Its old place stays in the heap and is skipped when
    it comes up, which is cheaper than finding it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._moments: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._moments)

    def put(self, name: str, moment_us: int | None) -> None:
        """Set the moment of ``name``; ``None``: never, until it is put again."""
        if moment_us is None:
            self._moments.pop(name, None)
        elif self._moments.get(name) != moment_us:
            self._moments[name] = moment_us
            heapq.heappush(self._heap, (moment_us, name))

    def remove(self, name: str) -> None:
        """Remove ``name``, if it is there."""
        self._moments.pop(name, None)

    def clear(self) -> None:
        """Remove all names."""
        self._heap.clear()
        self._moments.clear()

    def next_us(self) -> int | None:
        """Return the earliest moment, if there is any."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, until_us: int, most: int) -> list[tuple[int, str]]:
        """Remove and return up to ``most`` names with a moment up to ``until_us``.

        Returns:
            Moment and name of each, the earliest first.
        """
        due: list[tuple[int, str]] = []
        while len(due) < most:
            self._drop_stale()
            if not self._heap or self._heap[0][0] > until_us:
                break
            place = heapq.heappop(self._heap)
            del self._moments[place[1]]
            due.append(place)
        return due

    def _drop_stale(self) -> None:
        heap = self._heap
        while heap and self._moments.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
