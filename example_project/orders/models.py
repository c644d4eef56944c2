"""What the tasks leave behind."""

import os
import socket

from celery.app.task import Context
from django.db import models
from django.utils import timezone


class Run(models.Model):
    """One execution of a periodic task.

    Nothing here is unique on purpose: should a task run twice, both runs are to be seen.
    """

    task = models.CharField(max_length=200)
    task_id = models.CharField(max_length=200)
    occurrence = models.CharField(max_length=200, blank=True)
    """Which due run this was. The same in every copy of the message."""
    covers = models.CharField(max_length=64, blank=True)
    """First and last due moment that the run stands for: UTC microseconds, "first,last"."""
    token = models.BigIntegerField(null=True)
    """Fencing token of the leader that dispatched it."""
    publication = models.CharField(max_length=200, blank=True)
    """Which copy of the message this was."""
    worker = models.CharField(max_length=200)
    """Host and process that executed it."""
    executed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        """Oldest first."""

        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.task} for {self.covers or 'an unknown moment'}"

    @classmethod
    def record(cls, request: Context) -> "Run":
        """Store the execution of a task.

        Args:
            request: ``self.request`` of a bound task. A call that did not come from the leading
                beat (``task()`` or ``task.delay()``) is recorded without an occurrence.
        """
        token = request.get("leader_token")
        return cls.objects.create(
            task=request.get("task") or "",
            task_id=request.get("id") or "",
            occurrence=request.get("leader_occurrence") or "",
            covers=_covers(request.get("leader_covers")),
            token=None if token is None else int(token),
            publication=request.get("leader_publication") or "",
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )


def _covers(header: object) -> str:
    """Bring the header to text: a broker may carry it as text or as a list."""
    if isinstance(header, (list, tuple)):
        return ",".join(str(moment) for moment in header)
    return str(header or "")
