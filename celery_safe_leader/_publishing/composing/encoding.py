"""Encodes messages before they are sent, so that one that cannot be encoded fails alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import amqp.serialization
import kombu.compression
import kombu.serialization
from kombu.utils import json

__all__ = ["Encoded", "check_headers", "encode"]

# Without annotations in some releases of kombu and py-amqp.
_compress: Any = kombu.compression.compress
_dumps: Any = kombu.serialization.dumps
_dumps_json: Any = json.dumps
_dumps_table: Any = amqp.serialization.dumps


class Encoded(NamedTuple):
    """A body as it goes over the wire."""

    body: bytes
    content_type: str
    content_encoding: str
    compression: str | None
    """The header that names the compression."""


def encode(content: Any, serializer: str, compression: str | None) -> Encoded:
    """Return a body encoded as ``Producer.publish`` would, which then sends it as it is."""
    content_type, content_encoding, body = _dumps(content, serializer=serializer)
    if isinstance(body, str):
        body = body.encode(content_encoding)
    header = None
    if compression:
        body, header = _compress(body, compression)
    return Encoded(body, content_type, content_encoding, header)


def check_headers(headers: Mapping[str, Any], driver: str) -> None:
    """Encode headers as the transport will, so that an error shows now.

    Args:
        headers: All headers of a message.
        driver: kombu's ``driver_type`` of the transport.
    """
    if driver == "amqp":
        _dumps_table("F", [headers])
    else:
        _dumps_json(headers)
