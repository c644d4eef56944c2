"""What becomes of a Django project in whose ``INSTALLED_APPS`` this package is."""

from __future__ import annotations

from django.apps import apps

from celery_safe_leader._django.checks import register_checks

__all__ = ["set_up_project"]


def set_up_project() -> None:
    """Register the system checks, and the page if there is an admin. May be called again.

    Call it when all models are loaded.
    """
    register_checks()
    if apps.is_installed("django.contrib.admin"):
        from celery_safe_leader._django.admin_page import register_page

        register_page()
