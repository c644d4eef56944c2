"""Names of keys, and scripts as data."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys, checked_key
from celery_safe_leader._store.lua import load
from celery_safe_leader.errors import ConfigurationError

PACKAGE = "celery_safe_leader._store"
SCRIPTS = ("observe", "campaign", "renew", "resign")


def test_all_keys_of_one_key_share_a_slot() -> None:
    beat, worker, ledger = (
        ElectionKeys("shop", "beat"),
        ElectionKeys("shop", "worker"),
        LedgerKeys("shop"),
    )
    names = [
        *(name for keys in (beat, worker) for name in (keys.lease, keys.history, keys.wake)),
        beat.witness, beat.publication, beat.probe, ledger.runs, ledger.pending, ledger.running,
        ledger.versions, ledger.accepted("o"), ledger.again("o"),
    ]  # fmt: skip
    assert all(name.startswith("{leader:shop}:") for name in names)
    assert len(set(names)) == len(names)


def test_elections_are_named_for_people() -> None:
    assert ElectionKeys("shop").election == "shop"
    assert ElectionKeys("shop", "beat").election == "shop:beat"
    assert ElectionKeys("shop").lease == "{leader:shop}:lease"


@pytest.mark.parametrize("key", ["a", "ключ", "x" * 1024, "with {braces} and spaces"])
def test_a_key_is_any_text_of_some_length(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 1025, "ü" * 600, None, 7, b"bytes", "\ud800"])
def test_what_cannot_name_an_election_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^leader_key is .* must be the name") as caught:
        checked_key(key, "leader_key")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_its_prelude_its_text_and_the_digest_of_both(name: str) -> None:
    script = load(PACKAGE, name, "record")
    prelude, body = load(PACKAGE, "record"), load(PACKAGE, name)
    assert script.name == name
    assert script.text == f"{prelude.text}\n{body.text}"
    assert script.sha == hashlib.sha1(script.text.encode()).hexdigest()  # noqa: S324


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_takes_and_returns(name: str) -> None:
    text = load(PACKAGE, name).text
    assert text.startswith(f"-- {name}: ")
    for word in ("KEYS[1]", "-- ARGV", "-- RETURNS", "-- TIME"):
        assert word in text


def test_a_missing_script_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        load(PACKAGE, "no-such-script")
