"""Whatever stands in the place of a record: nobody crashes, never two lead, and it goes on.

Cores with virtual clocks, real scripts and a real server; the judge is that of the other models.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Answer
from celery_safe_leader._store.codec import decode
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError
from tests.model.election.hostile import LONG, HostileWorld, hashes
from tests.model.election.sites import Sites
from tests.unit.core.drive import Driver

TTL = 2.0
ACTIONS = st.one_of(
    st.tuples(st.just("write"), hashes(), st.booleans()),
    st.tuples(
        st.just("replace"),
        st.sampled_from(
            "string lease,list lease,stream lease,hash lease,string history,stream history,"
            "hash wake,string wake,list witness,nothing lease".split(",")
        ),
        st.none(),
    ),
)
PAUSES = st.sampled_from((0.0, 0.01, 0.5, 0.7, 1.3, 2.1, 3.0))
HISTORIES = st.lists(st.tuples(ACTIONS, PAUSES), min_size=4, max_size=10)


def play(world: HostileWorld, history: list[Any]) -> None:
    """Let somebody write, and the candidates live with it."""
    for _ in range(2):
        world.join(TTL, wait=0.4)
    world.must_elect()
    for (verb, what, overlay), pause in history:
        if verb == "write":
            world.write(what, overlay=overlay)
        else:
            world.replace(what)
        seen = len(world.errors)
        world.run(pause)
        if world.broken:
            world.run(TTL)
            assert any("not this package's; delete it" in each for each in world.errors[seen:])
            assert any(world.keys.lease in each for each in world.errors[seen:])
            world.remove()
    seen_ttls = [node.election.observation.longest_ttl for node in world.nodes]
    world.longest_ttl = max(4.0, *seen_ttls)  # the longest that is written, seen or not
    world.must_elect()
    leaders = [node for node in world.nodes if node.leads]
    assert len(leaders) == 1


def fuzz(sites: Sites, cases: int) -> None:
    """Play histories until so many records were written."""
    written = 0

    @settings(
        max_examples=cases // 6,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.generate],  # shrinking takes minutes, and the history is short
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32), HISTORIES)
    def check(seed: int, history: list[Any]) -> None:
        nonlocal written
        written += len(history)
        play(HostileWorld(sites, seed), history)

    check()
    print(f"{written} records")
    assert written >= cases * 0.5


@pytest.mark.parametrize("renewal", [{}, {"renewal": b""}, {"renewal": b"monthly"}])
def test_hashes_of_others_that_follow_each_other_are_told_apart(
    sites: Sites, renewal: dict[str, bytes]
) -> None:
    foreign = {"holder": b"\xb6\x1f0", "version": b"inf", **renewal}
    history = [
        (("write", {"holder": "läden".encode(), "token": LONG}, False), 0.0),
        (("write", foreign, False), 2.1),
        (("write", foreign, False), 0.7),
        (("replace", "hash wake", None), 0.5),
        (("write", foreign, False), 0.7),
        (("replace", "list lease", None), 1.3),
    ]
    play(HostileWorld(sites, 17756), history)


def test_no_record_lets_two_lead_or_nobody(sites: Sites) -> None:
    fuzz(sites, 360)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_record_of_very_many_lets_two_lead_or_nobody(sites: Sites) -> None:
    fuzz(sites, 20_000)


# Replies

SCALARS = st.one_of(
    st.none(), st.integers(), st.floats(), st.binary(max_size=30), st.text(max_size=30),
    st.sampled_from([b"seen", b"accepted", b"rejected", b"vacant", b"resigned", b"1", b"0", b"me"]),
)  # fmt: skip
REPLIES = st.one_of(SCALARS, st.lists(st.one_of(SCALARS, st.lists(SCALARS)), max_size=9))
WELL_FORMED = st.tuples(
    st.sampled_from([b"seen", b"accepted", b"rejected", b"vacant", b"resigned"]),
    st.sampled_from([b"v1", b"v2", b"own"]),
    st.sampled_from([b"e1", b"e2"]),
    st.sampled_from([b"", b"me", b"other", b"\xff\n"]),
    st.sampled_from([b"0", b"5", b"6", b"7", b"4503599627370495", b"9007199254740991"]),
    st.sampled_from([b"0", b"10000", b"99999999999999"]),
    st.sampled_from([0, 1, 2]),
).map(list)


def hear(replies: list[tuple[object, float]]) -> None:
    """Give a candidate replies of any kind: it asks on, neither too often nor never."""
    driver = Driver()
    for raw, pause in replies:
        driver.later(pause)
        request = driver.poll()
        if request is None:
            waits = driver.election.pause(driver.now)
            assert waits is not None
            assert waits <= 10.0
            driver.later(waits + 1e-6)
            request = driver.poll()
        assert request is not None
        try:
            answer = decode(raw, ElectionKeys("shop"))
        except StoreRefusedError:
            driver.fail(request)
            assert (driver.election.pause(driver.now) or 0.0) > 0.0
        else:
            assert isinstance(answer, Answer)
            assert answer.record.holder.isprintable()
            driver.receive(request, answer)
            lease = driver.election.lease
            if lease is not None:
                assert lease.remaining(driver.now) <= 10.0
    assert isinstance(driver.now, Instant)
    driver.told.clear()


REPLY_LISTS = st.lists(
    st.tuples(st.one_of(REPLIES, WELL_FORMED, WELL_FORMED), st.sampled_from((0.0, 0.1, 3.4, 11.0))),
    min_size=3,
    max_size=20,
)


@settings(max_examples=60, deadline=None, database=None)
@given(REPLY_LISTS)
def test_no_reply_breaks_a_candidate(replies: list[tuple[object, float]]) -> None:
    hear(replies)


@pytest.mark.long
@settings(max_examples=3000, deadline=None, database=None)
@given(REPLY_LISTS)
def test_none_of_very_many_replies_breaks_a_candidate(replies: list[tuple[object, float]]) -> None:
    hear(replies)
