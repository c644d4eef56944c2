"""Whether a worker consumes the leader queue, and what happens when it cannot or must not.

A worker that leads and cannot consume the queue is useless as a leader. It says so, hands
leadership over and takes part again behind the others; alone, it tries again, after a pause that
grows. A worker that was told to stop consuming the queue takes no part until it is told to consume
it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.queue import LeaderQueue
from celery_safe_leader._worker.leader_only.waiting_calls import (
    answers_may_be_awaited,
    give_back_waiting_calls,
    take_waiting_calls,
)

__all__ = ["Consumption", "Participant"]

CANCELLED = "cancelled"
"""Reason to take no part: ``celery control cancel_consumer`` named the leader queue."""
_WHY = "leader_queue"
"""The cause in the history when a worker stands down."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
"""Seconds until a worker that could not consume the queue tries it again."""
_REMEDIES = {
    406: "It exists with other arguments: declare it in task_queues as it is, or delete it once it "
    "is empty. ",
    403: "Grant the broker's user the rights to configure, write and read it. ",
    405: "Another connection has declared or consumes it as exclusive. ",
}
"""Reply code of AMQP -> what to do, as a sentence."""


class Participant(Protocol):
    """What is asked of a worker's part in the election."""

    def elect(self, reason: str = ...) -> None:
        """Take part, unless another reason to stay away remains."""

    def resign(self, reason: str = ...) -> None:
        """Hand leadership over, and take no part until ``elect()`` is called with this reason."""

    def stand_down(self, why: str) -> None:
        """Hand leadership over, and take part again behind the others."""

    def campaign_in_time(self) -> None:
        """No longer let the others go first."""


class Consumption:
    """Keeps one worker consuming the leader queue while it leads. For the loop's thread."""

    def __init__(
        self,
        consumer: Any,
        queue: LeaderQueue,
        setting: str,
        member: Participant | None,
        leads: Callable[[], bool],
        soon: Callable[[Callable[[], object]], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """Take the place of the consumer's ways to add and to cancel a queue.

        Args:
            consumer: The worker's ``Consumer``.
            queue: Its leader queue.
            setting: ``leader_queue`` as the user spells it.
            member: Its part in the election, if it takes part.
            leads: Tells whether the worker leads and is not ending.
            soon: Lets the loop call a function, from any thread.
            fail: Ends the worker's connection to the broker, which is made anew then.
        """
        self._consumer = consumer
        self._queue = queue
        self._setting = setting
        self._member = member
        self._leads = leads
        self._soon = soon
        self._fail = fail
        self._failures = 0
        self._next_attempt = 0.0
        self._cancelled = False
        self.last_error: tuple[str, float] = ("", 0.0)
        """What last kept this worker from consuming the queue, and when by the wall clock."""
        self._errors = consumer.connection_errors
        self._add, self._cancel = consumer.add_task_queue, consumer.cancel_task_queue
        consumer.add_task_queue = self._add_any
        consumer.cancel_task_queue = self._cancel_any

    def prepare(self) -> None:
        """Declare the queue where messages wait in others first, bound to it before it is consumed.

        RabbitMQ delays messages so, those with a countdown, where queues are quorum queues.
        """
        if self._queue.is_on_a_topic_exchange:
            self._attempt(self._queue.declare)

    def follow(self) -> None:
        """Consume the queue if this worker leads, else stop consuming it.

        Raises:
            Exception: One of the consumer's connection errors: the broker is away.
        """
        if not self._leads():
            self.end()
        elif not self._queue.consumed and time.monotonic() >= self._next_attempt:
            if self._attempt(self._queue.consume) and self._failures:
                self._failures = 0
                if self._member is not None:
                    self._member.campaign_in_time()

    def end(self) -> None:
        """Stop consuming the queue; what waits here for its turn goes back.

        Raises:
            Exception: One of the consumer's connection errors: the broker is away.
        """
        if self._attempt(self._queue.cancel):
            give_back_waiting_calls(self._consumer)

    def take_waiting(self) -> list[Any]:
        """End what waits here for its turn, because the worker ends; return the messages.

        They go back once the worker can be sent none of them again, as ``leave()`` tells.
        """
        if self._queue.is_left_at_once or answers_may_be_awaited(self._consumer):
            return take_waiting_calls(self._consumer)
        return []

    def leave(self) -> bool:
        """Stop consuming the queue because the worker ends.

        Returns:
            Whether the worker is sent no message of it any more. If not, its last question for a
            message has to be answered first.

        Raises:
            Exception: One of the consumer's connection errors: the broker is away.
        """
        if self._queue.is_left_at_once or answers_may_be_awaited(self._consumer):
            self._attempt(self._queue.cancel)
        return self._queue.is_left_at_once

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except self._errors:
            raise
        except Exception as exc:  # what a transport raises for a refusal differs
            self._failed(exc)
            if self._queue.is_deaf:
                self._fail(ConnectionResetError(f"the broker closed the channel: {exc}"))
            return False
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        pause = backoff(self._failures, first=_SHORTEST_PAUSE, longest=_LONGEST_PAUSE)
        self._next_attempt = time.monotonic() + pause
        text = f"cannot consume leader queue {self._queue.name}: {error}"
        self.last_error = (text, time.time())
        logger.error(
            "Cannot consume leader queue %s (%s): %s. %sThis worker hands leadership over; alone, "
            "it tries again in %g s",
            self._queue.name,
            self._setting,
            str(error).rstrip("."),
            _REMEDIES.get(getattr(error, "reply_code", 0), ""),
            pause,
        )
        if self._member is not None:
            self._background(lambda member: member.stand_down(_WHY))
        timer = threading.Timer(pause, self._soon, (self.follow,))
        timer.name, timer.daemon = "leader:queue", True
        timer.start()

    def _background(self, action: Callable[[Participant], None]) -> None:
        """Do what waits for Redis elsewhere: the loop has messages to take."""
        threading.Thread(
            target=action, args=(self._member,), name="leader:queue", daemon=True
        ).start()

    # What ``celery control add_consumer`` and ``cancel_consumer`` call

    def _add_any(self, queue: Any, *args: Any, **kwargs: Any) -> Any:
        if queue != self._queue.name:
            return self._add(queue, *args, **kwargs)
        if self._cancelled and self._member is not None:
            self._cancelled = False
            logger.info("Told to consume leader queue %s again: taking part in the election", queue)
            self._background(lambda member: member.elect(CANCELLED))
        else:
            logger.warning(
                "Refused to consume %s: it is the leader queue, which a worker consumes by itself "
                "while it leads",
                queue,
            )
        return None

    def _cancel_any(self, queue: Any) -> Any:
        if queue != self._queue.name or self._member is None:
            return self._cancel(queue)
        self._cancelled = True
        text = f"celery control cancel_consumer {queue}: this worker takes no part since then"
        self.last_error = (text, time.time())
        logger.warning(
            "Told to stop consuming leader queue %s: this worker takes no part in the election "
            "until it is told to consume it again (celery control add_consumer %s)",
            queue,
            queue,
        )
        self._background(lambda member: member.resign(CANCELLED))
        return None
