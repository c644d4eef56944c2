"""Workers with an embedded beat lead before those without: who leads has to dispatch.

As long as such a worker lives, it shows a sign in Redis, which expires by itself. A worker without
a beat looks for it now and then, and when it is elected; while the sign is there, it takes no part
in the election. The sign decides only who takes part, never who leads.
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
"""Why a worker takes no part in the election: others have beats, and it has none."""
_LIFE = 3.0
"""Times the ttl: how long a sign is there without being renewed."""
_GLANCE = 0.1
"""Seconds between two looks at whether there is something to do."""


def sign_key(keys: ElectionKeys) -> str:
    """Return the name of the sign: a string, the id of the worker that wrote it last."""
    return f"{keys.lease.removesuffix('lease')}embedded-beat"


class Precedence:
    """Shows the sign for a worker with a beat, or looks for it for one without.

    On a thread of its own, which no task and no renewal waits for. Without an answer from Redis
    all stays as it is: then nobody is elected, either.
    """

    def __init__(self, settings: LeaderSettings, member: Member, keeper: Keeper | None) -> None:
        """Start nothing.

        Args:
            settings: Of the app.
            member: The worker's part in the election.
            keeper: Of its beat, if it has one that follows it.
        """
        self._settings = settings
        self._member = member
        self._keeper = keeper
        self._key = sign_key(member.keys)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: redis.Redis | None = None
        self._stays_away = False
        self._shown = False

    def start(self) -> None:
        """Begin, once the pool's processes are there. May be called again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="leader:precedence", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End, and take the own sign away. Blocks for two round trips at most."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2 * self._settings.candidate_options.request_timeout)

    def _run(self) -> None:
        pause = self._settings.ttl / 3
        while not self._closing.is_set():
            try:
                if self._keeper is None:
                    self._look()
                elif self._keeper.runs and self._member.leader.active:
                    self._show()
            except redis.RedisError:
                self._forget_client()
            except Exception:
                logger.exception("Whether workers with a beat are there cannot be told; going on")
            if self._keeper is not None:
                self._closing.wait(pause if self._shown else _GLANCE)
            else:
                self._wait_for_election(pause)
        with contextlib.suppress(redis.RedisError):
            self._take_away()
        self._forget_client()

    def _wait_for_election(self, pause: float) -> None:
        token = self._member.leader.fencing_token
        left = pause
        while left > 0 and not self._closing.wait(_GLANCE):
            left -= _GLANCE
            if self._member.leader.fencing_token not in (token, None):
                return

    def _show(self) -> None:
        life = round(1000 * _LIFE * self._settings.ttl)
        self._connected().set(self._key, self._member.leader.candidate_id, px=life)
        self._shown = True

    def _look(self) -> None:
        there = bool(self._connected().exists(self._key))
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
                "No worker with an embedded beat is there any longer: this one takes part in the "
                "election again"
            )
            self._member.elect(_ELSEWHERE)

    def _take_away(self) -> None:
        # Had another one written meanwhile, it writes again before long.
        mine = self._member.leader.candidate_id.encode()
        if self._shown and self._connected().get(self._key) == mine:
            self._connected().delete(self._key)

    def _connected(self) -> redis.Redis:
        if self._client is None:
            self._client = redis_client(self._settings, self._key)
        return self._client

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(redis.RedisError):
                client.close()
