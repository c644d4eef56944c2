"""A Django project, and users with and without permissions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from tests.integration.django import site
from tests.support.servers import Server

_numbers = itertools.count()


@pytest.fixture
def app(quick_server: Server, key: str, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The project's Celery app."""
    site.set_up()
    made = Celery(key, broker=quick_server.url, set_as_current=False)
    made.conf.update(leader_key=key, beat_scheduler="celery_safe_leader.LeaderScheduler")
    monkeypatch.setattr(site, "app", made)
    return made


@pytest.fixture
def user(app: Celery) -> Callable[..., Any]:
    """Make a client of a logged-in user with some permissions."""
    from django.contrib.auth.models import Permission, User
    from django.test import Client

    def log_in(*permissions: str, staff: bool = True, **options: Any) -> Any:
        made = User.objects.create_user(f"user-{next(_numbers)}", is_staff=staff)
        for name in permissions:
            found = Permission.objects.get(
                codename=name, content_type__app_label="celery_safe_leader"
            )
            made.user_permissions.add(found)
        client: Any = Client(**options)
        client.force_login(made)
        client.name = made.get_username()
        return client

    return log_in
