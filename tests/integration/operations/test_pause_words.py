"""Reasons and names that people give with ``leader pause`` are shown as text, wherever they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import LedgerKeys
from tests.integration.operations.commands import HOSTILE, Keeper, invoke
from tests.support.servers import ExternalServer


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_shown_as_text(shared_server: ExternalServer, key: str, text: str) -> None:
    keeper, names = Keeper(shared_server, key), LedgerKeys(key)
    keeper.write()
    keeper.tell("elected", ago=60.0)
    for name in (names.runs, names.pending):
        keeper.client.hset(name, SENTINEL, "1 g 1 whole/m beat")

    def run(*words: str) -> Any:
        found = invoke(shared_server.url, key, *words)
        assert found.code in (0, 1), found.output
        for line in found.lines:
            assert line.isprintable(), line
        if "--json" in words:
            return json.loads(found.output)
        assert max(map(len, found.lines)) < 700
        return found.output

    text = text[:200]  # more is refused, as a usage error
    run("pause", "--by", text, "--reason", text)
    shown = " ".join(text.split())[:20].encode("unicode_escape").decode()
    for words in (("status",), ("history",), ("check",), ("pause", "--by", text), ("resume",)):
        output = run(*words)
        if words[0] in ("status", "history"):
            assert shown in output
    run("pause", "--by", text, "--reason", text, "--json")
    for words in (("status",), ("history",), ("check",), ("resume", "--by", text)):
        run(*words, "--json")
