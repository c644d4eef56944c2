"""What Django's permissions are about. There is no table, no row and no migration.

Django makes permissions for models alone, with ``manage.py migrate``. This one exists for nothing
else, and for its place in the admin.
"""

from __future__ import annotations

from typing import Any

from django.db import models

__all__ = ["Leader"]


class _NoRows(models.Manager):  # type: ignore[type-arg, unused-ignore]
    """Asks no database: there is no table. So `dumpdata` and the like find nothing."""

    def get_queryset(self) -> Any:
        return super().get_queryset().none()


class Leader(models.Model):
    """The elections and the ledger of the project's Celery app, which are in Redis."""

    key = models.CharField(primary_key=True, max_length=200)

    objects = _NoRows()

    class Meta:
        """Permissions, and nothing in the database."""

        # Also where this module is imported though the app is not installed.
        app_label = "celery_safe_leader"
        managed = False
        base_manager_name = "objects"
        default_permissions = ("view",)
        permissions = (("act_leader", "Can pause, resume and resign"),)
        verbose_name = verbose_name_plural = "Leader election"

    def __str__(self) -> str:
        return str(self.key)
