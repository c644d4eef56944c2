"""Workers of an app with leader-only tasks, the app for calls, and the store of its marks."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from tests.support.celery.workers import Worker, import_app, leader_of, write_worker_app
from tests.support.processes import Children
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

__all__ = ["BROKERS", "TASKS", "WorkerFleet", "blind"]

BROKERS = ["redis", *["amqp"] * bool(rabbitmq_urls())]
"""What the fixture ``fleet`` runs on."""

TASKS = """
from celery.signals import task_prerun
from celery.worker.control import control_command
from celery_safe_leader.tasks import current_leadership, leader_only

def main_process():
    return os.getpid() if POOL in ("solo", "threads", "gevent") else os.getppid()

@task_prerun.connect
def look(**_):
    if os.path.exists("blind"):
        for name in [name for name in os.environ if name.startswith("SAFE_LEADER_BOARD_")]:
            os.environ[name] = "/proc/none/fd/0"

@app.task(name="below", bind=True, autoretry_for=(KeyError,), retry_kwargs={"countdown": 0.1})
@leader_only
def below(self, x):
    leadership = current_leadership()
    leadership.check()
    if x == "retry" and not self.request.retries:
        raise KeyError(x)
    return [main_process(), leadership.token, leadership.remaining(), leadership.candidate_id, x]

@leader_only(otherwise="skip")
@app.task(name="above")
def above(x):
    return main_process()

@leader_only(otherwise="fail")
@shared_task(name="shared-" + SUFFIX)
def shared(x):
    return main_process()

@app.task(name="total")
def total(values):
    return values

@leader_only
class Counted(app.Task):
    name = "counted"

    def run(self, x):
        return main_process()

counted = app.register_task(Counted())

@app.task(name="long", acks_late=True)
@leader_only
def long():
    leadership = current_leadership()
    store.rpush("long", f"began {leadership.token}")
    lost = leadership.lost.wait(20)
    at = time.monotonic()
    try:
        leadership.check()
    except Exception as error:
        store.rpush("long", f"lost {at} {type(error).__name__}")
        raise

@app.task(name="busy")
@leader_only
def busy(seconds):
    leadership = current_leadership()
    store.rpush("busy", "began")
    time.sleep(seconds)
    store.rpush("busy", f"ended {leadership.remaining() > 0}")

@control_command(args=[("queue", str)], signature="[QUEUE]")
def sneak(state, queue):
    # What nothing but a mistake does: consume a queue past the worker's own ways.
    tasks = state.consumer.task_consumer
    tasks.add_queue(state.consumer.app.amqp.queues[queue])
    tasks.consume()
"""


class WorkerFleet:
    """Starts them; ``close()`` ends them, and removes the queues."""

    def __init__(self, children: Children, folder: Path, server: Server, broker: str) -> None:
        self.children = children
        self.folder = folder
        self.server = server
        self.broker = broker
        self.workers: list[Worker] = []
        self.store = redis.Redis.from_url(server.url)
        self.suffix = uuid.uuid4().hex[:8]
        self.app: Any = None

    @property
    def queue(self) -> str:
        """Name of the leader queue."""
        return f"{self.suffix}.leader.shop"

    @property
    def plain(self) -> str:
        """Name of the queue that every worker consumes."""
        return f"plain-{self.suffix}"

    @property
    def spare(self) -> str:
        """Name of a queue to which nothing is sent."""
        return f"spare-{self.suffix}"

    def write(self, pool: str = "prefork", *, tasks: str = TASKS, **settings: Any) -> Any:
        """Write the app and import it, as a producer would."""
        self.write_only(pool, tasks=tasks, **settings)
        self.app = import_app(self.folder)
        return self.app

    def write_only(
        self, pool: str = "prefork", *, tasks: str = TASKS, broker: str = "", **settings: Any
    ) -> None:
        """Write the app, for the workers that are started from now on."""
        names = {"task_default_queue": self.plain, "leader_queue": self.queue, **settings}
        more = f"POOL, SUFFIX = {pool!r}, {self.suffix!r}\n{tasks}"
        write_worker_app(self.folder, broker or self.broker, self.server.url, more=more, **names)

    def start(self, *arguments: str) -> Worker:
        name = f"w{len(self.workers)}-{self.suffix}"
        options = arguments if "-c" in arguments else ("-c", "2", *arguments)
        worker = Worker(self.children, self.folder, *options, name=name)
        self.workers.append(worker)
        return worker

    def start_two(self, *arguments: str) -> tuple[Worker, Worker]:
        """Start two, and return leader and standby."""
        for _ in range(2):
            self.start(*arguments)
        leader = leader_of(self.workers, 30)
        (standby,) = (worker for worker in self.workers if worker is not leader)
        standby.wait_ready()
        standby.child.wait_for_line("leads (takes over", 30)
        return leader, standby

    def close(self) -> None:
        self.children.close()
        self.store.close()
        if self.broker.startswith("amqp"):
            with Celery(broker=self.broker).connection_for_write() as connection:
                for name in (self.plain, self.queue, self.spare):
                    connection.default_channel.queue_delete(name)
                    connection.default_channel.exchange_delete(name)
        if self.app is not None:
            self.app.store.close()
            self.app.app.close()


def blind(fleet: WorkerFleet) -> None:
    """Keep pool processes that have not looked yet from seeing whether their worker leads."""
    (fleet.folder / "blind").touch()
