"""The stand-alone election for blocking code: ``create_safe_redis_leader``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from celery_safe_leader._core.events import DemotionReason, Event
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.state import State
from celery_safe_leader._runtime.thread import ThreadRunner
from celery_safe_leader._runtime.views import LeaderViews
from celery_safe_leader._store.connection.client import Source, make_client, make_store_clients
from celery_safe_leader._store.keys import ElectionKeys, checked_key
from celery_safe_leader._store.sync import RedisStore

__all__ = ["SafeLeader", "create_safe_redis_leader"]


STOOD_DOWN = "stood_down:"
"""How the reason in the history begins when a candidate stands down."""


class SafeLeader(LeaderViews):
    """One candidate of one election.

    Thread-safe. In a forked child the object is an idle candidate with an id of its own. As a
    context manager it takes part on entry and is shut down on exit.
    """

    def __init__(self, runner: ThreadRunner) -> None:
        """Use ``create_safe_redis_leader`` instead."""
        super().__init__(runner.candidate)
        self._runner = runner

    def elect(self) -> None:
        """Take part in the election from now on. Does not block.

        Raises:
            LifecycleError: It takes part already, or was shut down.
        """
        self._runner.elect()

    def stop(self, *, timeout: float | None = None) -> None:
        """Stop taking part, and hand leadership over if it is held.

        Leadership ends before anything is sent. ``elect()`` may follow. Does nothing if this
        candidate does not take part. Blocks for one round trip, at most for ``timeout``; may be
        called from a signal handler, and from one that interrupts that handler.

        Args:
            timeout: Seconds to wait until Redis has the resignation; a third of the ttl by
                default. If it does not get there, others take over when the lease runs out.
        """
        self._runner.stop(DemotionReason.RESIGNED, self._handover_timeout(timeout))

    def shutdown(self, *, timeout: float | None = None) -> None:
        """Do what ``stop()`` does, then close the connections for good.

        May be called again, by other threads and signal handlers too: each call returns when the
        first one is done.
        """
        self._runner.shutdown(self._handover_timeout(timeout))

    def stand_down(self, why: str) -> None:
        """Hand leadership over to somebody who can work; afterwards ``elect()`` is behind others.

        From now on this candidate campaigns two ``wait`` later than the rules allow, until
        ``campaign_in_time()``: every other one goes first, and one that is alone leads again.
        Blocks as ``stop()`` does.

        Args:
            why: For the history: a word.
        """
        self.hand_over(f"{STOOD_DOWN}{why}")

    def hand_over(self, reason: str, successor: str = "") -> None:
        """Do what ``stand_down()`` does, for another reason.

        Args:
            reason: For the history, in one line.
            successor: Candidate id of the one that the others let go first, for one of their
                ``wait``; empty for nobody.
        """
        self._candidate.campaign_later(self.courtesy)
        timeout = self._handover_timeout(None)
        self._runner.stop(DemotionReason.RESIGNED, timeout, reason, successor)

    @property
    def courtesy(self) -> float:
        """Seconds for which a candidate that handed over lets the others go first."""
        return 2 * self._candidate.options.wait

    def campaign_in_time(self) -> None:
        """Campaign again as soon as the rules allow."""
        self._candidate.campaign_later(0.0)

    def describe(self, about: Callable[[], Mapping[str, Any]]) -> None:
        """Let ``leader status`` show more of this candidate.

        Args:
            about: Returns strings and numbers, and lists and mappings of them, without secrets.
                Called about once per ttl, on another thread; does no IO.
        """
        self._candidate.about = about

    def wait_until_leader(self, timeout: float | None = None) -> int:
        """Wait until this candidate leads.

        Args:
            timeout: Seconds to wait, at least 0; ``None`` for no limit.

        Returns:
            The fencing token: higher than that of every earlier leader of this key.

        Raises:
            TimeoutError: Not elected within ``timeout``; still a candidate.
            LifecycleError: It does not take part in the election, or no longer.

        Thread-safe. Blocks. Do not call it from a listener.
        """

        def settled() -> bool:
            return self.is_leader or self._candidate.state in (State.IDLE, State.CLOSED)

        while True:
            self._runner.changed.wait(settled, timeout)
            token = self._token_if_leader()
            if token is not None:
                return token
            if timeout is not None:
                raise self._not_elected(timeout)

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``ready()`` is true, but at most ``timeout`` seconds; return its last answer.

        It is called at each change of this candidate. Thread-safe; signal handlers run meanwhile.
        """
        return self._runner.changed.wait(ready, timeout)

    def wake(self) -> None:
        """Let ``wait()`` call its condition again. From any thread."""
        self._runner.changed.notify_all()

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call ``observer`` with every event, including those that have no listeners.

        It has to log failures: they are no longer logged when ``error`` has no listener.
        """
        self._runner.observer = observer

    def __enter__(self) -> SafeLeader:
        self.elect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


def create_safe_redis_leader(
    *,
    redis: Source,
    key: str,
    ttl: float | timedelta,
    wait: float | timedelta | None = None,
    wait_replicas: int = 0,
    allow_long_ttl: bool = False,
    options: Mapping[str, Any] | None = None,
) -> SafeLeader:
    """Make a candidate. Does no IO and starts no thread before ``elect()``.

    Args:
        redis: URL of a Redis or Valkey, of Sentinels or of nodes of a cluster; or a client of
            redis-py or valkey-py. The client's settings are used for separate connections, with
            time limits that fit the ttl and without retries.
        key: Name of the election. All candidates use the same name, and nobody else does.
        ttl: Length of the lease, in seconds: how soon after a crash another may take over.
        wait: Longest pause between two observations by a standby, in seconds; a fifth of the ttl
            by default. May be longer than the ttl.
        wait_replicas: Replicas of Redis that must confirm a lease before it counts.
        allow_long_ttl: Accept a ttl above 300 s.
        options: More options for redis-py's connection, such as ``password``; for Sentinels
            ``master_name`` and ``sentinel_kwargs``.

    Raises:
        ConfigurationError: A value is not allowed.
    """
    checked = Options(ttl, wait, wait_replicas, allow_long_ttl=allow_long_ttl)
    return build_leader(redis, ElectionKeys(checked_key(key)), checked, options or {})


def build_leader(
    server: Source,
    keys: ElectionKeys,
    options: Options,
    client_options: Mapping[str, Any],
    *,
    setting: str = "redis",
    options_setting: str = "options",
) -> SafeLeader:
    """Make a candidate from checked options, for the other modules of this package."""
    store = RedisStore(
        *make_store_clients(
            make_client,
            server,
            client_options,
            options,
            keys,
            setting=setting,
            options_setting=options_setting,
        ),
        keys,
        wait_replicas=options.wait_replicas,
        confirm_timeout=options.confirm_timeout,
    )
    runner = ThreadRunner(options, keys.election, store)
    store.announce(runner.candidate.presence, options.ttl)
    return SafeLeader(runner)
