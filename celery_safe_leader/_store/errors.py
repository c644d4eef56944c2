"""Turns errors of redis-py into ones that tell an operator what to do."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard
from urllib.parse import quote

from redis import exceptions as redis_errors

from celery_safe_leader.errors import StoreError, StoreRefusedError, StoreUnavailableError

__all__ = ["for_operator", "is_login_refused", "secrets_of", "translate"]

_RIGHT = (
    "the Redis user lacks a right that the election needs; `celery -A proj leader acl` prints all "
    "of them"
)
_OPERATORS_RIGHT = (
    "the Redis user lacks a right that an operator needs; `celery -A proj leader acl` prints all "
    "of them, in the line of the operator"
)
_NO_LOGIN = "Redis requires a password and none was given"
_WRONG_LOGIN = "Redis refuses the user name or password"
_LEAST = 4
_SLOTS = "the keys of one request are in several slots of the cluster"
_REFUSALS: tuple[tuple[str, str], ...] = (
    ("WRONGTYPE", "the key holds something that is not this package's; delete it or use another "
     "key for the election"),
    ("NOPERM", _RIGHT),
    # The same inside a script: the message of Redis 7 and Valkey, then that of Redis 6.
    ("ACL failure in script", _RIGHT),
    ("executing the script can't", _RIGHT),
    ("CROSSSLOT", _SLOTS),
    ("non local key", _SLOTS),  # inside a script
    ("NOAUTH", _NO_LOGIN),
    ("WRONGPASS", _WRONG_LOGIN),
    # redis-py strips the code and raises an OutOfMemoryError.
    ("OUTOFMEMORY", "Redis is out of memory and refuses writes"),
    ("-OOM ", "Redis is out of memory and refuses writes"),  # inside a script of Redis 6
    ("MISCONF", "Redis refuses writes because it cannot save to disk"),
    # From a cluster: redis-py's names, since it strips the code.
    ("MOVEDERROR", "the slot of this election is now on another node of the cluster, which is "
     "asked from here on"),
    ("TRYAGAINERROR", "the slot of this election is moving to another node of the cluster"),
    ("ASKERROR", "the slot of this election is moving to another node of the cluster"),
    ("CLUSTERDOWNERROR", "the cluster is down, or this node is cut off from most of it"),
    ("MASTERDOWNERROR", "this Redis is a replica that has lost its master"),
    ("UNBLOCKED", "the server that was asked has become a replica"),
)  # fmt: skip


_A_PORT = re.compile(r"connecting to [^/\s]+:\d+\.")
"""How redis-py names a server that is not a socket in the file system."""
_NO_FILE = "It is a file of the TLS settings: see ssl_ca_certs, ssl_certfile and ssl_keyfile"
"""Of an error that names only the server: nothing else that is opened for it is a file."""


def secrets_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the passwords among the settings of a connection pool, as they may be shown.

    Without those of less than four letters: nothing could be read any more where they are hidden.
    """
    found: list[str] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += secrets_of(value)
        elif isinstance(value, str) and "password" in str(name) and len(value) >= _LEAST:
            found += (value, quote(value, safe=""), repr(value)[1:-1])
    return tuple(dict.fromkeys(found))


def is_login_refused(error: Exception) -> TypeGuard[StoreRefusedError]:
    """Return whether Redis lets nobody in with this user name and password."""
    return isinstance(error, StoreRefusedError) and error.detail.startswith(
        (_NO_LOGIN, _WRONG_LOGIN)
    )


def for_operator(error: StoreError) -> StoreError:
    """Return an error of somebody who acts: a right that is missing is an operator's."""
    if not (isinstance(error, StoreRefusedError) and error.detail.startswith(_RIGHT)):
        return error
    detail = _OPERATORS_RIGHT + error.detail.removeprefix(_RIGHT)
    told = StoreRefusedError(error.key, detail, error.is_missing_right)
    told.__cause__ = error.__cause__
    return told


def translate(key: str, error: Exception, secrets: Iterable[str] = ()) -> StoreError:
    """Return our error for one of redis-py or of the operating system.

    Args:
        key: The Redis key or the election that the request was for.
        error: What was raised; the caller chains it with ``raise … from``.
        secrets: What must not be shown, in the error and in what is raised.
    """
    # A server repeats all arguments of a command that it does not know, passwords included.
    said, repeats, _ = str(error).partition(", with args beginning with")
    if repeats:
        error.args = (said,)  # it goes into tracebacks as the cause of ours
    for secret in secrets:
        if secret in said:
            said = said.replace(secret, "***")
            error.args = (said,)
    said = " ".join(said.split()) or type(error).__name__
    if (reason := _of_tls(error)) and reason not in said:
        said += f": {reason}"
    if isinstance(_beneath(error), FileNotFoundError) and _A_PORT.search(said):
        said += f" {_NO_FILE}"
    if isinstance(error, redis_errors.ReadOnlyError):
        return StoreRefusedError(key, f"this Redis is a read-only replica ({said})")
    refused = redis_errors.AuthenticationError | redis_errors.AuthorizationError
    if isinstance(error, refused):
        # NOAUTH, a code that redis-py strips.
        meaning = _NO_LOGIN if "Authentication required" in said else _WRONG_LOGIN
        return StoreRefusedError(key, f"{meaning} ({said})")
    if isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError):
        return StoreUnavailableError(key, f"no answer from Redis ({said})")
    for mark, meaning in _REFUSALS:
        if mark in said or mark in type(error).__name__.upper():
            is_missing_right = meaning in (_RIGHT, _SLOTS)
            return StoreRefusedError(key, f"{meaning} ({said})", is_missing_right)
    return StoreRefusedError(key, f"Redis refuses ({said})")


def _beneath(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _of_tls(error: BaseException) -> str:
    """Return what is wrong with TLS, which redis-py before 5.1 leaves out of its message."""
    beneath = _beneath(error)
    while beneath is not None:
        if isinstance(beneath, ssl.SSLError):
            return " ".join(str(beneath).split())
        beneath = _beneath(beneath)
    return ""
