"""What is refused when a candidate is made, each with its message; both libraries."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

import celery_safe_leader
from celery_safe_leader import ConfigurationError

GOOD: dict[str, Any] = {"redis": "redis://127.0.0.1:1", "key": "k", "ttl": 1.5, "wait": 3}
SECONDS = "it must be a number of seconds from 0.05 to 86400"
PAUSE = "it must be a number of seconds from 0.001 to 86400"
NAME = "it must be the name of the election: a string of 1 to 1024 bytes"
MILLISECONDS = (
    "ttl is 1500 s; it must be at most 300 s, since a longer one was most likely meant as "
    "milliseconds (then write 1.5); pass allow_long_ttl=True if you mean seconds"
)

BAD: list[tuple[str, Any, str]] = [
    ("ttl", 0, f"ttl is 0; {SECONDS}"),
    ("ttl", -1, f"ttl is -1; {SECONDS}"),
    ("ttl", math.nan, f"ttl is nan; {SECONDS}"),
    ("ttl", math.inf, f"ttl is inf; {SECONDS}"),
    ("ttl", -math.inf, f"ttl is -inf; {SECONDS}"),
    ("ttl", 1500, MILLISECONDS),
    ("ttl", "10", f"ttl is '10' (a str); {SECONDS}"),
    ("ttl", True, f"ttl is True (a bool); {SECONDS}"),
    ("ttl", None, f"ttl is None (a NoneType); {SECONDS}"),
    ("ttl", timedelta(0), f"ttl is 0.0; {SECONDS}"),
    ("wait", 0, f"wait is 0; {PAUSE}"),
    ("wait", -3, f"wait is -3; {PAUSE}"),
    ("wait", math.nan, f"wait is nan; {PAUSE}"),
    ("wait", math.inf, f"wait is inf; {PAUSE}"),
    ("wait", "3", f"wait is '3' (a str); {PAUSE}"),
    ("wait", False, f"wait is False (a bool); {PAUSE}"),
    ("key", "", f"key is ''; {NAME}"),
    ("key", None, f"key is None (a NoneType); {NAME}"),
    ("key", 7, f"key is 7 (a int); {NAME}"),
    ("key", b"k", f"key is b'k' (a bytes); {NAME}"),
    ("wait_replicas", -1, "wait_replicas is -1; it must be at least 0"),
    ("wait_replicas", 1.5, "wait_replicas is 1.5; it must be a whole number"),
    ("wait_replicas", True, "wait_replicas is True; it must be a whole number"),
]


@pytest.fixture(params=["create_safe_redis_leader", "create_async_safe_redis_leader"])
def create(request: pytest.FixtureRequest) -> Any:
    return getattr(celery_safe_leader, request.param)


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(
    create: Any, name: str, value: object, message: str
):
    with pytest.raises(ConfigurationError) as caught:
        create(**{**GOOD, name: value})
    assert str(caught.value) == message
    assert caught.value.setting == name
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (None, ["redis is", "NoneType"]),
        (7, ["redis is", "int"]),
        ("http://127.0.0.1", ["redis is a URL with the scheme 'http'", "redis, valkey"]),
        ("http://user:s3cret@127.0.0.1", ["redis is a URL with the scheme 'http'", "rediss"]),
        ("127.0.0.1:6379", ["redis is not a URL (it has no scheme)"]),
        ("", ["redis is not a URL (it has no scheme)"]),
        ("redis://127.0.0.1:port", ["redis is", "port"]),
    ],
)
def test_what_is_no_redis_is_named_without_secrets(create: Any, value: object, parts: list[str]):
    with pytest.raises(ConfigurationError) as caught:
        create(**{**GOOD, "redis": value})
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert caught.value.setting == "redis"
    assert "s3cret" not in message + repr(caught.value)


@pytest.mark.parametrize("missing", ["redis", "key", "ttl"])
def test_what_is_missing_is_named(create: Any, missing: str):
    with pytest.raises(TypeError, match=f"'{missing}'"):
        create(**{name: value for name, value in GOOD.items() if name != missing})


def test_an_unknown_option_of_the_connection_is_named(create: Any):
    with pytest.raises(ConfigurationError, match="options is given with 'pasword'"):
        create(**GOOD, options={"pasword": "s3cret"})


@pytest.mark.parametrize(
    "terms",
    [
        {"ttl": 1.5, "wait": 3},
        {"ttl": 0.05},
        {"ttl": 300},
        {"ttl": 1500, "allow_long_ttl": True},
        {"ttl": timedelta(seconds=10), "wait": timedelta(seconds=1)},
        {"ttl": 10, "wait": None},
        {"key": "§ a:key with {braces}"},
        {"wait_replicas": 2},
    ],
    ids=str,
)
def test_what_is_allowed(create: Any, terms: dict[str, Any]):
    leader = create(**{**GOOD, **terms})
    assert not leader.is_leader
    assert leader.key == terms.get("key", "k")
