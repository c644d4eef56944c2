"""What this release leaves in the ledger means the same to the one before it, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from celery_safe_leader._ledger.errors import LedgerUnpausableError
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.pausing import end_expired_pause, pause, resume
from celery_safe_leader._ledger.results import Condition
from tests.contract.ledger_helpers import Bench
from tests.support.older_release import unpacked
from tests.support.processes import Children
from tests.support.servers import ExternalServer

_OLDER = """
import sys, time
import redis
import celery_safe_leader
from celery_safe_leader._beat.ledger import Ledger

print(celery_safe_leader.__file__)
url, key, holder, token, restoring = sys.argv[1:]
ledger = Ledger(redis.Redis.from_url(url), key, "beat", ttl=2, clock=time.monotonic)
print(ledger.adopt(holder, int(token), restoring=restoring == "True").condition.name)
if restoring != "True":
    print(*sorted(ledger.load().runs))
"""


class Older(NamedTuple):
    """The older release, which leads when it is asked to."""

    folder: Path
    children: Children
    bench: Bench
    url: str

    def adopts(self, *, restoring: bool = False, ends_with: int = 0) -> list[str]:
        """Let it be elected and adopt the ledger; return what it says of it."""
        self.bench.lease(holder="older", token=8)
        arguments = (self.url, self.bench.key, "older", "8", str(restoring))
        # The present one is in the folder that children are started in by default.
        child = self.children.python(_OLDER, *arguments, cwd=self.folder, name="older release")
        assert child.wait(30) == ends_with, child.output
        module, *said = child.lines
        assert module.startswith(f"{self.folder}/")
        return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("older") / "release")


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Iterator[Bench]:
    with redis.Redis.from_url(shared_server.url) as client:
        yield Bench(client, key)


@pytest.fixture
def older(folder: Path, children: Children, bench: Bench, shared_server: ExternalServer) -> Older:
    return Older(folder, children, bench, shared_server.url)


def restoring(bench: Bench) -> Ledger:
    """Let this release begin to write its memory back."""
    ledger = bench.ledger(adopted=False)
    bench.lease()
    ledger.adopt("a", 7, restoring=True)
    ledger.merge({"e": bench.run()}, {})
    return ledger


def test_a_partial_ledger_of_this_release_is_partial_to_the_older_one(older: Older) -> None:
    restoring(older.bench)
    assert older.adopts() == ["PARTIAL", "e"]


def test_a_sealed_ledger_of_this_release_is_whole_to_the_older_one(older: Older) -> None:
    restoring(older.bench).seal()
    assert older.adopts() == ["WHOLE", "e"]


def test_a_ledger_whose_pause_is_over_is_whole_to_the_older_one(older: Older) -> None:
    ledger = restoring(older.bench)
    ledger.seal()
    older.bench.pause(3, older.bench.start)
    ledger.write([], [])
    assert older.bench.sentinel().split(b" ")[3].endswith(b"/3")
    assert older.adopts() == ["WHOLE", "e"]


def test_a_paused_ledger_is_not_adopted_by_the_older_one(older: Older) -> None:
    restoring(older.bench).seal()
    pause(older.bench.client, older.bench.names)
    before = older.bench.state()
    said = older.adopts(ends_with=1)
    assert "LedgerFormatError" in said[-1]
    assert older.bench.state() == before
    resume(older.bench.client, older.bench.names)
    assert older.adopts() == ["WHOLE", "e"]


def test_a_pause_that_ran_out_under_the_older_one_is_ended_by_whoever_sees_it(
    older: Older,
) -> None:
    restoring(older.bench).seal()
    older.bench.pause(3, older.bench.start)
    assert "LedgerFormatError" in older.adopts(ends_with=1)[-1]
    assert end_expired_pause(older.bench.client, older.bench.names).pause is None
    assert older.adopts() == ["WHOLE", "e"]


def test_a_pause_that_has_run_out_is_ended_by_an_adoption(older: Older) -> None:
    restoring(older.bench).seal()
    older.bench.pause(3, older.bench.start)
    assert older.bench.ledger().pause is None
    assert older.adopts() == ["WHOLE", "e"]


def test_a_copy_from_before_the_older_one_led_is_not_believed(older: Older) -> None:
    restoring(older.bench).seal()
    standby = older.bench.ledger(adopted=False)
    copied = standby.copy_next().state
    assert copied.can_be_copied
    assert older.adopts() == ["WHOLE", "e"]
    assert not standby.copy_next().state.can_be_copied, "nor is one made while it leads"
    older.bench.lease(holder="a", token=9)
    adoption = standby.adopt("a", 9)
    assert adoption.condition is Condition.WHOLE
    assert adoption.state == copied._replace(mark=adoption.mark)
    assert adoption.mark not in ("", copied.mark)
    # And from here on there are copies again.
    assert older.bench.ledger(adopted=False).copy_next().state == adoption.state


def test_the_older_one_is_not_paused_while_it_leads(older: Older) -> None:
    restoring(older.bench).seal()
    older.adopts()
    with pytest.raises(LedgerUnpausableError, match="knows no pauses"):
        pause(older.bench.client, older.bench.names)


@pytest.mark.parametrize(
    ("partial", "condition"), [(True, Condition.PARTIAL), (False, Condition.WHOLE)]
)
def test_a_ledger_of_the_older_release_means_the_same_to_this_one(
    older: Older, partial: bool, condition: Condition
) -> None:
    restoring(older.bench).seal()
    older.adopts(restoring=partial)
    older.bench.lease(holder="a", token=9)
    assert older.bench.ledger(adopted=False).adopt("a", 9).condition is condition
