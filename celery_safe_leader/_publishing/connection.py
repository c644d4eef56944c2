"""The scheduler's own connection to the broker, on which nothing is ever sent twice.

Two layers like to repeat a write whose answer they did not get: kombu (``retry``) and redis-py
(``retry_on_timeout`` and the like). The copy would carry the nonce of the first, and both would
run. So this connection does not come from the app's pool, and has no such option.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qsl, urlencode

from amqp.exceptions import MessageNacked
from kombu.exceptions import OperationalError

__all__ = [
    "BatchPublishError",
    "broker_errors",
    "join_writes",
    "open_connection",
    "supports_batches",
]

try:
    from kombu.exceptions import BatchPublishError
except ImportError:  # kombu 5.4 to 5.6 cannot batch

    class BatchPublishError(Exception):  # type: ignore[no-redef]
        """Raised by nothing."""


_REPEATING = ("retry_on_timeout", "retry_on_error", "retry")
"""Options with which redis-py repeats a command. kombu does not batch if one of them is set."""


def open_connection(app: Any, timeout: float) -> Any:
    """Connect to the broker, trying each that is configured once.

    Args:
        app: The Celery app.
        timeout: Seconds that connecting, a read or a write may take, unless the app allows less.

    Returns:
        The ``kombu.Connection``, connected.

    Raises:
        OperationalError: No connection. Nothing was sent.
    """
    # The scheduler's loop sends no heartbeats while it sleeps. An idle connection is renewed
    # instead: see ``Publisher``.
    connection = app.connection_for_write(heartbeat=0)
    connection.connect_timeout = min(connection.connect_timeout or math.inf, timeout)
    connection.hostname = _without_repetition(connection.hostname)
    connection.alt = [_without_repetition(url) for url in connection.alt]
    options = connection.transport_options
    for name in _REPEATING:
        options.pop(name, None)
    kind = connection.get_transport_cls()
    if kind.driver_type == "redis":
        _limit(options, ("socket_timeout", "socket_connect_timeout"), timeout)
    elif kind.driver_name == "py-amqp":
        # Without it a write into the buffer of a dead connection looks like success.
        options["confirm_publish"] = True
        _limit(options, ("read_timeout", "write_timeout"), timeout)
    try:
        connection.ensure_connection(
            max_retries=max(1, len(connection.alt)), interval_start=0, interval_step=0
        )
    except BaseException:
        connection.release()
        raise
    return connection


def _limit(options: dict[str, Any], names: tuple[str, ...], timeout: float) -> None:
    for name in names:
        options[name] = min(options.get(name) or math.inf, timeout)


def _without_repetition(url: Any) -> Any:
    """Return a URL without the options that kombu passes to redis-py (``redis+socket://``)."""
    if not isinstance(url, str) or not any(f"{name}=" in url for name in _REPEATING):
        return url
    address, _, query = url.partition("?")
    kept = [pair for pair in parse_qsl(query) if pair[0] not in _REPEATING]
    return f"{address}?{urlencode(kept)}"


def supports_batches(producer: Any) -> bool:
    """Return whether a producer can send messages together (Redis, kombu 5.7 and later)."""
    return hasattr(producer, "batch") and bool(producer.supports_batch_publish)


def join_writes(pending: Any) -> None:
    """Join neighbours in a batch that go to the same queue into one command.

    ``LPUSH queue a b`` does what ``LPUSH queue a`` and ``LPUSH queue b`` do. For a hundred
    messages it takes client and server a fraction of the time, and either all arrive or none.

    The attributes are those of kombu 5.7.0 and redis-py 8.1.0. Where they are others, the batch
    stays as it is.

    Args:
        pending: What the context of ``Producer.batch`` returned.
    """
    session = getattr(getattr(pending, "state", None), "session", None)
    pipeline = getattr(session, "pipeline", None)
    commands = getattr(pipeline, "command_stack", None)
    if not isinstance(commands, list):
        return
    joined: list[list[Any]] = []
    for command in commands:
        try:
            (name, *values), options = command
        except (TypeError, ValueError):
            return
        is_push = name == "LPUSH" and len(values) == 2 and not options
        if is_push and joined and joined[-1][:2] == [name, values[0]]:
            joined[-1].append(values[1])
        elif is_push:
            joined.append([name, *values])
        else:
            return
    commands[:] = [(tuple(args), {}) for args in joined]


def broker_errors(connection: Any) -> tuple[type[BaseException], ...]:
    """Return what the broker or the network raises, as opposed to a mistake in a message."""
    named = (*connection.connection_errors, *connection.channel_errors)
    # kombu lists KeyError for the sake of consumers; a task class may raise it any time.
    raised = [kind for kind in named if kind is not KeyError]
    return (*raised, BatchPublishError, OperationalError, MessageNacked, OSError)
