"""Who reads what is sent to a leader, when, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue

import pytest

from celery_safe_leader._core.leader_request import (
    ResignRequest,
    decode_request,
    encode_request,
)
from celery_safe_leader._core.messages import Part, Received
from celery_safe_leader._runtime.channel import Channel
from celery_safe_leader.errors import StoreError, StoreRefusedError, StoreUnavailableError
from tests.support.processes.waiting import wait_until

TTL = 6.0
ASKED = Received(Part.REQUESTS, b"resign")
EDITED = Received(Part.CHANGES, b"7")


class Source:
    """A server that answers what the test puts into it."""

    def __init__(self) -> None:
        self.answers: SimpleQueue[Received | StoreError | None] = SimpleQueue()
        self.timeouts: list[float] = []
        self.readers: list[threading.Thread] = []
        self._reading = threading.Lock()
        self._interrupted = threading.Event()
        self.interruptions = 0
        self.server_us = 0
        self.collided = False
        self.lets_go = threading.Event()
        """Until it is set, a read that was interrupted does not end."""
        self.lets_go.set()

    def take(self, timeout: float, is_wanted: Callable[[], bool]) -> Received | None:
        if not self._reading.acquire(blocking=False):
            self.collided = True
            self._reading.acquire()
        try:
            self.timeouts.append(timeout)
            self.readers.append(threading.current_thread())
            while is_wanted():
                if self._interrupted.is_set():
                    self.lets_go.wait(30)
                    raise StoreUnavailableError("ask", "interrupted")
                try:
                    answer = self.answers.get(timeout=0.005)
                except Empty:
                    continue
                if isinstance(answer, StoreError):
                    raise answer
                return answer
            self.lets_go.wait(30)
            raise StoreUnavailableError("ask", "interrupted")
        finally:
            self._interrupted.clear()
            self._reading.release()

    def now_us(self) -> int:
        if self.server_us < 0:
            raise StoreUnavailableError("ask", "interrupted")
        return self.server_us

    def interrupt(self) -> None:
        self.interruptions += 1
        self._interrupted.set()


class Candidate:
    """A leadership that is as the test says."""

    fencing_token: int | None = None
    remaining = 0.0

    def wins(self, token: int, remaining: float = TTL) -> None:
        self.fencing_token, self.remaining = token, remaining

    def loses(self) -> None:
        self.fencing_token, self.remaining = None, 0.0


class Scene:
    """A channel, its server and its candidate."""

    def __init__(self) -> None:
        self.source, self.candidate = Source(), Candidate()
        self.opened = 0
        self.channel = Channel("shop:beat", self._open, self.candidate, TTL)
        self.got: list[tuple[bytes, int]] = []

    def _open(self) -> Source:
        self.opened += 1
        return self.source

    def handle(self, value: bytes, token: int) -> None:
        self.got.append((value, token))

    def has_read(self, times: int) -> bool:
        return len(self.source.timeouts) >= times

    def leads(self, token: int, remaining: float = TTL) -> None:
        reads = len(self.source.timeouts)
        self.candidate.wins(token, remaining)
        self.channel.follow()
        wait_until(lambda: len(self.source.timeouts) > reads, 30, "a read")


def _channel_threads() -> int:
    return sum(each.name == "leader:shop:beat:channel" for each in threading.enumerate())


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.channel.close()
    for reader in made.source.readers:
        reader.join(30)
        assert not reader.is_alive()
    assert not made.source.collided, "two threads read at a time"


def test_a_standby_reads_nothing(scene: Scene) -> None:
    scene.channel.follow()
    scene.channel.stop()
    assert (scene.opened, scene.source.timeouts) == (0, [])


def test_a_leader_hands_on_what_it_is_sent(scene: Scene) -> None:
    changes: list[tuple[bytes, int]] = []
    scene.channel.on(Part.REQUESTS, scene.handle)
    scene.channel.on(Part.CHANGES, lambda value, token: changes.append((value, token)))
    scene.leads(7)
    for received in (ASKED, EDITED, None, ASKED):
        scene.source.answers.put(received)
    wait_until(lambda: len(scene.got) == 2, 30, "requests")
    assert scene.got == [(b"resign", 7)] * 2
    assert changes == [(b"7", 7)]


def test_a_request_to_resign_counts_for_its_tenure_and_for_its_time(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery_safe_leader")
    acted: list[ResignRequest] = []
    scene.channel.on_resign_request(acted.append)
    scene.source.server_us = 1000
    good = ResignRequest(7, 1000, "ann")
    others = [ResignRequest(6, 1000, "ann"), ResignRequest(8, 1000, ""), ResignRequest(7, 999, "")]
    scene.leads(7)
    for request in (*others, good):
        scene.source.answers.put(Received(Part.REQUESTS, encode_request(request)))
    wait_until(lambda: acted, 30, "the good one")
    scene.source.server_us = -1
    scene.source.answers.put(Received(Part.REQUESTS, encode_request(good)))
    scene.source.answers.put(ASKED)
    wait_until(lambda: "request to the leader cannot be read" in caplog.text, 30, "the last")
    assert acted == [good]
    assert caplog.text.count("means another tenure; ignored") == 2
    assert caplog.text.count("came too late; ignored") == 2


@pytest.mark.parametrize(
    "value",
    [b"", b"x", b"[]", b"{}", b'"resign"', b"[" * 5000, b'{"ask":"resign"}', b"\xff",
     b'{"ask":"resign","token":true,"expires":1,"by":""}',
     b'{"ask":"resign","token":1,"expires":1.5,"by":""}',
     b'{"ask":"resign","token":1,"expires":1,"by":null}'],
)  # fmt: skip
def test_anything_else_is_not_a_request(value: bytes) -> None:
    assert decode_request(value) is None


def test_a_name_stays_in_one_line_of_the_log() -> None:
    request = decode_request(encode_request(ResignRequest(1, 2, "ann\x1b[2J\n" + "x" * 1000)))
    assert request is not None
    assert request.reason.isprintable()
    assert len(request.reason) < 250
    assert request.reason.startswith("requested by ann?[2J?xx")


def test_everybody_who_registered_is_called(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def fail(value: bytes, token: int) -> None:
        raise ZeroDivisionError

    for handler in (fail, scene.handle, scene.handle):
        scene.channel.on(Part.REQUESTS, handler)
    scene.leads(7)
    for _ in range(2):
        scene.source.answers.put(ASKED)
    wait_until(lambda: len(scene.got) == 4, 30, "requests")
    failures = [each for each in caplog.records if "ZeroDivisionError" in str(each.exc_text)]
    assert len([each for each in caplog.records if each.exc_info]) == 2, failures


def test_a_read_lasts_no_longer_than_a_third_of_the_ttl_or_the_lease(scene: Scene) -> None:
    scene.leads(7)
    scene.candidate.remaining = 0.5
    scene.source.answers.put(ASKED)
    wait_until(lambda: len(scene.source.timeouts) == 2, 30, "the next read")
    assert scene.source.timeouts == [pytest.approx(TTL / 3), pytest.approx(0.5)]


def test_one_tenure_is_read_by_one_thread(scene: Scene) -> None:
    scene.leads(7)
    for _ in range(3):
        scene.channel.follow()
    scene.source.answers.put(ASKED)
    wait_until(lambda: len(scene.source.timeouts) == 2, 30, "the next read")
    assert len(set(scene.source.readers)) == 1
    assert scene.opened == 1


def test_a_former_leader_stops_reading_at_once(scene: Scene) -> None:
    scene.leads(7)
    scene.candidate.loses()
    scene.channel.follow()
    assert scene.source.interruptions == 1
    scene.source.readers[0].join(30)
    scene.channel.follow()
    assert (len(scene.source.timeouts), scene.source.interruptions) == (1, 1)


def test_the_next_tenure_is_read_after_the_last(scene: Scene) -> None:
    scene.channel.on(Part.REQUESTS, scene.handle)
    for token in (7, 8, 9):
        scene.leads(token)
    scene.source.answers.put(ASKED)
    wait_until(lambda: bool(scene.got), 30, "a request")
    assert scene.got == [(b"resign", 9)]
    assert len(set(scene.source.readers)) == 3


def test_the_next_tenure_waits_for_a_read_that_does_not_end(scene: Scene) -> None:
    scene.leads(7)
    scene.source.lets_go.clear()
    scene.candidate.wins(8)
    scene.channel.follow()
    wait_until(lambda: _channel_threads() == 2, 30, "the next reader")
    assert scene.has_read(1)
    assert not scene.has_read(2)
    scene.source.lets_go.set()
    wait_until(lambda: scene.has_read(2), 30, "its read")


def test_what_comes_to_a_former_leader_is_dropped(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    scene.channel.on(Part.REQUESTS, scene.handle)

    def take(timeout: float, is_wanted: Callable[[], bool]) -> Received:
        scene.source.timeouts.append(timeout)
        scene.source.readers.append(threading.current_thread())
        scene.candidate.loses()
        return ASKED

    monkeypatch.setattr(scene.source, "take", take)
    scene.leads(7)
    scene.source.readers[0].join(30)
    assert scene.got == []
    assert "dropped what was sent" in caplog.text


def test_what_nobody_handles_is_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.leads(7)
    for _ in range(3):
        scene.source.answers.put(ASKED)
    wait_until(lambda: len(scene.source.timeouts) == 4, 30, "reads")
    told = [each.message for each in caplog.records]
    assert len(told) == 1
    assert "nothing here handles what was sent to the leader's list 'ask'" in told[0]


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("ask", "no answer"), StoreRefusedError("ask", "not a list")]
)
def test_failures_that_last_are_told_once(
    scene: Scene, error: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    scene.leads(7)
    for failures in range(1, 5):
        scene.source.answers.put(error)
        wait_until(partial(scene.has_read, failures + 1), 30, "another read")
        assert len(caplog.records) == (failures > 2)
    assert "cannot be read" in caplog.text


def test_an_unexpected_error_does_not_end_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    take, failed = scene.source.take, list[bool]()

    def fail_once(timeout: float, is_wanted: Callable[[], bool]) -> Received | None:
        if not failed:
            failed.append(True)
            raise ZeroDivisionError
        return take(timeout, is_wanted)

    monkeypatch.setattr(scene.source, "take", fail_once)
    scene.leads(7)
    assert failed == [True]


def test_a_server_that_answers_at_once_is_not_asked_in_a_loop(scene: Scene) -> None:
    scene.leads(7)
    scene.source.answers.put(None)
    wait_until(lambda: scene.source.answers.empty(), 30, "the answer")
    scene.channel.stop()
    scene.source.readers[0].join(30)
    assert len(scene.source.timeouts) == 1


def test_once_closed_it_reads_no_more(scene: Scene) -> None:
    scene.leads(7)
    scene.channel.close()
    scene.channel.close()
    scene.source.readers[0].join(30)
    scene.channel.follow()
    assert len(scene.source.timeouts) == 1


def test_one_that_was_stopped_reads_again_when_it_follows(scene: Scene) -> None:
    scene.leads(7)
    scene.channel.stop()
    scene.source.readers[0].join(30)
    scene.leads(7)
