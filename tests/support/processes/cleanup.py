"""Context managers: what ends by its ``close()``, and what several things set up in turn."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

__all__ = ["CleansUp", "Closes"]

T = TypeVar("T", bound="Closes")


class Closes:
    """A context manager whose end is ``close()``."""

    def close(self) -> None:
        """End it."""
        raise NotImplementedError

    def __enter__(self: T) -> T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class CleansUp(Closes):
    """A context manager whose end is that of ``_cleanup``, which its beginning filled."""

    _cleanup: ExitStack

    def close(self) -> None:
        """End all that was set up, the last first."""
        self._cleanup.close()
