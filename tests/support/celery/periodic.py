"""Entries of many kinds, sent by stock beat and by ours, to be compared field by field."""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from celery import Celery, Task
from celery.beat import BeatLazyFunc, ScheduleEntry, Scheduler
from celery.exceptions import CDeprecationWarning
from celery.signals import before_task_publish
from kombu.entity import Exchange, Queue

from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._publishing.own_way.called_message import CalledMessage
from celery_safe_leader._publishing.own_way.celerys_calls import CelerysCalls
from celery_safe_leader._publishing.publisher import Publisher

__all__ = [
    "CASES",
    "DUE",
    "DUE_US",
    "Case",
    "assert_same",
    "called_message",
    "make_app",
    "make_entry",
    "new_queue",
    "received",
    "stock_send",
    "yes",
]

DUE = datetime.now(timezone.utc).replace(microsecond=123456)
"""The due moment of all entries. What expires does so hours later, whenever its test runs."""
DUE_US = (DUE - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


class Wrapping(Task):
    """Has its own way of sending."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async([*(args or ()), "wrapped"], kwargs, **options)


class Shadowing(Task):
    abstract = True

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
        return f"{self.name}-{args[0]}"


class Calling(Task):
    """Has its own way of running, which concerns no message."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class Options:
    """A router of the kind that is a function."""

    def __call__(
        self, name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any
    ) -> dict[str, Any]:
        return {"priority": 3 if args else 4}


@dataclass
class Case:
    """An entry, and the app that it belongs to."""

    name: str
    args: Any = (1, "two")
    kwargs: Any = field(default_factory=dict)
    options: Callable[[str], dict[str, Any]] | dict[str, Any] = field(default_factory=dict)
    """A function of the queue's name, or the options."""
    task: str = "tests.plain"
    conf: Callable[[str], dict[str, Any]] | dict[str, Any] = field(default_factory=dict)
    """A function of the queue's name, or the settings."""
    repeated: bool = True
    """Whether a second run repeats the first one's message."""
    call: bool = False
    """Whether Celery's own code has to send it."""
    receiver: Callable[..., None] | None = None
    """Of ``before_task_publish``, by which Celery's own code has to send it as well."""

    def __str__(self) -> str:
        return self.name

    @contextlib.contextmanager
    def app(self, broker: str, **conf: Any) -> Iterator[Celery]:
        """Create the app that it belongs to, with a queue of its own; its receiver listens."""
        queue = new_queue()
        own = self.conf(queue) if callable(self.conf) else self.conf
        if self.receiver is not None:
            before_task_publish.connect(self.receiver)
        app = make_app(broker, queue, **conf, **own)
        try:
            yield app
        finally:
            app.close()
            if self.receiver is not None:
                before_task_publish.disconnect(self.receiver)


def queue_of(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def topic_of(name: str) -> Queue:
    return Queue(name, Exchange(f"{name}-topic", type="topic"), routing_key="a.#")


CASES = [
    Case("plain"),
    Case("no arguments", args=None, kwargs=None, task="tests.any"),
    Case("keyword arguments", args=(), kwargs={"x": 1, "y": {"deep": [1, None, True, 1.5]}}),
    Case("lazy arguments", args=(BeatLazyFunc(int, "7"), 2), repeated=False),
    Case("lazy keyword", args=(1,), kwargs={"y": BeatLazyFunc(str, 7)}, repeated=False),
    Case("argument without plain form", args=(DUE.date(), 2), repeated=False),
    Case("long argument", args=("x" * 5000, 2), repeated=False),
    Case("queue by name", options=lambda name: {"queue": name}),
    Case("queue object", options=lambda name: {"queue": queue_of(name)}, repeated=False),
    Case(
        "topic exchange",
        options=lambda name: {"queue": topic_of(name), "routing_key": "a.b"},
        repeated=False,
    ),
    Case("routing key", options=lambda name: {"routing_key": name}),
    Case("priority", options={"priority": 5}),
    Case("limits", options={"time_limit": 30, "soft_time_limit": 20}),
    Case("shadow", options={"shadow": "other name"}),
    Case("ignored result", options={"ignore_result": True}),
    Case("wanted result", options={"ignore_result": False}, task="tests.loaded"),
    Case("pickle", options={"serializer": "pickle"}),
    Case("compression", options={"compression": "zlib"}),
    Case("transient", options={"delivery_mode": 1}),
    Case("headers", options={"headers": {"tenant": "a", "number": 3, "other": "x"}}),
    Case("header of the protocol", options={"headers": {"root_id": "given"}}, repeated=False),
    Case("retry", options={"retry": True, "retry_policy": {"max_retries": 9}}),
    Case("mandatory", options={"mandatory": True}),
    Case("expires in seconds", options={"expires": 30_000}),
    Case("expires in parts of seconds", options={"expires": 30_000.25}),
    Case("expires at", options={"expires": DUE + timedelta(hours=9)}, repeated=False),
    Case("countdown", options={"countdown": 90.5}),
    Case("countdown of nothing", options={"countdown": 0}),
    Case("eta", options={"eta": DUE + timedelta(hours=9)}, repeated=False),
    Case("zone", options={"countdown": 5, "expires": 60}, conf={"timezone": "Australia/Lord_Howe"}),
    Case(
        "links",
        options=lambda name: {"link": {"task": "tests.any"}, "link_error": [{"task": "tests.any"}]},
    ),
    Case("not registered", task="elsewhere.unknown"),
    Case(
        "not registered, times",
        task="elsewhere.unknown",
        options={"expires": 90_000, "countdown": 1},
    ),
    Case("options of the task", task="tests.loaded"),
    Case("options of the task overridden", task="tests.loaded", options={"priority": 1}),
    Case("no expiry after all", task="tests.loaded", options={"expires": None}),
    Case("bound task", task="tests.bound"),
    Case("routes", conf={"task_routes": {"tests.*": {"priority": 2}}}),
    Case("router function", conf={"task_routes": (Options(),)}, repeated=False),
    Case("defaults", conf={"task_serializer": "pickle", "task_compression": "zlib"}),
    Case("transient by default", conf={"task_default_delivery_mode": 1}),
    Case("protocol 1", conf={"task_protocol": 1}, call=True),
    Case("protocol 1, times", conf={"task_protocol": 1}, options={"countdown": 5}, call=True),
    Case("overridden apply_async", task="tests.wrapping", call=True),
    Case(
        "overridden apply_async, times", task="tests.wrapping", options={"countdown": 9}, call=True
    ),
    Case("overridden shadow_name", task="tests.shadowing", call=True),
    Case("reply_to", options={"reply_to": "somebody"}, call=True),
    Case("expires as text", options={"expires": (DUE + timedelta(hours=9)).isoformat()}, call=True),
    Case("stamped", options={"stamped_headers": ["tenant"], "tenant": "a"}, call=True),
    Case("root id", options={"root_id": "given"}, call=True),
]


def make_app(broker: str, queue: str, **conf: Any) -> Celery:
    """Create an app with the tasks of the cases."""
    app = Celery("periodic", broker=broker, set_as_current=False)
    own = {
        "task_default_queue": queue,
        "result_backend": "cache+memory://",
        "broker_connection_timeout": 2,
    }
    app.conf.update({**own, **conf})
    # Celery shares tasks with all later apps of the process otherwise.
    task = partial(app.task, shared=False)

    @task(name="tests.plain")
    def plain(x: Any, y: Any) -> None: ...

    @task(name="tests.any")
    def anything(*args: Any, **kwargs: Any) -> None: ...

    @task(name="tests.bound", bind=True)
    def bound(self: Any, x: Any, y: Any) -> None: ...

    @task(
        name="tests.loaded", priority=7, expires=12_000, time_limit=50, soft_time_limit=40,
        ignore_result=True, serializer="pickle", compression="zlib", delivery_mode=1,
    )  # fmt: skip
    def loaded(x: Any, y: Any) -> None: ...

    @task(name="tests.wrapping", base=Wrapping)
    def wrapping(x: Any, y: Any, z: Any) -> None: ...

    @task(name="tests.calling", base=Calling)
    def calling(x: Any, y: Any) -> None: ...

    @task(name="tests.shadowing", base=Shadowing)
    def shadowing(x: Any, y: Any) -> None: ...

    with warnings.catch_warnings():
        # Attributes such as priority, which still work.
        warnings.simplefilter("ignore", CDeprecationWarning)
        app.finalize()
    # Stock counts times from the present; in a comparison that is the due moment.
    app.now = lambda: DUE.astimezone(app.timezone)
    return app


def make_entry(app: Celery, case: Case, queue: str) -> ScheduleEntry:
    """Create the entry of a case."""
    options = case.options(queue) if callable(case.options) else case.options
    return ScheduleEntry(
        name=case.name, task=case.task, schedule=1, args=case.args, kwargs=case.kwargs,
        options=options, app=app,
    )  # fmt: skip


def stock_send(app: Celery, case: Case, queue: str, task_id: str) -> None:
    """Send the entry of a case as stock beat does."""
    entry = make_entry(app, case, queue)
    entry.options = {**entry.options, "task_id": task_id}
    if "headers" in entry.options:
        entry.options["headers"] = dict(entry.options["headers"])
    scheduler = Scheduler(app, lazy=True)
    with app.connection_for_write() as connection:
        scheduler.apply_async(entry, app.amqp.Producer(connection), advance=False)


def called_message(
    publisher: Publisher, entry: ScheduleEntry, task_id: str, token: int = 7
) -> CalledMessage:
    """Return the message that Celery's own code makes of an entry, as a beat lets it do that."""
    calls = CelerysCalls(Scheduler(entry.app, lazy=True), "shop", publisher.session, 5.0)
    claim = Claim(str(entry.name), task_id, 9, 5, "", token)
    called = calls.call(entry, claim, token, None)
    assert (called.error, called.trouble) == (None, None)
    [message] = called.messages
    return message


def received(app: Celery, queue: str) -> list[dict[str, Any]]:
    """Take all messages of a queue, decoded, without what is random in each."""
    messages = []
    with app.connection_for_read() as connection:
        simple = Queue(queue)(connection.default_channel)
        simple.queue_declare()
        while message := simple.get(no_ack=True):
            message.accept = {"application/json", "application/x-python-serialize"}
            properties = dict(message.properties)
            expiration = properties.pop("expiration", None)
            messages.append(
                {
                    "headers": dict(message.headers),
                    "content": message.decode(),
                    "body": _as_bytes(message.body),
                    "content_type": message.content_type,
                    "content_encoding": message.content_encoding,
                    "routing_key": message.delivery_info.get("routing_key"),
                    "exchange": message.delivery_info.get("exchange"),
                    "properties": {
                        key: value
                        for key, value in properties.items()
                        if key not in ("delivery_tag", "delivery_info", "application_headers")
                    },
                    "expiration": None if expiration is None else int(expiration) / 1000,
                }
            )
    return messages


def _as_bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)


def assert_same(ours: dict[str, Any], stock: dict[str, Any]) -> None:
    """Compare two messages of ``received``; stock's believes that it was sent at the due moment."""
    left, whole = ours.pop("expiration"), stock.pop("expiration")
    # Releases before 5.7 have no such header, and say False where later ones say None.
    if "celery_beat_task" not in stock["headers"]:
        ours["headers"].pop("celery_beat_task", None)
    if stock["headers"].get("ignore_result") is False:
        ours["headers"]["ignore_result"] = bool(ours["headers"]["ignore_result"])
    assert ours == stock
    if whole is None:
        assert left is None
    else:
        elapsed = (datetime.now(timezone.utc) - DUE).total_seconds()
        assert whole - elapsed - 1 < left <= whole


def new_queue() -> str:
    """Name a queue that no other test uses."""
    return f"periodic-{uuid.uuid4().hex[:12]}"


def yes() -> bool:
    """Let a publisher write."""
    return True
