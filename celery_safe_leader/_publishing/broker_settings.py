"""What the settings alone say about the broker: which way runs may go, and to which Redis keys.

Nothing here connects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kombu.common import Broadcast

from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._publishing.eligibility import why_not_connecting

__all__ = ["QueueKeys", "describe_way", "queue_keys", "why_write_ahead"]

_SEPARATOR = "\x06\x16"
"""kombu's, unless the transport option ``sep`` is another one."""


class QueueKeys(NamedTuple):
    """The queues of an app, and how kombu makes keys of their names."""

    names: tuple[str, ...]
    """Of the queues, sorted."""
    prefix: str = ""
    """Before each key: ``global_keyprefix``."""
    separator: str = _SEPARATOR
    """Between the name of a queue and a priority, for priorities other than 0."""


def why_write_ahead(app: Any) -> str:
    """Return why all runs of an app go by write-ahead, for people; empty if that is not certain.

    Does no IO and never raises: what is wrong with the broker's URL shows when beat connects.

    Args:
        app: The Celery app.
    """
    try:
        return why_not_connecting(app.connection_for_write())
    except Exception:
        logger.debug("the settings of the broker cannot be read", exc_info=True)
        return ""


def describe_way(app: Any) -> str:
    """Return a clause for beat's banner: which way its runs will take, as far as is known."""
    if reason := why_write_ahead(app):
        return f"write-ahead ({reason})"
    return "transactional if broker and ledger are one Redis database, else write-ahead"


def queue_keys(app: Any, *more: str) -> QueueKeys:
    """Return the queues that an app's periodic runs may go to. Does no IO.

    These are the queues of ``task_queues``, the default queue, and those named in ``task_routes``,
    by entries of ``beat_schedule`` and by tasks. A queue that only code names is not among them,
    nor is one whose messages go to every worker.

    Args:
        app: The Celery app, with its tasks imported.
        more: Names of more queues.
    """
    options = app.conf.broker_transport_options or {}
    known = dict(app.amqp.queues)
    fanned_out = {name for name, queue in known.items() if _is_fanned_out(queue)}
    named = {*known, *more, *map(_name, _named(app))} - fanned_out - {""}
    separator = options.get("sep", _SEPARATOR)
    prefix = options.get("global_keyprefix", "")
    return QueueKeys(tuple(sorted(named)), str(prefix or ""), str(separator))


def _is_fanned_out(queue: Any) -> bool:
    return isinstance(queue, Broadcast) or queue.exchange.type == "fanout"


def _named(app: Any) -> Iterator[Any]:
    yield from map(_of_route, _targets(app.conf.task_routes))
    for entry in (app.conf.beat_schedule or {}).values():
        options = entry.get("options") if isinstance(entry, Mapping) else None
        yield from map(_of_route, [options or {}])
    for task in app.tasks.values():
        yield getattr(task, "queue", None)


def _targets(routes: Any) -> Iterator[Any]:
    """Yield where routes lead, but for router functions, which only a message can be given to."""
    if isinstance(routes, Mapping):
        yield from routes.values()
    elif isinstance(routes, (list, tuple)):
        for route in routes:
            if isinstance(route, (list, tuple)) and len(route) == 2 and isinstance(route[0], str):
                yield route[1]
            else:
                yield from _targets(route)


def _of_route(route: Any) -> Any:
    return route.get("queue") if isinstance(route, Mapping) else route


def _name(queue: Any) -> str:
    """Return the name of a queue that is given by name or as a ``kombu.Queue``; else nothing."""
    name = queue if isinstance(queue, str) else getattr(queue, "name", "")
    return name if isinstance(name, str) else ""
