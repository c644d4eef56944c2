"""All that the mixin keeps between two ticks: its part in the election, and its tenure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from celery.signals import beat_embedded_init

from celery_safe_leader._beat.background import BackgroundCall, BackgroundThread
from celery_safe_leader._beat.embedded.parent_watch import end_with_parent
from celery_safe_leader._beat.membership import Membership
from celery_safe_leader._beat.mixin.gated_producer import WithheldError
from celery_safe_leader.conf import LeaderSettings

__all__ = ["MixinState"]


class MixinState:
    """What the mixin keeps, in one object, so that it needs one attribute of the other scheduler.

    That attribute is ``_leader_mixin``. A scheduler class that has one of that name already cannot
    be combined with the mixin.
    """

    def __init__(self, settings: LeaderSettings) -> None:
        self.settings = settings
        self.membership = Membership(settings)
        self.background = BackgroundThread("leader:scheduler")
        # Sent in the process of an embedded beat only.
        beat_embedded_init.connect(end_with_parent)
        self._pristine: dict[str, Any] | None = None
        self.closed = False
        self.token = 0
        """Token of the tenure for which the other scheduler is set up; 0 if it is not."""
        self.begun = False
        """Whether it is set up for that tenure and has not failed since."""
        self.call: BackgroundCall[float] | None = None
        """What it does now on the background thread."""
        self.due_at = 0.0
        self.progress_at = 0.0
        """``time.monotonic()``: when to call it again, and when it last made progress."""
        self.failures = 0
        """Failures of the broker in a row."""
        self.publishing = False
        """Whether a message is on its way."""

    def start(self, work: Callable[[], float]) -> None:
        """Start ``work`` of the other scheduler on the background thread."""
        self.progress_at = time.monotonic()
        self.call = self.background.start(work)

    def keep_attributes(self, attributes: dict[str, Any]) -> None:
        """Remember the scheduler's attributes as they are before its first tick; once."""
        if self._pristine is None:
            self._pristine = _copied(attributes)

    def restore_attributes(self, attributes: dict[str, Any]) -> None:
        """Set the scheduler's attributes back to the remembered ones."""
        fresh = _copied(self._pristine or {})
        for name in set(attributes) - set(fresh):
            del attributes[name]
        attributes.update(fresh)

    def may_write(self) -> bool:
        """Return whether the store may be written: this beat leads under this tenure's token."""
        return self.begun and self.membership.fencing_token == self.token

    def may_publish(self) -> bool:
        """Return whether a message may be published."""
        return not self.closed and self.may_write()

    def require_publishing(self) -> None:
        """Check that a message may be published.

        Raises:
            WithheldError: This beat does not lead, or is being closed.
        """
        if not self.may_publish():
            raise WithheldError

    def require_tenure(self) -> None:
        """Check that a run may be counted.

        Raises:
            WithheldError: This beat does not lead under the token of this tenure.
        """
        if not self.may_write():
            raise WithheldError


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the attributes, with copies of containers but not of what is in them."""
    containers = (dict, list, set)
    return {
        name: copy.copy(value) if type(value) in containers else value
        for name, value in attributes.items()
    }
