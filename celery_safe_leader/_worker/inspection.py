"""``celery inspect leader``: a worker's answer.

Celery also looks the command up in the process that asks. So everything that an app or the command
line imports of this package imports this module, which registers the command at import.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from celery_safe_leader._runtime.inspection import HELP, candidate_answer, nonmember_answer
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader.conf import leader_names

__all__ = ["leader"]

_NOT_INSTALLED = (
    "no election in this worker: call celery_safe_leader.install(app) in the module that makes "
    "the app"
)


def leader(state: Any, **_: Any) -> dict[str, Any]:
    """Return what this worker knows of its election, without IO."""
    step = getattr(state.consumer, "safe_leader", None)
    if step is None:
        return {"error": _NOT_INSTALLED}
    if step.leader is None:
        election = ElectionKeys(leader_names(state.app)[0], WORKER).election
        answer = nonmember_answer(election)
    else:
        answer = candidate_answer(step.leader, step.last_error)
    return {**answer, "consumes": step.queue.consumed}


inspect_command(help=HELP)(leader)
