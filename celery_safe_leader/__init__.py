"""Leader election for Celery: any number of beats and workers, of which exactly one leads.

``LeaderScheduler`` runs Celery's beat on every machine, with one that dispatches; with
``install(app)`` the workers execute each of its runs once. ``leader_only`` lets a task run on the
one elected worker.
``create_safe_redis_leader`` and ``create_async_safe_redis_leader`` are the election by itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_safe_leader.errors import (
    ConfigurationError,
    LeadershipLostError,
    LifecycleError,
    NotLeaderError,
    SafeLeaderError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from celery_safe_leader._core.events import Demoted, DemotionReason, Elected, HolderSeen
    from celery_safe_leader.aio import AsyncSafeLeader, create_async_safe_redis_leader
    from celery_safe_leader.beat import LeaderScheduler
    from celery_safe_leader.bootsteps import install
    from celery_safe_leader.leader import SafeLeader, create_safe_redis_leader
    from celery_safe_leader.tasks import Leadership, current_leadership, leader_only

__all__ = [
    "AsyncSafeLeader",
    "ConfigurationError",
    "Demoted",
    "DemotionReason",
    "Elected",
    "HolderSeen",
    "LeaderScheduler",
    "Leadership",
    "LeadershipLostError",
    "LifecycleError",
    "NotLeaderError",
    "SafeLeader",
    "SafeLeaderError",
    "StoreError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "create_async_safe_redis_leader",
    "create_safe_redis_leader",
    "current_leadership",
    "install",
    "leader_only",
]


_HOMES = {
    "_core.events": ("Demoted", "DemotionReason", "Elected", "HolderSeen"),
    "aio": ("AsyncSafeLeader", "create_async_safe_redis_leader"),
    "beat": ("LeaderScheduler",),
    "bootsteps": ("install",),
    "leader": ("SafeLeader", "create_safe_redis_leader"),
    "tasks": ("Leadership", "current_leadership", "leader_only"),
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the election alone never imports Celery, and a probe imports neither.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
