"""What may stand where a record should: of any type, with any fields and values."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from celery_safe_leader._core.messages import Request
from celery_safe_leader.errors import StoreError
from tests.model.election.fleet import Node, Outcome
from tests.model.election.simulation import Simulation
from tests.model.election.sites import Sites

__all__ = ["KEPT", "LONG", "HostileWorld", "hashes", "values"]

KEPT = b"<what stood there>"
LONG = b"<very much>"
_NUMBERS = (
    *("", "0", "-0", "1", "-1", "nan", "inf", "-inf", "1e308", "1e999", "0x10"),
    *(" 7 ", "7.9", "²", "٣"),
    *map(str, (2**31, 2**51, 2**52, 2**53 - 2, 2**53 - 1, 2**53, 2**53 + 1, 2**64, 10**400)),
)
_TEXTS = (b"\xff\xfe", b"\x00", b"a|b", b"\r\n", b"{}", b"1|1", "läden".encode())
_OURS = re.compile(rb"-\d{7,}\Z")
FIELDS = ("holder", "token", "renewal", "resigned", "ttl", "epoch", "version", "")


def values() -> st.SearchStrategy[bytes]:
    """Return values of a field: numbers at the edges, texts that break, what stood there."""
    return st.one_of(
        st.sampled_from([each.encode() for each in _NUMBERS]),
        st.sampled_from([KEPT, LONG, *_TEXTS]),
        st.binary(max_size=40),
    )


def hashes() -> st.SearchStrategy[dict[str, bytes]]:
    """Return hashes with some of the fields, also those of other releases."""
    # A ttl up to a day is believed, and would be waited for.
    ttls = st.sampled_from([KEPT, b"", b"x", b"-5", b"-0", b"nan", b"0", b"1e3", b"2500", b"4000"])
    field = st.sampled_from([name for name in FIELDS if name != "ttl"])
    chosen = st.dictionaries(field, values(), max_size=7)
    return st.builds(
        lambda some, ttl: {**some, **ttl}, chosen, st.dictionaries(st.just("ttl"), ttls)
    )


class HostileWorld(Simulation):
    """A fleet whose record somebody writes to."""

    def __init__(self, sites: Sites, seed: int) -> None:
        super().__init__(sites, seed)
        self.errors: list[str] = []
        self._stood: set[tuple[bytes, ...]] = set()

    def deliver(self, node: Node, request: Request, outcome: Outcome) -> None:
        if isinstance(outcome, StoreError):
            self.errors.append(str(outcome))
        super().deliver(node, request, outcome)

    def write(self, fields: dict[str, bytes], *, overlay: bool) -> None:
        """Write a hash in the place of the record, or over it."""
        client = self.sites.master.client
        before: dict[bytes, bytes] = self._before()
        written: dict[Any, bytes] = {}
        for name, value in fields.items():
            meant = {KEPT: before.get(name.encode(), b""), LONG: b"x" * 100_000}
            written[name] = meant.get(value, value)
        if not overlay:
            client.delete(self.keys.lease)
        if written:
            client.hset(self.keys.lease, mapping=written)
        stands = self._before()
        if stands.get(b"resigned") == b"1" and before.get(b"resigned") != b"1":
            # Who writes that the leader resigned speaks in its name. That nothing can tell.
            client.hset(self.keys.lease, "epoch", "another")
            stands = self._before()
        # Who brings back to the last byte what a standby saw long ago, between two of its looks,
        # lets it believe that nothing happened. Only a copy of the key can do that: a hash without
        # a renewal of the election's own gets one.
        names = (b"epoch", b"token", b"renewal", b"resigned")
        version = tuple(stands.get(name, b"") for name in names)
        is_ours = _OURS.search(stands.get(b"renewal", b""))
        if stands != before and is_ours and version in self._stood:
            client.hset(self.keys.lease, "renewal", f"again {len(self._stood)}")
            version = tuple(self._before().get(name, b"") for name in names)
        self._stood.add(version)
        self._hostile(f"a record with {sorted(written)}, overlay {overlay}")

    def _before(self) -> dict[bytes, bytes]:
        client = self.sites.master.client
        there = client.type(self.keys.lease) == b"hash"
        return client.hgetall(self.keys.lease) if there else {}

    def replace(self, kind: str) -> None:
        """Put something else in the place of one of the keys."""
        client = self.sites.master.client
        what, _, where = kind.partition(" ")
        name = getattr(self.keys, where)
        client.delete(name)
        if what == "string":
            client.set(name, "x")
        elif what == "list":
            client.rpush(name, "x")
        elif what == "set":
            client.sadd(name, "x")
        elif what == "hash":
            client.hset(name, "x", "y")
        elif what == "stream":
            client.xadd(name, {"x": "y"}, id="18446744073709551615-18446744073709551615")
        self._hostile(f"a {what} as {where}")

    def remove(self) -> None:
        """Do what the message says: delete the key."""
        self.sites.master.client.delete(self.keys.lease)
        self._hostile("the key is deleted")

    def _hostile(self, what: str) -> None:
        self.note(f"somebody writes {what}")
        self.judge.losses += 1
        # Tokens go on from what was written, and from the clock once that is lost.
        self.judge._last_token = 0

    @property
    def broken(self) -> bool:
        """Whether no script can work with the record."""
        return self.sites.master.client.type(self.keys.lease) not in (b"hash", b"none")
