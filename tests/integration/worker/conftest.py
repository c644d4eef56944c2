"""Leader-only tasks of one test must not change the apps of another."""

from __future__ import annotations

import pytest
from celery import _state


@pytest.fixture(autouse=True)
def _for_the_apps_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what the decorator asked of all apps that are to come."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
