"""What it costs Redis that candidates say of themselves who they are, along with their requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from benchmarks.report import Report
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Campaign, Observe, Renew
from celery_safe_leader._store.codec import ScriptCall, encode, encode_looking, encode_saying
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from tests.support.servers import Server, installed_kinds

__all__ = ["main"]

_NOW = Instant(0.0, 0.0, 0.0)
_TTL = 10.0
_KEYS = ElectionKeys("bench", BEAT)
_SAYS = (
    '{"host":"worker-7f9c5d8b6-x2x9k","pid":1,"release":"0.1.0","ttl":10.0,"age":86400.123,'
    '"token":null,"celery":"5.6.0","scheduler":"LeaderScheduler","ticked":0.412}'
)
_LEADER_SAYS = (
    _SAYS[:-1] + ',"work":{"entries":1000,"unsettled":0,"published":123456,"given_up":0,'
    '"missed":0,"lateness":0.0012,"way":"transactional","next":['
    + ",".join(f'[1795803080915000,"an-entry-of-a-usual-length-{n}"]' for n in range(10))
    + "]}}"
)
_OBSERVES_EACH = 5
"""Observations within one ttl, of which one says something: a standby looks each fifth of it."""
_RENEWALS_EACH = 3
_PRUNE_EACH = 16
"""Of those that say something, one prunes."""
_CALLS = 240
"""In one piece: so few that many pieces fall between two disturbances. The best of each counts."""
_LIMIT = 10.0
"""Per cent."""


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Compare the scripts without and with it, piece by piece in turns, by Redis's own clock."""
    pieces = 150 if quick else 600
    rows = []
    with Server(installed_kinds()[0]) as server:
        for candidates in (1_000, 10_000):
            bench = _Bench(server, candidates)
            for name, plain, saying, pruning, each in bench.scripts():
                said = [pruning, *[saying] * (_PRUNE_EACH - 1)]
                rest = [plain] * (each - 1)
                turns = {
                    False: [plain] * (each * _PRUNE_EACH),
                    True: list(itertools.chain.from_iterable([one, *rest] for one in said)),
                }
                taken: dict[bool, list[float]] = {False: [], True: []}
                for number in range(2 * pieces):
                    # Each in turn first, so that what comes over the machine hits both.
                    says = number % 2 == (number // 2) % 2
                    mixed = turns[says] * (_CALLS // len(turns[says]))
                    taken[says].append(bench.microseconds(mixed))
                without, with_it = min(taken[False]), min(taken[True])
                more = 100 * (with_it / without - 1)
                rows.append(
                    (f"{candidates:,}", name, f"{without:.1f}", f"{with_it:.1f}", f"{more:+.1f} %")
                )
                report.at_most(
                    f"presence adds to `{name}` with {candidates:,} candidates", more, _LIMIT, " %"
                )
    report.table(("candidates", "script", "without, µs", "with, µs", "more"), rows)


class _Bench:
    """A leader's record and the candidates, and what is asked of them."""

    def __init__(self, server: Server, candidates: int) -> None:
        self._client: Any = server.client(decode_responses=False)
        self._client.flushall()
        self._names = [f"worker-{n:06}:1:0123abcd" for n in range(candidates)]
        seconds, micros = self._client.time()
        stamp = int(seconds) * 1_000_000 + int(micros)
        for start in range(0, candidates, 1000):
            values: Any = dict.fromkeys(self._names[start : start + 1000], f"{stamp} {_SAYS}")
            self._client.hset(_KEYS.presences, mapping=values)
        seen = self._run(encode(Observe(_NOW, "n", _TTL, 0), _KEYS))
        won = self._run(
            encode(Campaign(_NOW, seen[1].decode(), self._names[0], "n", _TTL, _TTL, 0), _KEYS)
        )
        self._token = int(won[4])

    def scripts(self) -> Iterable[tuple[str, ScriptCall, ScriptCall, ScriptCall, int]]:
        """Return name; call without it, with it, pruning; of how many one says something."""
        me = self._names[0]
        observe = encode(Observe(_NOW, "n", _TTL, self._token), _KEYS)
        says = (_KEYS, self._names[-1], _SAYS)
        saying, pruning = (encode_saying(observe, *says, cursor) for cursor in ("", "0"))
        yield "observe", observe, saying, pruning, _OBSERVES_EACH
        renew = encode_looking(Renew(_NOW, me, self._token, "n", _TTL, _TTL), _KEYS)
        says = (_KEYS, me, _LEADER_SAYS)
        saying, pruning = (encode_saying(renew, *says, cursor) for cursor in ("", "0"))
        yield "renew", renew, saying, pruning, _RENEWALS_EACH

    def microseconds(self, calls: list[ScriptCall]) -> float:
        """Return what a call takes, by the server's statistics, of all these one after another."""
        for call in set(calls):
            self._run(call)
        before = self._spent()
        for start in range(0, len(calls), 50):
            pipeline = self._client.pipeline(transaction=False)
            for call in calls[start : start + 50]:
                pipeline.execute_command("EVALSHA", *call.command)
            pipeline.execute()
        after = self._spent()
        return (after[1] - before[1]) / (after[0] - before[0])

    def _spent(self) -> tuple[int, int]:
        stats = self._client.info("commandstats").get("cmdstat_evalsha", {})
        return int(stats.get("calls", 0)), int(stats.get("usec", 0))

    def _run(self, call: ScriptCall) -> Any:
        return self._client.execute_command("EVAL", *call.full_command)
