"""Encodes messages before they are sent, so that what cannot be encoded shows on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import amqp.serialization
from kombu import compression, serialization
from kombu.utils import json

from celery_safe_leader._beat.routing import Draft

__all__ = ["check_headers", "encode"]

# Without annotations in some releases of kombu and py-amqp.
_compress: Any = compression.compress
_dumps: Any = serialization.dumps
_dumps_json: Any = json.dumps
_dumps_table: Any = amqp.serialization.dumps


def encode(draft: Draft) -> tuple[bytes, str, str]:
    """Encode the body as ``Producer.publish`` would; it then takes it as it is."""
    content_type, content_encoding, body = _dumps(draft.content, serializer=draft.serializer)
    if isinstance(body, str):
        body = body.encode(content_encoding)
    if draft.compression:
        body, draft.headers["compression"] = _compress(body, draft.compression)
    return body, content_type, content_encoding


def check_headers(headers: Mapping[str, Any], driver: str) -> None:
    """Encode headers as the transport will.

    Args:
        headers: All headers of a message.
        driver: kombu's ``driver_type`` of the transport.
    """
    if driver == "amqp":
        _dumps_table("F", [headers])
    else:
        _dumps_json(headers)
