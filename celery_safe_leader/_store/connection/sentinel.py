"""Finds the master of a group by asking its Sentinels. Does no IO.

Settings have the meaning that they have in kombu and Celery, or in RedBeat if the URL is written
in its form.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from celery_safe_leader._store.connection.discovery import Question, SequentialFinder
from celery_safe_leader._store.connection.urls import Address, RedisUrl
from celery_safe_leader.errors import ConfigurationError

__all__ = ["SentinelGroup", "Sentinels", "pop_sentinel_group", "read_addresses"]


class SentinelGroup(NamedTuple):
    """A master with its replicas, as Sentinels know it."""

    master_name: str
    sentinels: tuple[Address, ...]
    min_other_sentinels: int
    """A Sentinel that knows fewer others is not trusted."""
    sentinel_kwargs: Mapping[str, Any]
    """Arguments of the connections to Sentinels: their own password and TLS."""


def pop_sentinel_group(url: RedisUrl, options: dict[str, Any], name: str) -> SentinelGroup:
    """Remove the options for Sentinels from the options, and return the group that they name.

    Args:
        url: With mode ``sentinel``.
        options: Of the user; changed.
        name: The user's name for them, for errors.

    Raises:
        ConfigurationError: An option is missing or has a wrong type.
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
            f"min_other_sentinels of {name}", repr(least), "a whole number, 0 or more"
        )
    kwargs = options.pop("sentinel_kwargs", None)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        shown = f"of type {type(kwargs).__name__}"
        raise ConfigurationError(f"sentinel_kwargs of {name}", shown, "a dict")
    given = options.pop("sentinels", None) if url.redbeat else None
    sentinels = url.nodes if not given else read_addresses(given, f"sentinels of {name}")
    return SentinelGroup(master_name, sentinels, least, dict(kwargs or {}))


def read_addresses(given: object, name: str) -> tuple[Address, ...]:
    """Return addresses given as pairs of host and port, or as dicts or objects, as in RedBeat.

    Raises:
        ConfigurationError: Something else is among them.
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


class Sentinels(SequentialFinder):
    """Finds the master by asking the Sentinels of a group."""

    wrong_server_says_so = False
    nobody_knew = "no Sentinel names a master"

    def __init__(self, group: SentinelGroup) -> None:
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
        """Do nothing: servers of a group do not redirect."""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
