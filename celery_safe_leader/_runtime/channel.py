"""Hands what is sent to the leader of an election to whoever registered for it, on a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._core.leader_request import ResignRequest, decode_request
from celery_safe_leader._core.messages import Part, Received
from celery_safe_leader._core.ports import ChannelSource
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader.errors import StoreError

__all__ = ["Channel", "Handler", "Leading"]

Handler = Callable[[bytes, int], None]
"""Takes a value that was sent, and the fencing token of the tenure in which it came."""

_SHORTEST = 0.01
"""Seconds. Some servers round a shorter blocking time to 0, which means for ever."""
_BEARABLE = 2
"""Failures in a row that are not told: a connection was cut, or a slot of a cluster moved."""
_COMPLAIN_EVERY = 60.0
"""Seconds."""


class Leading(Protocol):
    """What is known of a leadership: local, without IO, from any thread."""

    @property
    def fencing_token(self) -> int | None:
        """Of the present tenure; ``None`` without one."""

    @property
    def remaining(self) -> float:
        """Seconds that the lease lasts at least, unless renewed."""


class Channel:
    """The line to one leader: read while it leads, and by nobody else.

    It is read by one blocking command after the other, on a connection and a thread of its own,
    so that nothing that happens to it delays a renewal. A value comes at most once: one that was
    on its way when a tenure ended is lost. Whoever sends something waits for its effect.

    ``follow()`` and ``stop()`` are for one thread and its signal handlers, ``close()`` for any.
    """

    def __init__(
        self, election: str, open_source: Callable[[], ChannelSource], leading: Leading, ttl: float
    ) -> None:
        """Make a channel that is not read. Does no IO.

        Args:
            election: Its name, for the log.
            open_source: Makes the source, once this candidate leads. Does no IO.
            leading: Whose line it is.
            ttl: Of the lease, in seconds; a blocking read lasts for a third of it at most.
        """
        self._election = election
        self._open_source = open_source
        self._leading = leading
        self._longest = ttl / 3
        self._source: ChannelSource | None = None
        self._handlers: dict[Part, tuple[Handler, ...]] = dict.fromkeys(Part, ())
        self._reading: _Reading | None = None
        self._closed = False
        self._silent_until = 0.0

    def on(self, part: Part, handler: Handler) -> None:
        """Call ``handler`` with each value that is sent to this part, on the channel's thread.

        It must return soon, since nothing else is read meanwhile; what it raises is logged.
        """
        self._handlers[part] += (handler,)

    def on_resign_request(self, act: Callable[[ResignRequest], None]) -> None:
        """Call ``act`` with requests to resign that mean the present tenure and still count.

        On the channel's thread. It must return soon.
        """
        self.on(Part.REQUESTS, lambda value, token: self._judge(value, token, act))

    def _judge(self, value: bytes, token: int, act: Callable[[ResignRequest], None]) -> None:
        request, source = decode_request(value), self._source
        if request is None or source is None:
            logger.warning(
                "Election %s: a request to the leader cannot be read; a newer release may have "
                "sent it",
                self._election,
            )
        elif request.token != token:
            logger.info("Election %s: a request means another tenure; ignored", self._election)
        elif self._is_too_late(request, source):
            # It lay in a list or in a buffer while this process stood still.
            logger.info("Election %s: a request came too late; ignored", self._election)
        else:
            act(request)

    def _is_too_late(self, request: ResignRequest, source: ChannelSource) -> bool:
        try:
            return source.now_us() > request.expires_us
        except StoreError as exc:
            # Broken off by the end of the tenure, or Redis is away: whoever asked sees no effect.
            logger.debug("Election %s: Redis's clock cannot be read: %s", self._election, exc)
            return True

    def follow(self) -> None:
        """Read from now on if this candidate leads, and no longer if it does not.

        Call it when either may have changed, and now and then. Does not block.
        """
        token, reading = self._leading.fencing_token, self._reading
        if reading is not None and reading.token == token and reading.thread.is_alive():
            return
        self.stop()
        if token is None or self._closed:
            return
        if self._source is None:
            self._source = self._open_source()
        self._reading = _Reading(self, self._source, token, reading)
        self._reading.thread.start()
        if self._closed:  # by a signal handler meanwhile
            self.stop()

    def stop(self) -> None:
        """Stop reading until ``follow()`` is called; before a resignation, for the successor."""
        reading = self._reading
        if reading is not None and not reading.over.is_set():
            reading.over.set()
            if self._source is not None:
                self._source.interrupt()

    def close(self) -> None:
        """Stop reading for good. May be called twice."""
        self._closed = True
        self.stop()

    def _hand_on(self, received: Received, token: int) -> None:
        handlers = self._handlers[received.part]
        if not handlers:
            if self._may_complain():
                logger.warning(
                    "Election %s: nothing here handles what was sent to the leader's list %r; a "
                    "newer release may have sent it",
                    self._election,
                    received.part.value,
                )
        for handler in handlers:
            try:
                handler(received.value, token)
            except Exception:
                logger.exception(
                    "Election %s: handling what was sent to the leader failed", self._election
                )

    def _failed(self, error: Exception, failures: int) -> None:
        if failures > _BEARABLE and self._may_complain():
            logger.warning(
                "Election %s: what is sent to the leader cannot be read: %s; trying again",
                self._election,
                error,
            )

    def _may_complain(self) -> bool:
        now = time.monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + _COMPLAIN_EVERY
        return True


class _Reading:
    """The reads of one tenure."""

    def __init__(
        self, channel: Channel, source: ChannelSource, token: int, before: _Reading | None
    ) -> None:
        self._channel = channel
        self._source = source
        self.token = token
        self._before: threading.Thread | None = None if before is None else before.thread
        self.over = threading.Event()
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name=f"leader:{channel._election}:channel", daemon=True
        )

    def _goes_on(self) -> bool:
        return not self.over.is_set() and self._channel._leading.fencing_token == self.token

    def _run(self) -> None:
        if self._before is not None:
            self._before.join()  # one thread at a time, for the source
            self._before = None
        failures = 0
        while self._goes_on():
            try:
                self._read()
            except Exception as exc:
                if not self._goes_on():
                    return
                failures += 1
                self._channel._failed(exc, failures)
                longest = self._channel._longest
                self.over.wait(backoff(failures, first=longest / 16, longest=longest))
            else:
                failures = 0

    def _read(self) -> None:
        # No longer than the lease, since what comes later is for the next leader.
        timeout = min(self._channel._longest, self._channel._leading.remaining)
        timeout = max(_SHORTEST, timeout)
        began = time.monotonic()
        received = self._source.take(timeout, self._goes_on)
        if received is None:
            # A proxy may answer at once.
            self.over.wait(max(0.0, timeout - (time.monotonic() - began)))
        elif self._goes_on():
            self._channel._hand_on(received, self.token)
        else:
            logger.info(
                "Election %s: dropped what was sent to a leader that no longer leads",
                self._channel._election,
            )
