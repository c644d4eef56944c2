"""Metrics of one process on the page of another: as bytes, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from celery_safe_leader._runtime.service.counts import Distribution
from celery_safe_leader._runtime.service.metrics import Family

__all__ = ["pack_families", "unpack_families"]


def pack_families(families: Iterable[Family]) -> bytes:
    """Return metrics as bytes."""
    rows = [
        (each.kind, each.name, each.help, [(labels, _plain(v)) for labels, v in each.values])
        for each in families
    ]
    return json.dumps(rows, separators=(",", ":")).encode()


def unpack_families(data: bytes) -> list[Family]:
    """Return the metrics of ``pack_families``; none of bytes that are something else."""
    try:
        return [
            Family(
                kind,
                name,
                help,
                tuple(
                    (tuple((label, text) for label, text in labels), _value(value))
                    for labels, value in values
                ),
            )
            for kind, name, help, values in json.loads(data or b"[]")
        ]
    except (ValueError, TypeError, KeyError):
        return []


def _plain(value: Any) -> Any:
    if not isinstance(value, Distribution):
        return value
    bounds, counts, total = value.contents()
    return {"bounds": bounds, "counts": counts, "sum": total}


def _value(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    return Distribution.of(plain["bounds"], plain["counts"], plain["sum"])
