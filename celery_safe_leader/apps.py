"""Registration with Django: ``INSTALLED_APPS = [..., "celery_safe_leader"]``."""

from __future__ import annotations

from celery import Celery

# Private, and what shared_task uses for the same purpose (celery/app/__init__.py, read in
# 5.4.0 to 5.7.0): all apps of the process, whether they are made before or after this.
from celery._state import _get_active_apps, connect_on_app_finalize
from django.apps import AppConfig

from celery_safe_leader._django.set_up import set_up_project
from celery_safe_leader.bootsteps import install

__all__ = ["SafeLeaderConfig"]


class SafeLeaderConfig(AppConfig):
    """Installs this package in every Celery app of the process."""

    name = "celery_safe_leader"
    verbose_name = "Celery safe leader"

    def ready(self) -> None:
        """Install it in all apps, those made later included."""
        connect_on_app_finalize(_install)
        for app in _get_active_apps():
            install(app)
        set_up_project()


def _install(app: Celery) -> None:
    install(app)
