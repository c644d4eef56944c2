"""The ledger's half of the question whether it and the broker are one database of one server."""

from __future__ import annotations

from typing import Any

import redis

from celery_safe_leader._store.errors import translate

__all__ = ["read_probe"]


def read_probe(
    client: Any,  # redis.Redis: its get has no usable annotations
    key: str,
) -> tuple[str, str]:
    """Return the value of a key and the ``run_id`` of the server; as the ledger's method."""
    try:
        value = client.get(key) or b""
        try:
            run_id = client.info("server").get("run_id", "")
        except redis.ResponseError:
            run_id = ""  # this user may not ask
    except (redis.RedisError, OSError) as exc:
        raise translate(key, exc) from exc
    return value.decode("utf-8", "replace"), str(run_id)
