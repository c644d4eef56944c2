"""Errors of redis-py in words that tell what to do."""

from __future__ import annotations

import traceback
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis import exceptions as redis_errors

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Observe
from celery_safe_leader._store.errors import secrets_of, translate
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.sync import RedisStore
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError

SECRET = "hush&7f3a"


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ConnectionError("Error 111 connecting to localhost:6379"),
        redis_errors.TimeoutError("Timeout reading from socket"),
        redis_errors.BusyLoadingError("Redis is loading the dataset in memory"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(),
        OSError("no route to host"),
    ],
)
def test_no_answer_means_that_the_outcome_is_unknown(error: Exception) -> None:
    translated = translate("k", error)
    assert isinstance(translated, StoreUnavailableError)
    assert str(translated).startswith("k: no answer from Redis (")


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (redis_errors.ReadOnlyError("You can't write against a read only replica."), "replica"),
        (redis_errors.AuthenticationError("WRONGPASS invalid"), "refuses the user name or passw"),
        (redis_errors.AuthenticationError("Authentication required."), "and none was given"),
        (redis_errors.NoPermissionError("this user has no permissions"), "lacks a right"),
        (redis_errors.ResponseError("WRONGTYPE Operation against a key"), "delete it or use anot"),
        (redis_errors.OutOfMemoryError("command not allowed when used memory"), "out of memory"),
        (redis_errors.ResponseError("MISCONF Redis is configured to save"), "cannot save to disk"),
        (redis_errors.ResponseError("NOTOKEN the fencing token"), "Redis refuses (NOTOKEN the"),
        (redis_errors.ResponseError("ACL failure in script: User x has no"), "lacks a right"),
        (redis_errors.MovedError("7 127.0.0.1:1"), "now on another node of the cluster"),
        (redis_errors.AskError("7 127.0.0.1:1"), "is moving to another node"),
        (redis_errors.TryAgainError("Multiple keys request during"), "is moving to another node"),
        (redis_errors.ClusterDownError("Hash slot not served"), "the cluster is down"),
        (redis_errors.MasterDownError("Link with MASTER is down"), "that has lost its mast"),
        (redis_errors.ResponseError("UNBLOCKED force unblock from"), "has become a replica"),
        (
            redis_errors.ResponseError("The user executing the script can't run this command"),
            "lacks a right",
        ),
    ],
)
def test_a_refusal_says_what_to_do(error: Exception, meaning: str) -> None:
    translated = translate("k", error)
    assert isinstance(translated, StoreRefusedError)
    assert meaning in str(translated)
    assert str(error).split()[-1] in str(translated)


def test_the_text_is_one_line() -> None:
    assert "\n" not in str(translate("k", redis_errors.ResponseError("a\r\n  b\nc")))
    assert "a b c" in str(translate("k", redis_errors.ResponseError("a\r\n  b\nc")))


def test_an_error_without_words_is_named_by_its_type() -> None:
    assert "ResponseError" in str(translate("k", redis_errors.ResponseError()))


class Talkative(redis.Connection):
    """Fails with its login in its words, as a library below it may."""

    def connect(self) -> None:
        raise redis.ConnectionError(f"cannot log in with {self.credentials} or {quote(SECRET)}")

    @property
    def credentials(self) -> str:
        return repr(self.password)


def test_the_password_of_the_connection_is_shown_nowhere() -> None:
    pool = redis.ConnectionPool(connection_class=Talkative, password=SECRET, host="h")
    clients = [redis.Redis(connection_pool=pool) for _ in range(2)]
    store = RedisStore(clients[0], clients[1], ElectionKeys("shop"))
    with pytest.raises(StoreUnavailableError) as caught:
        store.execute(Observe(Instant(0.0, 0.0, 0.0), "n", 10.0, 0))
    assert "cannot log in with '***' or ***" in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    assert "hush" not in told


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        ({"password": "hush-1", "username": "shop"}, ("hush-1",)),
        ({"password": "a&b%", "host": "h"}, ("a&b%", "a%26b%25")),
        ({"sentinel_kwargs": {"password": "psst"}, "ssl_password": "quiet"}, ("psst", "quiet")),
        ({"password": "abc"}, ()),
        ({"password": None, "db": 0}, ()),
    ],
)
def test_passwords_among_settings_are_found(
    settings: dict[str, Any], secrets: tuple[str, ...]
) -> None:
    assert secrets_of(settings) == secrets
