"""Periodic tasks. A real shop would do some work here; these record that they ran."""

from celery import Task, shared_task

from .models import Run


@shared_task(bind=True)
def count_stock(self: Task) -> None:
    """Run every second."""
    Run.record(self.request)


@shared_task(bind=True)
def poll_payments(self: Task) -> None:
    """Run four times a second."""
    Run.record(self.request)


@shared_task(bind=True)
def send_report(self: Task) -> None:
    """Run every minute."""
    Run.record(self.request)
