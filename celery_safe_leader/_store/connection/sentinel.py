"""Where the master of a group is, by its Sentinels. Does no IO.

Settings mean what they mean to kombu and Celery, and to RedBeat where the URL is written as it
wants it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from celery_safe_leader._store.connection.discovery import InTurn, Question
from celery_safe_leader._store.connection.urls import Address, RedisUrl
from celery_safe_leader.errors import ConfigurationError

__all__ = ["Group", "Sentinels", "take_group"]


class Group(NamedTuple):
    """A master with its replicas, as Sentinels know it."""

    master_name: str
    sentinels: tuple[Address, ...]
    min_other_sentinels: int
    """A Sentinel that knows fewer others is not believed."""
    sentinel_kwargs: Mapping[str, Any]
    """Arguments of the connections to Sentinels: their own password and TLS."""


def take_group(url: RedisUrl, options: dict[str, Any], name: str) -> Group:
    """Take what belongs to Sentinels out of the options.

    Args:
        url: With mode ``sentinel``.
        options: Of the user; what is taken is removed.
        name: What the user calls them, for errors.

    Raises:
        ConfigurationError: Something is missing or of a wrong type.
    """
    master_name = options.pop("master_name", None)
    if url.redbeat:
        service_name = options.pop("service_name", "master")
        master_name = service_name if master_name is None else master_name
    if not isinstance(master_name, str) or not master_name:
        value = "not set" if master_name is None else repr(master_name)
        raise ConfigurationError(
            f"master_name of {name}", value, "the name by which the Sentinels know the master"
        )
    least = options.pop("min_other_sentinels", 0)
    if isinstance(least, bool) or not isinstance(least, int) or least < 0:
        raise ConfigurationError(
            f"min_other_sentinels of {name}", repr(least), "a whole number from 0"
        )
    kwargs = options.pop("sentinel_kwargs", None)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        shown = f"of type {type(kwargs).__name__}"
        raise ConfigurationError(f"sentinel_kwargs of {name}", shown, "a dict")
    given = options.pop("sentinels", None) if url.redbeat else None
    sentinels = url.nodes if not given else read_addresses(given, f"sentinels of {name}")
    return Group(master_name, sentinels, least, dict(kwargs or {}))


def read_addresses(given: object, name: str) -> tuple[Address, ...]:
    """Read pairs of host and port, or dicts or objects with them, as RedBeat's users write them.

    Raises:
        ConfigurationError: There is anything else.
    """
    allowed = "a list of pairs of a host and a port"
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise ConfigurationError(name, f"of type {type(given).__name__}", allowed)
    found: list[Address] = []
    for item in given:
        if isinstance(item, Mapping):
            host, port = item.get("host"), item.get("port")
        elif isinstance(item, Sequence) and not isinstance(item, (str, bytes)) and len(item) == 2:
            host, port = item
        else:
            host, port = getattr(item, "host", None), getattr(item, "port", None)
        if not isinstance(host, str) or not str(port).isdecimal():
            raise ConfigurationError(name, "a list with something else in it", allowed)
        found.append((host, int(str(port))))
    return tuple(found)


class Sentinels(InTurn):
    """Asks the Sentinels of a group."""

    told_by_servers = False
    nobody = "no Sentinel names a master"

    def __init__(self, group: Group) -> None:
        """Remember the group."""
        super().__init__(group.sentinels)
        self._group = group

    def _ask(self, address: Address) -> Generator[Question, Any, Address]:
        yield from self._check_others(address)
        name = self._group.master_name
        found = yield Question(address, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
        host, port = map(_text, found or ("", ""))
        if not port.isdecimal():
            raise redis.ConnectionError(f"knows no master named {name!r}")
        return host, int(port)

    def _check_others(self, sentinel: Address) -> Generator[Question, Any, None]:
        least = self._group.min_other_sentinels
        if not least:
            return
        reply = yield Question(sentinel, ("SENTINEL", "MASTER", self._group.master_name))
        fields = [_text(item) for item in reply]
        state = dict(zip(fields[::2], fields[1::2], strict=False))
        others = int(state.get("num-other-sentinels", 0))
        if others < least:
            raise redis.ConnectionError(f"knows {others} other Sentinels (min_other_sentinels)")

    def redirect(self, address: Address) -> None:
        """Servers of a group do not know each other."""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
