"""Receivers of the workers' signals: what one of them raises costs the others nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_safe_leader.signals import LeaderSignal, leader_demoted, leader_elected


@pytest.fixture(params=[leader_elected, leader_demoted], ids=lambda signal: signal.name)
def signal(request: pytest.FixtureRequest) -> Iterator[Any]:
    signal: Any = request.param
    before = list(signal.receivers)
    yield signal
    signal.receivers[:] = before
    signal.sender_receivers_cache.clear()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_one_raises_the_others_are_called_and_it_is_named(
    signal: LeaderSignal, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def leave(**_: Any) -> None:
        raise kind("out of here")

    def note(fencing_token: int, **_: Any) -> str:
        heard.append(fencing_token)
        return "noted"

    signal.connect(leave)
    signal.connect(note)
    responses = signal.send(sender="worker@here", fencing_token=7)
    assert heard == [7]
    assert [receiver for receiver, _ in responses] == [leave, note]
    assert isinstance(responses[0][1], kind)
    assert responses[1][1] == "noted"
    [record] = caplog.records
    assert (record.name, record.levelname) == ("celery_safe_leader.worker", "ERROR")
    assert f"of {signal.name} raised {kind.__name__}('out of here')" in record.getMessage()
    assert "leave" in record.getMessage()
    assert record.exc_info


def test_without_receivers_nothing_is_called(signal: LeaderSignal) -> None:
    assert signal.send(sender="worker@here", fencing_token=7) == []
