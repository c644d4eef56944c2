"""The order of the steps of a worker, which Celery keeps in sets: the same for every hash seed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from tests.support.processes import Children

ORDER = """
import json
import os
from celery import Celery
import celery_safe_leader

app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
app.conf.beat_scheduler = "celery_safe_leader.LeaderScheduler"
celery_safe_leader.install(app)
worker = app.WorkController(pool_cls="prefork", concurrency=1, beat=True)
print(json.dumps({
    "worker": [type(step).__name__ for step in worker.steps if step is not None],
    "consumer": [type(step).__name__ for step in worker.consumer.steps if step is not None],
    "board": any(name.startswith("SAFE_LEADER_BOARD_") for name in os.environ),
}))
worker.consumer.safe_leader.shutdown(worker.consumer)
"""


def test_the_election_starts_after_pool_and_connection_for_every_hash_seed(
    children: Children,
) -> None:
    def order(seed: int) -> dict[str, list[str]]:
        child = children.python(ORDER, env={"PYTHONHASHSEED": str(seed)}, name=f"seed {seed}")
        found: dict[str, list[str]] = json.loads(child.wait_for_line('{"worker"', 30).text)
        assert child.wait() == 0
        return found

    with ThreadPoolExecutor(2) as two:
        orders = list(two.map(order, range(4)))
    for found in orders:
        worker, consumer = found["worker"], found["consumer"]
        # No thread of the election runs when the pool forks, and both have ended before it ends.
        assert worker.index("Pool") < worker.index("Consumer")
        assert consumer.index("Connection") < consumer.index("Tasks")
        assert consumer.index("Events") < consumer.index("LeaderElection")
        assert consumer.index("Tasks") < consumer.index("LeaderElection")
        assert consumer.index("Tasks") < consumer.index("FirstPublicationWins")
        assert consumer[-1] == "Evloop"
        # The pool's processes and the beat's are started with it, in whichever order.
        assert found["board"]
        assert {"Beat", "Pool"} <= set(worker)
    # Celery itself leaves some of the order to the seed: what is asserted was not always so.
    assert len({json.dumps(found) for found in orders}) > 1
