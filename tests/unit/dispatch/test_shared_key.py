"""A ledger with somebody else's schedule is told of, once."""

from __future__ import annotations

import pytest

from celery_safe_leader._dispatch.memory.shared_key import SharedKeyCheck

CLEANUP = "celery.backend_cleanup"


def test_a_schedule_that_shares_nothing_with_the_ledger_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = SharedKeyCheck("shop")
    for _ in range(2):
        check.check(["theirs-1", "theirs-2", CLEANUP], ["ours", CLEANUP])
    (record,) = caplog.records
    assert "The ledger of shop has 2 entries" in record.getMessage()
    assert "'theirs-1', 'theirs-2'" in record.getMessage()


@pytest.mark.parametrize(
    ("found", "has_more", "told"),
    [
        (["theirs"], False, "has 1 entry, but it is not in this beat's schedule: 'theirs'."),
        (["b", "a"], False, "has 2 entries, but none of them is in this beat's schedule: 'a', 'b'"),
        (["b", "a"], True, "has at least 2 entries, but none of them is in this beat's schedule"),
    ],
)
def test_entries_are_counted_in_words_that_fit_their_number(
    caplog: pytest.LogCaptureFixture, found: list[str], has_more: bool, told: str
) -> None:
    SharedKeyCheck("shop").check(found, ["ours"], has_more=has_more)
    assert told in caplog.text


@pytest.mark.parametrize(
    ("found", "own"),
    [([], ["a"]), (["a"], []), (["a", "b"], ["b", "c"]), ([CLEANUP], ["a"]), (["a"], [CLEANUP])],
)
def test_what_is_shared_or_empty_or_celerys_own_is_not(
    caplog: pytest.LogCaptureFixture, found: list[str], own: list[str]
) -> None:
    SharedKeyCheck("shop").check(found, own)
    assert caplog.records == []
