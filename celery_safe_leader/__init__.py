"""Leader election for Celery: any number of beats and workers, of which exactly one leads.

``LeaderScheduler`` runs Celery's beat on every machine, with one that dispatches; with
``install(app)`` the workers execute each of its runs once.
``create_safe_redis_leader`` and ``create_async_safe_redis_leader`` are the election by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected
from celery_safe_leader.aio import AsyncSafeLeader, create_async_safe_redis_leader
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
from celery_safe_leader.leader import SafeLeader, create_safe_redis_leader

if TYPE_CHECKING:
    from celery_safe_leader.beat import LeaderScheduler
    from celery_safe_leader.bootsteps import install

__all__ = [
    "AsyncSafeLeader",
    "ConfigurationError",
    "Demoted",
    "DemotionReason",
    "Elected",
    "LeaderScheduler",
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
    "install",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that the election alone never imports Celery.
    if name == "LeaderScheduler":
        from celery_safe_leader.beat import LeaderScheduler

        return LeaderScheduler
    if name == "install":
        from celery_safe_leader.bootsteps import install

        return install
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
