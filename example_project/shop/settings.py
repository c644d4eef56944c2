"""Django settings. What differs between machines comes from the environment, as ``SHOP_…``."""

import os
from datetime import timedelta
from pathlib import Path

from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def seconds(name: str, default: float) -> float:
    """Read a number of seconds from the environment."""
    text = os.environ.get(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {text!r}; it must be a number of seconds") from None


# The project serves no pages, so nothing is signed with this key. One that does must set its own.
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only-for-the-example")
# With celery_safe_leader the workers execute each periodic run once, even if it comes twice.
INSTALLED_APPS = ["celery_safe_leader", "orders"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Several worker processes write. WAL lets them read meanwhile; IMMEDIATE takes the write lock at
# the start of a transaction, where SQLite honours the timeout (it does not when a read turns
# into a write).
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", str(BASE_DIR / "shop.sqlite3")),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

CELERY_BROKER_URL = os.environ.get("SHOP_BROKER_URL", "redis://127.0.0.1:6379/0")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = TIME_ZONE

# Start as many beats as you like: one of them leads and dispatches, the others stand by.
CELERY_BEAT_SCHEDULER = "celery_safe_leader.LeaderScheduler"
# Projects and environments (staging, production) that share a Redis need different keys.
CELERY_LEADER_KEY = os.environ.get("SHOP_LEADER_KEY", "shop")
# Where the election is held. This is the default as long as the broker is a Redis.
CELERY_LEADER_URL = os.environ.get("SHOP_LEADER_URL", CELERY_BROKER_URL)
# After a crash of the leader another beat leads within 1.01 * ttl + wait seconds.
CELERY_LEADER_TTL = seconds("SHOP_LEADER_TTL", 10.0)
CELERY_LEADER_WAIT = seconds("SHOP_LEADER_WAIT", 2.0)

CELERY_BEAT_SCHEDULE = {
    "count-stock": {
        "task": "orders.tasks.count_stock",
        "schedule": timedelta(seconds=1),
    },
    "poll-payments": {
        "task": "orders.tasks.poll_payments",
        "schedule": timedelta(seconds=0.25),
    },
    "send-report": {
        "task": "orders.tasks.send_report",
        "schedule": crontab(),  # every minute
    },
}
