"""Publication: what is asked before each write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any, cast

import pytest

from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.ways.publication import WriteAhead
from celery_safe_leader.errors import StoreUnavailableError


class _Looked(list[Run]):
    """Runs that count how often all of them are gone through."""

    times = 0

    def __iter__(self) -> Iterator[Run]:
        self.times += 1
        return super().__iter__()


class _OneByOne:
    """An outbox whose broker takes messages one by one."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.looked = 0

    def send(self, runs: Sequence[Run], may_write: Callable[[], bool]) -> list[Any]:
        looked = _Looked(runs)
        if hasattr(may_write, "_runs"):
            may_write._runs = looked
        asked = [may_write() for _ in runs]
        self.looked = looked.times
        self.asked += asked
        for run, sent in zip(runs, asked, strict=True):
            if sent:
                run.to(RunState.SENT)
        return []

    def owe(self, failed: object) -> None:
        """Nothing failed."""


class _Ledger:
    """Records that claim, or fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.claims = 0
        self._error = error

    def claim(self, runs: Sequence[Run]) -> None:
        self.claims += 1
        if self._error:
            raise self._error
        for run in runs:
            run.to(RunState.CLAIMED)


def _runs(count: int) -> list[Run]:
    entries = [SimpleNamespace(name=f"entry-{number}", claim=None) for number in range(count)]
    nothing: Any = None
    return [Run(cast(Any, each), nothing, None, nothing, RunState.BUILT) for each in entries]


def test_claims_are_looked_at_once_however_many_messages_are_sent_one_by_one() -> None:
    ledger, outbox, runs = _Ledger(), _OneByOne(), _runs(50)
    WriteAhead(cast(Any, ledger), cast(Any, outbox), lambda: True).publish(runs, lambda: True)
    assert outbox.asked == [True] * 50
    assert ledger.claims == 1
    assert outbox.looked <= 2  # to claim them, and to see whether all are


def test_nothing_is_sent_without_a_claim_however_often_it_is_asked() -> None:
    ledger, outbox = _Ledger(StoreUnavailableError("127.0.0.1", "gone")), _OneByOne()
    way = WriteAhead(cast(Any, ledger), cast(Any, outbox), lambda: True)
    with pytest.raises(StoreUnavailableError):
        way.publish(_runs(3), lambda: True)
    assert outbox.asked == [False] * 3
    assert ledger.claims == 1


def test_each_message_asks_whether_the_tenure_goes_on() -> None:
    answers = chain([True], repeat(False))
    outbox, runs = _OneByOne(), _runs(3)
    way = WriteAhead(cast(Any, _Ledger()), cast(Any, outbox), lambda: next(answers))
    way.publish(runs, lambda: True)
    # Those that are claimed and were not sent are offered once more.
    assert outbox.asked == [True, False, False, False, False]
    assert [run.state for run in runs] == [RunState.SENT, RunState.CLAIMED, RunState.CLAIMED]
