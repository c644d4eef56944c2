"""The whole state of a world in bytes: worlds with equal bytes have the same futures.

It is all that any later step can depend on: every key of the server, the requests that may still
arrive, the clock, what workers took, and each leader's memory with the place where its program
stands: the suspended frames of its generators and their local variables. Whatever is of a kind not
known here is refused, so that nothing can be left out by mistake.

Left out on purpose is what no step reads: the trace, and Redis's clock in replies, of which every
moment of a world is an hour away. Nonces, marks and generations are compared and nothing else, so
they are numbered in the order in which they appear.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import redis

from celery_safe_leader._ledger.acceptance import LONG_LIFE_MS
from tests.model.ledger.clients import FaultyClient
from tests.model.ledger.leader import Leader
from tests.model.ledger.world import Message, World

__all__ = ["whole_state"]

_FRESH = re.compile(r"<\d+>")
_UNREAD = {("Written", "now"), ("Published", "now"), ("Snapshot", "now")}
"""Classes and fields: Redis's clock. Leaders of the model read none of them."""
_OF_LEADERS = {"world", "release", "name", "token"}
"""Attributes that are the same for the leader of each place."""

_EVERYTHING = """
local found = {}
local keys = redis.call('KEYS', '*')
table.sort(keys)
for i, key in ipairs(keys) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'string' then
    value = redis.call('GET', key)
  elseif kind == 'list' then
    value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'hash' then
    value = redis.call('HGETALL', key)
  else
    return redis.error_reply('not a kind of key that is known: ' .. kind)
  end
  found[i] = {key, kind, redis.call('PTTL', key), value}
end
return found
"""


def whole_state(world: World) -> bytes:
    """Return the state of a world whose nonces and random values are of the kind ``<7>``."""
    writer = _Writer()
    for key, kind, life_ms, value in world.client.eval(_EVERYTHING, 0):
        # No history takes so long that something expires; scripts only make lives longer.
        life = "" if life_ms < 0 else "long" if life_ms > LONG_LIFE_MS // 2 else "short"
        writer.write((key, kind, life, value))
    writer.write((world.now, world.has_failed, world.early))
    writer.write([_messages(world.taken), _messages(world.executed)])
    writer.write(world.late)
    for leader in world.leaders:
        writer.write(leader)
    numbers: dict[str, str] = {}
    text = " ".join(writer.parts)
    return _FRESH.sub(lambda found: numbers.setdefault(found[0], f"<{len(numbers)}>"), text).encode(
        "utf-8", "surrogatepass"
    )


def _messages(found: Mapping[str, Iterable[Message]]) -> list[Any]:
    """Return messages without their nonces, which the judge does not look at."""
    return sorted(
        (occurrence, [(m.entry, m.first, m.moment, m.is_once) for m in messages])
        for occurrence, messages in found.items()
        if messages
    )


class _Writer:
    """Writes values one after the other. Mutable ones that come again are written as such."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # else another object could get the id of one that is gone

    def write(self, value: Any) -> None:
        """Write a value.

        Raises:
            TypeError: It is of a kind that is not known.
        """
        if isinstance(value, Enum):
            self._put(f"{type(value).__qualname__}.{value.name}")
        elif value is None or isinstance(value, (bool, int, float, str, bytes)):
            self._put(repr(value))
        elif isinstance(value, (type, FunctionType)):
            self._put(value.__qualname__)
            self._all(cell.cell_contents for cell in getattr(value, "__closure__", None) or ())
        elif isinstance(value, ModuleType):
            self._put(value.__name__)
        elif isinstance(value, World):
            self._put("world")
        elif isinstance(value, redis.Redis):
            self._put("server")
        elif isinstance(value, (tuple, frozenset)):
            self._all(sorted(value) if isinstance(value, frozenset) else value)
        elif isinstance(value, MethodType):
            self._all((value.__self__, value.__name__))
        elif isinstance(value, BaseException):
            self._all((type(value), *value.args))
        elif getattr(getattr(value, "__dataclass_params__", None), "frozen", False):
            self._object(value)
        elif id(value) in self._places:
            self._put(f"#{self._places[id(value)]}")
        else:
            self._places[id(value)] = len(self._places)
            self._kept.append(value)
            self._mutable(value)

    def _mutable(self, value: Any) -> None:
        if isinstance(value, (list, deque)):
            self._all(value)
        elif isinstance(value, set):
            self._all(sorted(value))
        elif isinstance(value, dict):
            # In their order: leaders go through them.
            self._all(part for item in value.items() for part in item)
        elif isinstance(value, partial):
            self._all((value.func, value.args, value.keywords))
        elif isinstance(value, GeneratorType):
            self._generator(value)
        elif isinstance(value, FaultyClient):
            self._put(value.fault)
        elif isinstance(value, Leader) and not value.at:
            self._put("a leader that is over")
        elif type(value).__module__.split(".")[0] in _OURS:
            self._object(value)
        else:
            raise TypeError(f"{value!r} is of a kind that is not known to belong to a state")

    def _generator(self, generator: GeneratorType[Any, Any, Any]) -> None:
        frame = generator.gi_frame
        if frame is None:
            self._put("a generator that is over")
            return
        code = frame.f_code
        self._all((code.co_name, code.co_firstlineno, frame.f_lasti))
        self._all(part for item in sorted(frame.f_locals.items()) for part in item)
        self.write(generator.gi_yieldfrom)

    def _object(self, value: Any) -> None:
        kind = type(value)
        names = [field.name for field in fields(value)] if is_dataclass(value) else [*vars(value)]
        self._put(kind.__qualname__)
        for name in sorted(names):
            if (kind.__name__, name) in _UNREAD:
                continue
            if not (isinstance(value, Leader) and name in _OF_LEADERS):
                self._all((name, getattr(value, name)))

    def _all(self, values: Iterable[Any]) -> None:
        self._put("(")
        for each in values:
            self.write(each)
        self._put(")")

    def _put(self, text: str) -> None:
        self.parts.append(text)


_OURS = ("celery_safe_leader", "older_safe_leader", "tests")
