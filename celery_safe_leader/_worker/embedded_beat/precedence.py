"""Workers with an embedded beat lead before those without, because the leader has to dispatch.

As long as such a worker lives, it keeps a sign in Redis, which expires by itself. A worker without
a beat looks for it regularly, and when it is elected; while the sign exists, it takes no part in
the election. The sign decides only who takes part, never who leads.
"""

from __future__ import annotations

import contextlib
import threading

import redis

from celery_safe_leader._clients import redis_client
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._worker.embedded_beat.keeper import Keeper
from celery_safe_leader._worker.member import Member
from celery_safe_leader.conf import LeaderSettings

__all__ = ["Precedence", "sign_key"]

_ELSEWHERE = "beats elsewhere"
"""Reason to take no part in the election: other workers have a beat, and this one has none."""
_LIFE = 3.0
"""How long a sign lasts without being renewed, in multiples of the ttl."""
_POLL = 0.1
"""Seconds between two checks of whether there is something to do."""


def sign_key(keys: ElectionKeys) -> str:
    """Return the Redis key of the sign: a string, the id of the worker that wrote it last."""
    return f"{keys.lease.removesuffix('lease')}embedded-beat"


class Precedence:
    """Keeps the sign for a worker with a beat, or looks for it for a worker without one.

    It works on a background thread, for which no task and no renewal waits. While Redis does not
    answer, nothing changes: nobody is elected then, either.
    """

    def __init__(self, settings: LeaderSettings, member: Member, keeper: Keeper | None) -> None:
        """Prepare; starts nothing.

        Args:
            settings: Of the app.
            member: The worker's part in the election.
            keeper: Of its beat, if it has a beat that follows it.
        """
        self._settings = settings
        self._member = member
        self._keeper = keeper
        self._key = sign_key(member.keys)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: redis.Redis | None = None
        self._stays_away = False
        self._sign_written = False

    def start(self) -> None:
        """Start the thread, after the pool's processes have been started. May be called again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="leader:precedence", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread, which removes this worker's sign. Blocks for at most two round trips."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2 * self._settings.candidate_options.request_timeout)

    def _run(self) -> None:
        pause = self._settings.ttl / 3
        while not self._closing.is_set():
            try:
                if self._keeper is None:
                    self._check_sign()
                elif self._keeper.runs and self._member.leader.active:
                    self._write_sign()
            except redis.RedisError:
                self._forget_client()
            except Exception:
                logger.exception(
                    "Cannot tell whether other workers have an embedded beat; continuing"
                )
            if self._keeper is not None:
                self._closing.wait(pause if self._sign_written else _POLL)
            else:
                self._wait_for_election(pause)
        with contextlib.suppress(redis.RedisError):
            self._remove_sign()
        self._forget_client()

    def _wait_for_election(self, pause: float) -> None:
        token = self._member.leader.fencing_token
        left = pause
        while left > 0 and not self._closing.wait(_POLL):
            left -= _POLL
            if self._member.leader.fencing_token not in (token, None):
                return

    def _write_sign(self) -> None:
        life = round(1000 * _LIFE * self._settings.ttl)
        self._connection().set(self._key, self._member.leader.candidate_id, px=life)
        self._sign_written = True

    def _check_sign(self) -> None:
        there = bool(self._connection().exists(self._key))
        if there and not self._stays_away:
            self._stays_away = True
            logger.info(
                "Other workers have an embedded beat, and this one has none: it leaves the "
                "election to them"
            )
            self._member.resign(_ELSEWHERE)
        elif not there and self._stays_away:
            self._stays_away = False
            logger.info(
                "No worker with an embedded beat is left: this one takes part in the election again"
            )
            self._member.elect(_ELSEWHERE)

    def _remove_sign(self) -> None:
        # If another worker has written it meanwhile, that one writes it again before long.
        mine = self._member.leader.candidate_id.encode()
        if self._sign_written and self._connection().get(self._key) == mine:
            self._connection().delete(self._key)

    def _connection(self) -> redis.Redis:
        if self._client is None:
            self._client = redis_client(self._settings, self._key)
        return self._client

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(redis.RedisError):
                client.close()
