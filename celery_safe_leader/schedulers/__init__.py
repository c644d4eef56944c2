"""Other packages' schedulers on any number of machines, of which one dispatches.

    celery -A proj beat -S celery_safe_leader.schedulers.LeaderDatabaseScheduler
    celery -A proj beat -S celery_safe_leader.schedulers.LeaderRedBeatScheduler

The packages are imported when a class is used. ``LeaderSchedulerMixin`` makes such a class from any
other scheduler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_safe_leader._beat.mixin.scheduler import LeaderSchedulerMixin

if TYPE_CHECKING:
    from celery_safe_leader.schedulers.database import LeaderDatabaseScheduler
    from celery_safe_leader.schedulers.redbeat import LeaderRedBeatScheduler

__all__ = ["LeaderDatabaseScheduler", "LeaderRedBeatScheduler", "LeaderSchedulerMixin"]

_READY = {
    "LeaderDatabaseScheduler": ("database", ("django_celery_beat", "django"), "django-celery-beat"),
    "LeaderRedBeatScheduler": ("redbeat", ("redbeat",), "redbeat"),
}
"""Class -> its module, the packages that it needs, the extra that installs them."""


def __getattr__(name: str) -> Any:
    if name not in _READY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, packages, extra = _READY[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in packages:
            raise
        raise ImportError(
            f"{name} needs the package {package}, which is not installed: "
            f'pip install ".[{extra}]" in a checkout of celery-safe-leader',
            name=package,
        ) from exc
