"""What renewals see of the ledger is handed on, and nothing depends on it."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.messages import LedgerLook, Renew
from tests.unit.core.drive import START, TTL, Driver, record

LOOK = LedgerLook(START, b"1 g 5 whole/m beat", b"1 g 5 whole/m beat", 1)
LOST = LedgerLook(START, b"", b"", 2)
LOOKS = [None, LOOK, LOST, LedgerLook(START, b"?WRONGTYPE", b"\xff", 0)]


def leader() -> Driver:
    drive = Driver()
    drive.wins()
    return drive


def renewed(drive: Driver, look: LedgerLook | None) -> None:
    drive.later(TTL / 3 + 0.001)
    drive.answer(drive.expect(Renew), "accepted", record("own2", "me", 6), look=look)


def test_the_latest_look_is_kept() -> None:
    drive = leader()
    assert drive.election.look is None
    for look in (LOOK, LOST, None, LOOK):
        renewed(drive, look)
        assert drive.election.look is look


@pytest.mark.parametrize("end", ["stopped", "expired", "superseded"])
def test_a_look_ends_with_its_tenure(end: str) -> None:
    drive = leader()
    renewed(drive, LOOK)
    if end == "stopped":
        drive.stop()
    elif end == "expired":
        drive.later(TTL)
        drive.tick()
    else:
        drive.later(TTL / 3 + 0.001)
        drive.answer(drive.expect(Renew), "rejected", record("v9", "you", 9), look=LOST)
    assert not drive.leads
    assert drive.election.look is None


def test_a_renewal_without_a_reply_leaves_the_look_before_it() -> None:
    drive = leader()
    renewed(drive, LOOK)
    drive.later(TTL / 3 + 0.001)
    drive.fail(drive.expect(Renew))
    assert drive.election.look is LOOK


@pytest.mark.parametrize("status", ["accepted", "vacant", "rejected"])
@pytest.mark.parametrize("confirmed", [True, False])
def test_nothing_depends_on_what_is_seen(status: str, confirmed: bool) -> None:
    outcomes = []
    for look in LOOKS:
        drive = leader()
        drive.later(TTL / 3 + 0.001)
        holder, token = {"accepted": ("me", 6), "vacant": ("", 6)}.get(status, ("you", 9))
        shown = record("next", holder, token)
        drive.answer(drive.expect(Renew), status, shown, confirmed=confirmed, look=look)
        election = drive.election
        outcomes.append(
            (
                election.state,
                election.lease,
                election.pause(drive.now),
                [repr(event) for event in drive.told],
                drive.poll(),
            )
        )
    assert all(outcome == outcomes[0] for outcome in outcomes)
