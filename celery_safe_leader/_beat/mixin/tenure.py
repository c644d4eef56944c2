"""How a scheduler with the mixin stands: in the election, and within its tenure."""

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

__all__ = ["MixinTenure"]


class MixinTenure:
    """One object for all that the mixin keeps, so that it takes one name of the other scheduler."""

    def __init__(self, settings: LeaderSettings) -> None:
        """Stand by. Does no IO, starts no thread."""
        self.settings = settings
        self.membership = Membership(settings)
        self.aside = BackgroundThread("leader:scheduler")
        # Sent in the process of an embedded beat only.
        beat_embedded_init.connect(end_with_parent)
        self._pristine: dict[str, Any] | None = None
        self.closed = False
        self.token = 0
        """Of the tenure that the other scheduler works for; 0 if it holds nothing."""
        self.begun = False
        """Whether it is set up for that tenure, and has not failed since."""
        self.job: BackgroundCall[float] | None = None
        """What it does now."""
        self.due_at = 0.0
        self.progress_at = 0.0
        """``time.monotonic()``: when to ask it again, and when it was last seen to do something."""
        self.failures = 0
        """Of the broker, in a row."""
        self.publishing = False
        """Whether a message is on its way."""

    def start(self, work: Callable[[], float]) -> None:
        """Let the other scheduler work."""
        self.progress_at = time.monotonic()
        self.job = self.aside.start(work)

    def keep(self, attributes: dict[str, Any]) -> None:
        """Remember the scheduler's attributes as they are before its first tick."""
        if self._pristine is None:
            self._pristine = _copied(attributes)

    def restore(self, attributes: dict[str, Any]) -> None:
        """Set the scheduler's attributes back to those."""
        fresh = _copied(self._pristine or {})
        for name in set(attributes) - set(fresh):
            del attributes[name]
        attributes.update(fresh)

    def may_write(self) -> bool:
        """Whether the store may be written: under the token of this tenure."""
        return self.begun and self.membership.fencing_token == self.token

    def may_publish(self) -> bool:
        """Whether a message may go out."""
        return not self.closed and self.may_write()

    def require(self) -> None:
        """Refuse to publish unless this beat leads.

        Raises:
            WithheldError: It does not, or it is being closed.
        """
        if not self.may_publish():
            raise WithheldError

    def require_tenure(self) -> None:
        """Refuse to count a run unless this beat leads.

        Raises:
            WithheldError: It does not.
        """
        if not self.may_write():
            raise WithheldError


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy attributes; containers, too, but not what is in them."""
    containers = (dict, list, set)
    return {
        name: copy.copy(value) if type(value) in containers else value
        for name, value in attributes.items()
    }
