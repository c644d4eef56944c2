"""Which run of a batch is to blame for an error that nobody foresaw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["publish_isolated"]

_READY = (RunState.BUILT, RunState.GIVEN_UP)


def publish_isolated(
    publish: Callable[[Sequence[Run]], None], runs: Sequence[Run]
) -> list[tuple[Run, Exception]]:
    """Publish runs together; if that fails unexpectedly, in halves, so that only the culprit fails.

    A run may be tried again though it was published: the ledger compares.

    Args:
        publish: Publishes runs, and sets the state of each. What is left in a state that is ready
            was not published.
        runs: Of different entries.

    Returns:
        The runs that fail alone, with their errors.

    Raises:
        SafeLeaderError: What ``publish`` raises of this package's errors: these were foreseen.
        Exception: All of several runs fail: the process is at fault, not they.
    """
    failing = _search(publish, runs)
    if len(failing) == len(runs) > 1:
        raise failing[0][1]
    return failing


def _search(
    publish: Callable[[Sequence[Run]], None], runs: Sequence[Run]
) -> list[tuple[Run, Exception]]:
    try:
        publish(runs)
    except SafeLeaderError:
        raise
    except Exception as exc:
        if len(runs) == 1:
            return [(runs[0], exc)]
    else:
        return []
    failing = []
    middle = len(runs) // 2
    for half in (runs[:middle], runs[middle:]):
        left = [run for run in half if run.state in _READY]
        if left:
            failing += _search(publish, left)
    return failing
