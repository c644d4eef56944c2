"""Whether kombu's commands for a message can be collected on a connection.

Forks and subclasses of kombu's transport may send a message whatever they are given to collect it
with. So the methods that decide have to be kombu's own, told without calling any.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import kombu
import kombu.messaging
import kombu.transport.redis
import kombu.transport.virtual.base
import kombu.utils.json
import redis
from kombu.messaging import Producer

from celery_safe_leader._ledger.publications import Push
from celery_safe_leader._publishing.collector import (
    MessageCollector,
    collecting,
    make_collector,
)
from celery_safe_leader._publishing.connection import supports_batches

__all__ = ["collector_for", "why_not_connecting", "writes_alike"]

_OWN: tuple[tuple[str, Any, Any], ...] = (
    ("_put", kombu.transport.redis.Channel, kombu.transport.redis),
    ("_put_fanout", kombu.transport.redis.Channel, kombu.transport.redis),
    ("basic_publish", kombu.transport.virtual.base.Channel, kombu.transport.virtual.base),
)
"""Methods of a channel, the class that has to have them, and its module."""


def why_not_connecting(connection: Any) -> str:
    """Return why no connection to this broker can collect; empty if one might.

    Args:
        connection: A ``kombu.Connection``, connected or not.
    """
    if not hasattr(Producer, "batch"):
        return f"kombu {kombu.__version__} cannot collect messages, which takes 5.7 or later"
    transport = connection.get_transport_cls()
    if transport.driver_type != "redis":
        return f"the broker is not Redis ({transport.driver_name})"
    if not issubclass(transport, kombu.transport.redis.Transport):
        return "the broker is not a Redis that kombu's own transport connects to"
    # The URLs of Sentinels are not those of brokers.
    is_sentinel = transport is kombu.transport.redis.SentinelTransport and all(
        str(url).startswith("sentinel:") for url in connection.alt
    )
    if len(set(connection.alt)) > 1 and not is_sentinel:
        return "there is more than one broker URL"
    return ""


def collector_for(producer: Any) -> MessageCollector | str:
    """Return what collects the messages of a producer, or why they cannot be collected.

    Args:
        producer: Connected to a broker against which ``why_not_connecting`` has nothing.
    """
    reason = _why_not_producer(producer) or _why_not_channel(producer.channel)
    if not reason and not supports_batches(producer):
        reason = "its connection repeats commands"
    if reason:
        return reason
    collector = make_collector(producer)
    return _why_not_trial(collector) or collector


def writes_alike(producer: Any) -> bool:
    """Return whether nobody but kombu is called for a message to a queue by its name.

    Then messages that are alike may be written alike: see ``envelopes``. Cheap, to be asked again
    and again: tools that trace may be switched on at any time.

    Args:
        producer: Of which ``collector_for`` has returned a collector.
    """
    virtual = kombu.transport.virtual.base
    owners: tuple[tuple[Any, Any, Any, tuple[str, ...]], ...] = (
        (producer, Producer, kombu.messaging, _WRITING),
        (producer.channel, kombu.transport.redis.Channel, kombu.transport.redis, _PUTTING),
        (producer.channel, virtual.Channel, virtual, _PREPARING),
    )
    dumps: Any = kombu.utils.json.dumps
    if vars(kombu.transport.redis).get("dumps") is not dumps or not _is_of(dumps, kombu.utils.json):
        return False
    return all(
        _is_own(holder, name, kind, module)
        for holder, kind, module, names in owners
        for name in names
    )


_WRITING = ("publish", "_publish", "_prepare", "_delivery_details")
_PUTTING = ("_put", "_q_for_pri", "priority")
_PREPARING = (
    "basic_publish", "prepare_message", "_inplace_augment_message", "encode_body",
    "_get_message_priority", "_next_delivery_tag",
)  # fmt: skip


def _why_not_channel(channel: Any) -> str:
    kind = _name(type(channel))
    for name, owner, module in _OWN:
        if not _is_own(channel, name, owner, module):
            return f"the transport's {kind} has a {name} of its own"
    with channel.conn_or_acquire() as client:
        if type(client) not in (redis.Redis, kombu.transport.redis.PrefixedStrictRedis):
            return f"the transport's {kind} has a client of its own"
    return ""


def _why_not_producer(producer: Any) -> str:
    # Tracing tools replace ``publish`` in kombu's class and call the original, which is fine.
    for name in ("publish", "batch", "_publish"):
        if inspect.getattr_static(producer, name) is not vars(Producer)[name]:
            return f"the producer {_name(type(producer))} has a {name} of its own"
    if not _is_own(producer, "_publish", Producer, kombu.messaging):
        return "something has replaced kombu's Producer._publish"
    return ""


def _is_own(holder: Any, name: str, kind: Any, module: Any) -> bool:
    """Return whether a method is that of a class of kombu, and nobody has replaced it there."""
    found = inspect.getattr_static(holder, name, None)
    return found is kind.__dict__.get(name) and _is_of(found, module)


def _is_of(found: Any, module: Any) -> bool:
    return type(found) is FunctionType and found.__code__.co_filename == module.__file__


def _why_not_trial(collector: MessageCollector) -> str:
    """Collect a message that is not sent; return what is wrong with what came out."""
    try:
        with collecting(collector):
            collector.producer.publish(
                b"trial",
                content_type="application/data",
                content_encoding="binary",
                exchange="",
                routing_key="trial",
                retry=False,
            )
            found = collector.take()
    except Exception as exc:
        # Without its message, which may hold a secret.
        return f"collecting a trial message raised {type(exc).__name__}"
    if isinstance(found, Push) and not found.expiries:
        return ""
    return "a trial message did not come out as one LPUSH"


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
