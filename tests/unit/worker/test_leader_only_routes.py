"""Calls of leader-only tasks go to the leader queue from processes that only send."""

from __future__ import annotations

import pytest

from tests.support.processes import Children

PRODUCER = """
from celery import Celery
from celery_safe_leader import leader_only

app = Celery("shop", broker="memory://")
{before}

@app.task
@leader_only
def below(): pass

@leader_only
@app.task
def above(): pass

{after}
sent = []
app.amqp.send_task_message = lambda *args, queue, **options: sent.append(queue)
below.delay()
above.delay()
app.tasks
below.delay()
print("sent", [queue.name for queue in sent])
"""
ROUTES = "app.conf.task_routes = {'other': {'queue': 'other'}}"


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), (ROUTES, ""), ("", ROUTES), ("app.conf.update(timezone='UTC')", "")],
    ids=["no routes", "routes before", "routes after", "configured"],
)
def test_a_process_that_sends_before_the_app_is_finalized_uses_the_queue(
    before: str, after: str, children: Children
) -> None:
    source = PRODUCER.format(before=before, after=after)
    line = children.python(source).wait_for_line("sent", 30).text
    assert line == f"sent {['leader.shop'] * 3}"
