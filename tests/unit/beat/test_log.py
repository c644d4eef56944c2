"""What a beat says of its election."""

from __future__ import annotations

import logging

import pytest
from celery import Celery
from redis.exceptions import AuthenticationError, ResponseError

from celery_safe_leader import conf
from celery_safe_leader._beat.log import BeatElectionLog
from celery_safe_leader._beat.membership import Membership
from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    Event,
    HolderSeen,
    StoreFailed,
)
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._store.errors import translate
from celery_safe_leader.errors import StoreUnavailableError
from tests.support.clock import Clock
from tests.support.processes.waiting import wait_until

SERVER = "redis://redis.internal:6379/0"
PLACE = f"{SERVER} (broker_url)"
DEADLINE = Instant(1.0, 1.0, 1.0)
FAILURE = StoreUnavailableError("{leader:shop}:beat:lease", "no answer")


def refused(text: str, kind: type[Exception] = ResponseError) -> Exception:
    """What the store raises for words of Redis."""
    return translate("{leader:shop}:beat:lease", kind(text))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("celery_safe_leader._runtime.election_log.time", clock)
    return clock


@pytest.fixture
def report(clock: Clock, caplog: pytest.LogCaptureFixture) -> BeatElectionLog:
    caplog.set_level(logging.INFO)
    app = Celery("shop", broker=SERVER.replace("//", "//me:hidden@"))
    return BeatElectionLog("shop:beat", conf.read(app), "me")


@pytest.mark.parametrize(
    ("event", "level", "parts"),
    [
        (Elected(7, DEADLINE), "INFO", ["Elected leader of shop:beat", "token 7", "ttl 10 s"]),
        (Demoted(7, DemotionReason.RESIGNED), "INFO", ["resigned", "token 7", "takes over"]),
        (Demoted(7, DemotionReason.SHUTDOWN), "INFO", ["resigned", "token 7", "takes over"]),
        (
            Demoted(7, DemotionReason.EXPIRED),
            "WARNING",
            ["token 7", PLACE, "ttl of 10 s", "dispatches nothing", "Check Redis"],
        ),
        (Demoted(7, DemotionReason.SUPERSEDED, "other"), "WARNING", ["token 7", "other leads"]),
        (Demoted(7, DemotionReason.RECORD_LOST), "WARNING", ["token 7", "record", "changed"]),
        (
            HolderSeen("other", 8, 10.1, False),
            "INFO",
            ["Standing by", "other leads", "token 8", "10.1 s"],
        ),
        (HolderSeen("", 8, 10.1, False), "INFO", ["no leader", "first start", "10.1 s"]),
        (StoreFailed(FAILURE, 3), "ERROR", ["shop:beat", PLACE, "trying again", "3 in a row"]),
        (
            StoreFailed(
                refused("WRONGPASS invalid username-password pair", AuthenticationError), 3
            ),
            "ERROR",
            [
                "shop:beat: Redis refuses the user name or password (WRONGPASS",
                f"Redis at {PLACE}. Correct the user or password in broker_url, or in Redis",
                "3 in a row",
            ],
        ),
        (
            StoreFailed(refused("NOAUTH Authentication required."), 3),
            "ERROR",
            ["Redis requires a password and none was given", "in broker_url, or in Redis"],
        ),
    ],
)
def test_each_transition_is_one_line_that_names_what_matters(
    event: Event,
    level: str,
    parts: list[str],
    report: BeatElectionLog,
    caplog: pytest.LogCaptureFixture,
):
    report(event)
    (record,) = caplog.records
    text = record.getMessage()
    assert record.levelname == level
    assert "\n" not in text
    assert all(part in text for part in parts), text
    assert "hidden" not in text
    if "password" in text:
        assert "nothing is lost" not in text


def test_seeing_oneself_or_a_resigned_leader_is_no_news(
    report: BeatElectionLog, caplog: pytest.LogCaptureFixture
):
    report(HolderSeen("me", 8, 10.1, False))
    report(HolderSeen("other", 8, 10.1, True))
    assert caplog.messages == []


def test_an_outage_is_an_error_once_a_minute_and_its_end_one_line(
    clock: Clock, report: BeatElectionLog, caplog: pytest.LogCaptureFixture
):
    for failures in range(1, 131):
        report(StoreFailed(FAILURE, failures))
        clock.now += 1
    assert len(caplog.records) == 3
    report(HolderSeen("other", 8, 10.1, False))
    report(HolderSeen("third", 9, 10.1, False))
    assert [f"Redis at {PLACE} answers again" == text for text in caplog.messages[3:]] == [
        True,
        False,
        False,
    ]


def test_a_second_outage_is_said_at_once(
    clock: Clock, report: BeatElectionLog, caplog: pytest.LogCaptureFixture
):
    for _ in range(2):
        report(StoreFailed(FAILURE, 1))
        report(Elected(7, DEADLINE))
    assert [record.levelname for record in caplog.records].count("ERROR") == 2


def test_a_refusal_in_an_outage_is_said_at_once_and_each_of_the_two_once_a_minute(
    report: BeatElectionLog, caplog: pytest.LogCaptureFixture
):
    for failures in range(1, 5):
        report(StoreFailed(FAILURE, failures))
        report(StoreFailed(refused("NOAUTH Authentication required."), failures))
    assert ["requires a password" in text for text in caplog.messages] == [False, True]


def test_the_library_says_no_failure_that_is_reported(caplog: pytest.LogCaptureFixture):
    app = Celery("shop", broker="redis://127.0.0.1:1/0")  # where nobody listens
    member = Membership(conf.read(app))
    member.join()
    try:
        wait_until(lambda: "in a row so far" in caplog.text, 10, lambda: caplog.text)
    finally:
        member.leave()
    said = [record.name for record in caplog.records if "trying again" in record.getMessage()]
    assert set(said) == {"celery_safe_leader.beat"}
