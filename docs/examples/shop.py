"""A Celery app whose beat may run on any number of machines."""

import os

from celery import Celery

app = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.beat_scheduler = "celery_safe_leader.LeaderScheduler"
app.conf.leader_key = "shop-production"
app.conf.beat_schedule = {
    "count-stock": {"task": "shop.count_stock", "schedule": 1.0},
}


@app.task(name="shop.count_stock", bind=True)
def count_stock(self) -> None:
    """Say which due moment this run stands for."""
    print("counting, occurrence", self.request.id)
