"""What several things set up in turn leave behind in one place."""

from __future__ import annotations

from contextlib import ExitStack

__all__ = ["CleansUp"]


class CleansUp:
    """A context manager whose end is that of ``_cleanup``, which its beginning filled."""

    _cleanup: ExitStack

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()
