"""The two ways in which due runs are published, behind one interface.

Both compare with what the ledger holds of the entry, so neither repeats what the other has done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from celery_safe_leader._core.steps import Steps, complete
from celery_safe_leader._dispatch.outbox import Outbox
from celery_safe_leader._dispatch.records import Records
from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._dispatch.ways.way_choice import WayChoice
from celery_safe_leader.errors import SafeLeaderError, StoreRefusedError

__all__ = ["PublicationWay", "Transactional", "WriteAhead"]


class PublicationWay(Protocol):
    """One way of publishing."""

    def publish(self, runs: Sequence[Run], may_write: Gate) -> None:
        """Publish runs of different entries. The state of each says what became of it.

        One that is still ``BUILT`` was not published, and nothing of it is in Redis.

        Args:
            runs: In the state ``BUILT`` or ``GIVEN_UP``.
            may_write: Asked right before the first write. It may wait for the runs' moment.

        Raises:
            SafeLeaderError: What the ledger raises. The states are set before.
        """


class Transactional(PublicationWay):
    """One script looks, pushes the messages and records them as published.

    A run that turns out not to be plain stays ``BUILT``, and is marked as such.

    Args:
        records: Speaks with the ledger.
        outbox: Speaks with the broker's client.
        way: Is looked at, and told if it is not this one any more.
        meanwhile: Called by ``publish`` while Redis runs the script. It must not use the ledger.
    """

    def __init__(
        self,
        records: Records,
        outbox: Outbox,
        way: WayChoice,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._records = records
        self._outbox = outbox
        self._way = way
        self._meanwhile = meanwhile

    def prepare(self, runs: Sequence[Run]) -> None:
        """Let the broker's client make the command of each message that has none yet, in memory.

        One that was kept back for long, as by a server that is away, would go out expired: its
        times count from when it was made, so it is made anew.
        """
        for run in self._outbox.kept_back(runs):
            run.push = None
        self._outbox.collect([run for run in runs if run.push is None and run.is_plain])

    def publish(self, runs: Sequence[Run], may_write: Gate) -> None:
        """Publish runs that are plain; those that were given up are recorded."""
        steps = self.publishing(runs, may_write)
        try:
            for _ in steps:
                self._meanwhile()
        finally:
            complete(steps)  # whatever was raised meanwhile

    def publishing(self, runs: Sequence[Run], may_write: Gate) -> Steps[None]:
        """As ``publish``, with a pause while Redis runs the script; the states are set after it."""
        self.prepare([run for run in runs if run.state is RunState.BUILT])
        ready = [run for run in runs if run.state is RunState.GIVEN_UP or run.push is not None]
        if not ready:
            return
        # The connection may be another one by now.
        if not self._way.choose(len(ready)) or not self._way.is_transactional:
            return
        try:
            is_sent = yield from self._records.publish(
                ready, lambda: may_write() and self._way.is_current()
            )
            if is_sent:
                self._way.note_success()
        except StoreRefusedError as exc:
            if not exc.is_missing_right:
                raise
            self._way.fall_back(
                f"Redis does not let one script do both ({exc.__cause__ or exc.detail}); "
                "`celery -A proj leader acl` prints the rights"
            )
        finally:
            self._outbox.notify([run for run in ready if run.state is RunState.DONE and run.push])


class WriteAhead(PublicationWay):
    """Runs are claimed in the ledger, handed to the broker, and committed with a later write."""

    def __init__(self, records: Records, outbox: Outbox, still_leads: Gate) -> None:
        self._records = records
        self._outbox = outbox
        self._still_leads = still_leads

    def publish(self, runs: Sequence[Run], may_write: Gate) -> None:
        """Publish runs; those that were given up are recorded.

        The broker's client makes its commands first, and runs are claimed right before it writes.
        """
        built = [run for run in runs if run.state is RunState.BUILT]
        if built:
            claim = _ClaimOnce(self._records, built, may_write, self._still_leads)
            failed = self._outbox.send(built, claim)
            if failed:
                claim()  # the broker failed before it could ask
            claim.check()
            self._outbox.owe([(run, why) for run, why in failed if run.state is RunState.CLAIMED])
            # Some were refused when all were claimed, so none was sent.
            self.send([run for run in built if run.state is RunState.CLAIMED])
        given_up = [run for run in runs if run.state is RunState.GIVEN_UP]
        unclaimed = [run for run in given_up if run.entry.claim != run.claim]
        if unclaimed:
            complete(self._records.publish(unclaimed, may_write))

    def send(self, runs: Sequence[Run]) -> None:
        """Publish runs that are claimed."""
        if runs:
            self._outbox.send(runs, self._still_leads)


class _ClaimOnce:
    """A gate that claims runs the first time it is asked, and then lets through if all are."""

    def __init__(
        self,
        records: Records,
        runs: Sequence[Run],
        may_write: Callable[[], bool],
        still_leads: Gate,
    ) -> None:
        self._records = records
        self._runs = runs
        self._may_write = may_write
        self._still_leads = still_leads
        self._are_claimed: bool | None = None
        self._error: SafeLeaderError | None = None

    def __call__(self) -> bool:
        # Asked before each message where the broker takes them one by one: looked at once.
        if self._are_claimed is None:
            self._are_claimed = False  # also if what follows raises
            self._are_claimed = self._may_write() and self._claim()
        return self._are_claimed and self._still_leads()

    def _claim(self) -> bool:
        """Claim the runs but for those that were given up meanwhile; return whether all are."""
        runs = [run for run in self._runs if run.state is RunState.BUILT]
        try:
            self._records.claim(runs)
        except SafeLeaderError as exc:
            # Not through the broker's client: it would take it for its own.
            self._error = exc
            return False
        return all(run.state is RunState.CLAIMED for run in runs)

    def check(self) -> None:
        """Raise what the ledger raised."""
        if self._error is not None:
            raise self._error
