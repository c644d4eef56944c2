"""All that the mixin keeps between two ticks: its part in the election, and its tenure."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.signals import beat_embedded_init

from celery_safe_leader._beat.background import BackgroundCall, BackgroundThread
from celery_safe_leader._beat.beat_service import make_beat_service, run_families
from celery_safe_leader._beat.embedded.parent_watch import end_with_parent
from celery_safe_leader._beat.membership import Membership
from celery_safe_leader._beat.mixin.gated_producer import WithheldError
from celery_safe_leader._beat.mixin.mixin_clock import MixinClock
from celery_safe_leader._beat.mixin.pause_watch import PauseWatch
from celery_safe_leader._beat.run_signals import run_events
from celery_safe_leader._dispatch.health.patience import Patience
from celery_safe_leader._runtime.ending import Ending
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.errors import EntryWithheldError
from celery_safe_leader.leader import SafeLeader

__all__ = ["MixinState"]


class MixinState:
    """What the mixin keeps, in one object, so that it needs one attribute of the other scheduler.

    That attribute is ``_leader_mixin``. A scheduler class that has one of that name already cannot
    be combined with the mixin.
    """

    def __init__(self, settings: LeaderSettings) -> None:
        self.settings = settings
        self.membership = Membership(settings)
        self.events = run_events(
            lambda: self.membership.election, lambda: self.membership.candidate_id
        )
        """Is told what is published."""
        self.events.announces = True
        self.membership.on_change = self.events.elected
        self.background = BackgroundThread("leader:scheduler")
        self.pause_watch = PauseWatch(settings)
        """For that thread alone."""
        self.clock = MixinClock(settings.ttl, self.pause_watch.redis_time)
        """Checked on that thread; asked whether it wants that while it is idle."""
        # Sent in the process of an embedded beat only.
        beat_embedded_init.connect(end_with_parent)
        beat_embedded_init.connect(self._note_embedded)
        self.is_embedded = False
        self.service = make_beat_service(
            settings,
            self.membership,
            settings.ttl,
            self._why_stuck,
            lambda: run_families(self.events),
        )
        self._pristine: dict[str, Any] | None = None
        self.closed = False
        self.ending = Ending("leader:close")
        self.token = 0
        """Token of the tenure for which the other scheduler is set up; 0 if it is not."""
        self.begun = False
        """Whether it is set up for that tenure and has not failed since."""
        self.call: BackgroundCall[float] | None = None
        """What it does now on the background thread."""
        self.due_at = 0.0
        self.progress_at = 0.0
        """``time.monotonic()``: when to call it again, and when it last made progress."""
        self.patience = Patience(settings.ttl)
        self.failures = 0
        """Failures in a row: of the broker, or of the scheduler."""
        self.goes_last = False
        """Whether it has stood down, and has sent nothing since."""
        self.sent = False
        """Whether something was sent in this tick, which is noted in the store at its end."""
        self._tick_on: int | None = None
        self._attempts: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()

    def _note_embedded(self, **_: Any) -> None:
        self.is_embedded = True

    def join(self) -> SafeLeader:
        """Take part from now on, unless this beat rests; return the candidate."""
        leader = self.membership.join()
        if not self.is_embedded:  # its worker has the address
            self.service.start()
        return leader

    def _why_stuck(self) -> str:
        silent = time.monotonic() - self.progress_at
        if self.call is None or silent <= self.patience.seconds:
            return ""
        return f"the scheduler under the mixin has not returned for {silent:.0f} s"

    def start(self, work: Callable[[], float]) -> None:
        """Start ``work`` of the other scheduler on the background thread."""
        self.progress_at = time.monotonic()
        self.call = self.background.start(work)

    def keep_attributes(self, attributes: dict[str, Any]) -> None:
        """Remember the scheduler's attributes, as the constructor leaves them."""
        self._pristine = _copied(attributes)

    def be_patient(self, seconds: float) -> None:
        """Stand down if the scheduler could not send anything for so long, or for the ttl."""
        self.patience = Patience(max(self.settings.ttl, seconds))

    def restore_attributes(self, attributes: dict[str, Any]) -> None:
        """Set the scheduler's attributes back to the remembered ones."""
        fresh = _copied(self._pristine or {})
        for name in set(attributes) - set(fresh):
            del attributes[name]
        attributes.update(fresh)

    @property
    def is_at_work(self) -> bool:
        """Whether the calling thread is in a tick of the scheduler."""
        return self._tick_on == threading.get_ident()

    @contextmanager
    def tick(self) -> Iterator[None]:
        """Be in a tick. If it raises, what it has not noted yet is not noted: it is due again."""
        self._tick_on, self.sent = threading.get_ident(), False
        self._attempts.clear()
        self._messages.clear()
        try:
            yield
        except BaseException:
            self.begun = False
            raise
        finally:
            self._tick_on = None

    def attempt_number(self, run: str) -> int:
        """Count the attempts of this tick to send a run, from 1 on.

        A run is due in one tick alone. So if its scheduler sends it again, that is meant.
        """
        return self._count(self._attempts, run)

    def message_number(self, occurrence: str) -> int:
        """Count the messages of this tick that have an occurrence in their headers, from 1 on."""
        return self._count(self._messages, occurrence)

    def _count(self, counted: Counter[str], name: str) -> int:
        if not self.is_at_work:
            return 1
        counted[name] += 1
        return counted[name]

    def may_write(self) -> bool:
        """Return whether the store may be written: this beat leads under this tenure's token."""
        return self.begun and self.membership.fencing_token == self.token

    def may_publish(self) -> bool:
        """Return whether a message may be published."""
        return not self.closed and not self.membership.must_resign and self.may_write()

    def require_publishing(self, entry: str = "") -> None:
        """Check that a message may be published.

        Raises:
            WithheldError: This beat does not lead, or is being closed, and is in a tick.
            EntryWithheldError: The same, and somebody else is calling.
        """
        if not self.may_publish():
            self._withhold(entry)

    def require_tenure(self, entry: str = "") -> None:
        """Check that a run may be counted; raise what ``require_publishing`` does."""
        if not self.may_write():
            self._withhold(entry)

    def _withhold(self, entry: str) -> None:
        if self.is_at_work:
            raise WithheldError
        raise EntryWithheldError(self.membership.election, entry)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the attributes, with copies of containers but not of what is in them."""
    containers = (dict, list, set)
    return {
        name: copy.copy(value) if type(value) in containers else value
        for name, value in attributes.items()
    }
