"""The ledger of this release, and that of the one before, which runs in the same process."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

from tests.support.older_release import older_module

__all__ = ["Release", "older", "present"]


class Release(NamedTuple):
    """What a leader's steps need of a release."""

    codec: Any
    errors: Any
    ledger: Any
    results: Any
    store_errors: Any
    last_run: Any
    """Class of an entry's last run."""


@functools.cache
def present() -> Release:
    """This release."""
    names = ("_ledger.codec", "_ledger.errors", "_ledger.ledger", "_ledger.results", "errors")
    found: list[Any] = [importlib.import_module(f"celery_safe_leader.{n}") for n in names]
    codec, errors, ledger, results, store_errors = found
    return Release(codec, errors, ledger, results, store_errors, codec.LastRun)


@functools.cache
def older() -> Release:
    """The release before, with its own scripts."""
    names = ("ledger_codec", "ledger_errors", "ledger", "ledger_results")
    found: list[Any] = [older_module(f"_beat.{name}") for name in names]
    codec, errors, ledger, results = found
    return Release(codec, errors, ledger, results, older_module("errors"), codec.Run)
