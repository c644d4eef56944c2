"""When each entry is due next: a heap that costs nothing for entries that are not due."""

from __future__ import annotations

import heapq

__all__ = ["Agenda"]


class Agenda:
    """Names in the order of their moments, each at most once. Not thread-safe.

    Putting a name again replaces its moment: the old place in the heap stays, and is passed over
    when it comes up, which is cheaper than finding it.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._heap: list[tuple[int, str]] = []
        self._moments: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._moments)

    def put(self, name: str, moment_us: int | None) -> None:
        """Set when ``name`` is due; ``None``: never, until it is put again."""
        if moment_us is None:
            self._moments.pop(name, None)
        elif self._moments.get(name) != moment_us:
            self._moments[name] = moment_us
            heapq.heappush(self._heap, (moment_us, name))

    def remove(self, name: str) -> None:
        """Forget ``name``."""
        self._moments.pop(name, None)

    def next_us(self) -> int | None:
        """Return the earliest moment."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def take(self, until_us: int, most: int) -> list[str]:
        """Remove and return up to ``most`` names that are due, the longest due first."""
        names: list[str] = []
        while len(names) < most:
            self._drop_stale()
            if not self._heap or self._heap[0][0] > until_us:
                break
            _, name = heapq.heappop(self._heap)
            del self._moments[name]
            names.append(name)
        return names

    def _drop_stale(self) -> None:
        heap = self._heap
        while heap and self._moments.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
