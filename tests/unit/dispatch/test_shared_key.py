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
    ("found", "own"),
    [([], ["a"]), (["a"], []), (["a", "b"], ["b", "c"]), ([CLEANUP], ["a"]), (["a"], [CLEANUP])],
)
def test_what_is_shared_or_empty_or_celerys_own_is_not(
    caplog: pytest.LogCaptureFixture, found: list[str], own: list[str]
) -> None:
    SharedKeyCheck("shop").check(found, own)
    assert caplog.records == []
