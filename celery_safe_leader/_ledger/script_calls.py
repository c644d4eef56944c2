"""Script calls over redis-py: at most one execution each, with errors of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.lua import Script, load

__all__ = ["call", "identifying_script", "ledger_script"]

_PACKAGE = "celery_safe_leader._ledger"
_ELECTION = "celery_safe_leader._store"


def ledger_script(name: str, *preludes: str) -> Script:
    """Return a script of the ledger."""
    return load(_PACKAGE, name, *preludes)


def identifying_script(name: str) -> Script:
    """Return a script that says which server it ran on, as those of the election do."""
    return load(_PACKAGE, name, "sentinel", before=load(_ELECTION, "epoch").text)


def call(
    client: Any,  # redis.Redis: execute_command has no annotations
    script: Script,
    keys: Sequence[str],
    args: Sequence[bytes | str | int],
) -> Any:
    """Run a script once, and return its reply.

    Raises:
        StoreUnavailableError: No answer; it may have been executed.
        StoreRefusedError: Redis answered with an error.
    """
    tail = (len(keys), *keys, *args)
    try:
        try:
            return client.execute_command("EVALSHA", script.sha, *tail)
        except redis.exceptions.NoScriptError:
            # The server reported that it ran nothing, so nothing is executed twice.
            return client.execute_command("EVAL", script.text, *tail)
    except (redis.RedisError, OSError) as exc:
        raise translate(keys[0], exc) from exc
