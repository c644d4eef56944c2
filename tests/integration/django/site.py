"""A Django project with an admin, in the process of the tests."""

from __future__ import annotations

import functools
from typing import Any

import django
from django.apps import AppConfig
from django.conf import settings
from django.core.management import call_command

from celery_safe_leader._django.set_up import set_up_project

__all__ = ["PAGE", "SafeLeaderHere", "app", "set_up"]

PAGE = "/admin/celery_safe_leader/leader/"
_HERE = "tests.integration.django.site"
app: Any = None
"""The project's Celery app, of one test at a time."""


class SafeLeaderHere(AppConfig):
    """As ``SafeLeaderConfig``, but other tests of this process want apps without ``install()``."""

    name = "celery_safe_leader"
    verbose_name = "Celery safe leader"

    def ready(self) -> None:
        set_up_project()


@functools.cache
def set_up() -> None:
    """Set Django up, once for all tests of a process."""
    settings.configure(
        ALLOWED_HOSTS=["testserver", "127.0.0.1"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions")),
            *(f"django.contrib.{name}" for name in ("messages", "staticfiles")),
            f"{_HERE}.SafeLeaderHere",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        ROOT_URLCONF="tests.integration.django.urls",
        SAFE_LEADER_APP=f"{_HERE}.app",
        SECRET_KEY="of a test",
        STATIC_URL="/static/",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", verbosity=0)
