"""What the package leans on in Celery, kombu, billiard and redis-py, and they do not document.

Each test holds one part in the shape that ``docs/reference/private-parts.md`` describes. One that
fails names what a new release has changed; the page says where that is used.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import re
import threading
import weakref
from concurrent.futures import Future
from types import FunctionType, SimpleNamespace
from typing import Any, ClassVar

import amqp.channel
import amqp.serialization
import billiard.einfo
import billiard.process
import celery.app.amqp
import celery.app.base
import celery.app.task
import celery.app.utils
import celery.beat
import celery.bin.base
import celery.bin.worker
import celery.concurrency.prefork
import celery.concurrency.solo
import celery.concurrency.thread
import celery.local
import celery.worker.components
import celery.worker.consumer
import celery.worker.loops
import kombu
import kombu.asynchronous
import kombu.compression
import kombu.connection
import kombu.messaging
import kombu.serialization
import kombu.transport.redis
import kombu.transport.virtual
import kombu.transport.virtual.base
import kombu.utils.json
import pytest
import redis
import redis.asyncio
from billiard.common import TERM_SIGNAL
from celery import Celery, _state, shared_task
from celery.app.defaults import NAMESPACES, Option
from celery.app.routes import MapRoute
from celery.backends.base import Backend
from celery.schedules import crontab, schedule, solar
from celery.utils.dispatch import Signal
from celery.utils.imports import instantiate, load_extension_class_names, symbol_by_name
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker.request import Request, create_request_cls
from kombu.utils import functional, json
from redis.crc import key_slot

from celery_safe_leader._ledger.packed_commands import _pack
from celery_safe_leader._publishing.eligibility import _PREPARING, _PUTTING, _WRITING
from celery_safe_leader._store.server_identity import ANY_COMMAND
from tests.support.servers import ExternalServer

KOMBU = tuple(int(part) for part in kombu.__version__.split(".")[:2])
BROKER = "memory://"

# Without annotations in some releases.
functions: Any = functional
dumps_json: Any = json.dumps


@pytest.fixture
def app() -> Celery:
    return Celery("shop", broker=BROKER, set_as_current=False)


def task_of(app: Celery, **options: Any) -> Any:
    @app.task(name="shop.own", shared=False, lazy=False, **options)
    def own() -> None: ...

    return app.tasks["shop.own"]


# Celery: apps and tasks


def test_celerys_state_knows_the_apps_that_are_there_and_tells_of_those_to_come(
    app: Celery,
) -> None:
    assert app in _state._get_active_apps()
    told: list[Celery] = []
    _state.connect_on_app_finalize(told.append)
    try:
        app.finalize()
    finally:
        _state._on_app_finalizers.discard(told.append)
    assert told == [app]


def test_an_app_says_whether_it_is_configured_and_finalized(app: Celery) -> None:
    assert (app.configured, app.finalized) == (False, False)
    assert app.conf.task_protocol == 2
    assert (app.configured, app.finalized) == (True, False)
    app.finalize()
    assert app.finalized is True


def test_a_task_checks_its_arguments_by_its_header(app: Celery) -> None:
    @app.task(name="shop.one", shared=False, lazy=False)
    def one(number: int) -> None: ...

    one.__header__(1)
    with pytest.raises(TypeError):
        one.__header__(1, 2)
    assert "check_arguments" in inspect.getsource(celery.app.task.Task.apply_async)


def test_a_result_backend_is_told_of_each_task_that_is_sent(app: Celery) -> None:
    assert list(inspect.signature(Backend.on_task_call).parameters) == [
        "self", "producer", "task_id",
    ]  # fmt: skip
    assert type(app.backend).on_task_call.__module__.startswith("celery.")
    assert "backend.on_task_call(" in inspect.getsource(Celery.send_task)


def test_celerys_state_keeps_the_current_app_where_it_can_be_put_back(app: Celery) -> None:
    before = _state._tls.current_app
    app.set_current()
    assert _state._tls.current_app is app
    _state._set_current_app(before)
    assert _state._tls.current_app is before


def test_a_task_that_is_not_there_yet_is_one_of_two_proxies(app: Celery) -> None:
    @app.task(name="shop.own", shared=False)
    def own() -> None: ...

    @shared_task(name="shop.shared_with_all")
    def shared() -> None: ...

    made: list[str] = []
    assert type(own) is celery.local.PromiseProxy
    own.__then__(lambda: made.append("own"))
    app.finalize()
    assert made == ["own"]
    assert own._get_current_object() is app.tasks[own.name]
    assert type(shared) is celery.local.Proxy
    assert isinstance(shared._get_current_object(), celery.app.task.Task)


def test_celerys_state_knows_the_task_that_runs(app: Celery) -> None:
    @app.task(name="shop.own", shared=False)
    def own() -> bool:
        return _state.get_current_task() is app.tasks["shop.own"]

    assert own.apply().get() is True
    assert _state.get_current_task() is None


def test_a_request_is_made_a_signature_of_again(app: Celery) -> None:
    task = task_of(app)
    task.push_request(id="42", args=(1,), kwargs={}, argsrepr="(1,)", kwargsrepr="{}", retries=0)
    try:
        again = task.signature_from_request(task.request, queue="other", headers={"a": 1})
        shown = (task.request.argsrepr, task.request.kwargsrepr)
    finally:
        task.pop_request()
    assert (again.args, again.options["task_id"], again.options["queue"]) == ((1,), "42", "other")
    assert shown == ("(1,)", "{}")


def test_strategy_and_request_of_a_task_are_names_that_celery_resolves(app: Celery) -> None:
    task = task_of(app)
    assert task.Strategy == "celery.worker.strategy:default"
    assert symbol_by_name(task.Request) is Request
    assert instantiate("collections:Counter", "aab") == {"a": 2, "b": 1}
    source = inspect.getsource(celery.app.task.Task.start_strategy)
    assert "instantiate(self.Strategy, self, app, consumer" in source


# Celery: from an entry to a message


def test_a_call_goes_through_functions_of_these_files(app: Celery) -> None:
    kind = type(task_of(app))
    for function, module in (
        (Celery.send_task, celery.app.base),
        (kind.apply_async, celery.app.task),
        (kind.shadow_name, celery.app.task),
        (kind._get_exec_options, celery.app.task),
        (kind._get_app, celery.app.task),
        (kind.AsyncResult, celery.app.task),
        (celery.app.amqp.AMQP._create_task_sender, celery.app.amqp),
        (celery.beat.Scheduler.apply_entry, celery.beat),
        (celery.beat.Scheduler._do_sync, celery.beat),
        (kombu.messaging.Producer._publish, kombu.messaging),
        (kombu.messaging.Producer._prepare, kombu.messaging),
        (kombu.messaging.Producer._delivery_details, kombu.messaging),
    ):
        assert function.__code__.co_filename == module.__file__
    assert app.amqp.send_task_message.__qualname__.startswith("AMQP._create_task_sender.<locals>")


def test_a_scheduler_wraps_what_sending_raised(app: Celery) -> None:
    scheduler = celery.beat.Scheduler(app, lazy=True)
    lazy = celery.beat.BeatLazyFunc(lambda: 1 // 0)
    entry = celery.beat.ScheduleEntry(name="a", task="t", schedule=1, args=(lazy,), app=app)
    with pytest.raises(celery.beat.SchedulingError) as raised:
        scheduler.apply_async(entry, producer=object(), advance=False)
    assert isinstance(raised.value.__context__, ZeroDivisionError)


def test_a_message_has_its_headers_in_one_dict() -> None:
    headers = {"id": "42"}
    virtual = kombu.transport.virtual.Channel.prepare_message
    message = virtual(SimpleNamespace(default_priority=0), b"", headers=headers)  # type: ignore[arg-type]
    assert message["headers"] is headers
    assert "delivery_info" in message["properties"]
    assert (
        amqp.Message(b"", application_headers=headers).properties["application_headers"] is headers
    )


def test_a_task_has_the_options_of_its_messages_in_one_dict(app: Celery) -> None:
    options = task_of(app, serializer="pickle")._get_exec_options()
    assert options["serializer"] == "pickle"


def test_pydantic_shows_on_a_task_by_an_attribute_or_is_unknown(app: Celery) -> None:
    assert getattr(task_of(app), "_dump_pydantic_arguments", None) is None
    if celery.__version__ >= "5.7":
        assert "_dump_pydantic_arguments" in inspect.getsource(celery.app.task.Task.apply_async)


def test_amqp_routes_and_composes_a_message(app: Celery) -> None:
    app.conf.task_routes = {"shop.a": {"queue": "special"}}
    assert type(app.amqp) is celery.app.amqp.AMQP
    assert all(isinstance(route, MapRoute) for route in app.amqp.routes)
    assert app.amqp.routes
    assert app.amqp.router.route({}, "shop.a", (), {}, None)["queue"].name == "special"
    message = app.amqp.create_task_message("42", "shop.a", (1,), {}, create_sent_event=True)
    assert (message.headers["id"], message.properties["correlation_id"]) == ("42", "42")
    assert message.body[0] == (1,)
    assert message.sent_event["uuid"] == "42"
    assert app.amqp.default_queue.name == "celery"
    assert app.amqp.default_exchange.name == "celery"
    assert issubclass(app.amqp.Producer, kombu.messaging.Producer)
    assert isinstance(app.thread_oid, str)


def test_arguments_are_shown_at_these_lengths(app: Celery) -> None:
    assert (app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize) == (1024, 1024)
    assert len(saferepr(("a" * 5000,), 1024)) < 1100


def test_quorum_queues_are_found_by_driver(app: Celery) -> None:
    if celery.__version__ < "5.5":
        assert importlib.util.find_spec("celery.utils.quorum_queues") is None
        return
    quorum_queues = importlib.import_module("celery.utils.quorum_queues")
    assert quorum_queues.detect_quorum_queues(app, "redis") == (False, "")


def test_an_app_in_a_fresh_interpreter_is_marked_by_two_words() -> None:
    source = inspect.getsource(celery.app.base)
    assert hasattr(celery.app.base, "USING_EXECV")
    assert "os.environ.get('FORKED_BY_MULTIPROCESSING')" in source
    assert "if USING_EXECV and " in source


# Celery: settings and signals


def test_settings_are_masked_by_a_pattern_and_typed_by_a_table() -> None:
    assert isinstance(celery.app.utils.HIDDEN_SETTINGS, re.Pattern)
    assert "HIDDEN_SETTINGS" in inspect.getsource(celery.app.utils.filter_hidden_settings)
    assert isinstance(NAMESPACES, dict)
    assert Option(type="float").to_python("1.5") == 1.5


def test_signals_are_made_of_a_name_and_arguments() -> None:
    heard: list[Any] = []
    signal = Signal(name="x", providing_args={"token"})

    def receiver(sender: Any, token: int, **_: Any) -> None:
        heard.append((sender, token))

    assert not signal.receivers
    signal.connect(receiver, weak=False)
    assert signal.receivers
    signal.send(sender="me", token=7)
    assert heard == [("me", 7)]
    assert list(signal._live_receivers("me")) == [receiver]


# Celery: beat


def test_a_schedule_says_by_which_clock_it_goes(app: Celery) -> None:
    app.conf.enable_utc = False
    assert schedule(1.0, app=app).nowfun is None
    assert not schedule(1.0, app=app).utc_enabled
    assert crontab(nowfun=app.now, app=app).nowfun == app.now


def test_the_moments_of_a_schedule_come_from_these_methods() -> None:
    assert "self._delta_to_next(" in inspect.getsource(crontab.remaining_delta)
    assert "self.remaining_delta(" in inspect.getsource(crontab.remaining_estimate)
    if hasattr(solar, "_next_event"):  # not in Celery 5.4
        assert "_next_event(" in inspect.getsource(solar.remaining_estimate)


def test_a_solar_schedule_shows_what_it_computes_with(app: Celery) -> None:
    dusk = solar("dusk_civil", 52.5, 13.4, app=app)
    assert dusk.cal.copy().horizon == dusk.cal.horizon
    assert callable(getattr(dusk.ephem.Observer(), dusk.method))
    assert dusk.use_center is True


def test_a_scheduler_makes_and_notes_entries(app: Celery) -> None:
    scheduler = celery.beat.Scheduler(app, lazy=True)
    entry = scheduler._maybe_entry("x", {"task": "shop.a", "schedule": 1.0})
    assert isinstance(entry, celery.beat.ScheduleEntry)
    assert scheduler._maybe_entry("x", entry) is entry
    scheduler._do_sync()
    assert scheduler._last_sync is not None


def test_a_beat_makes_its_remote_control_after_it_has_told_that_it_begins(app: Celery) -> None:
    if celery.__version__ < "5.7":
        assert "_pidbox" not in inspect.getsource(celery.beat)
        return
    source = inspect.getsource(celery.beat.Service.start)
    told, made = source.index("beat_init.send"), source.index("self._pidbox = BeatPidbox(self)")
    assert told < made < source.index("scheduler.tick()")
    pidbox = celery.beat.BeatPidbox(celery.beat.Service(app))
    assert isinstance(pidbox.node.handlers, dict)


def test_a_crontab_keeps_what_it_was_made_of() -> None:
    made = crontab("1", "2", "3", "4", "5")
    kept = [made._orig_minute, made._orig_hour, made._orig_day_of_week]
    assert [*kept, made._orig_day_of_month, made._orig_month_of_year] == list("12345")


# Celery: workers


def test_a_worker_keeps_its_embedded_beat_where_it_can_be_replaced() -> None:
    step = celery.worker.components.Beat
    assert "w.beat = EmbeddedService(" in inspect.getsource(step.create)
    assert "return b" in inspect.getsource(step.create)
    wanted = {"app", "max_interval", "kwargs"}
    assert wanted <= set(inspect.signature(celery.beat.EmbeddedService).parameters)
    assert "leader" in dict(load_extension_class_names("celery.beat_schedulers"))


def test_a_workers_state_has_its_flags_and_requests() -> None:
    assert state.should_stop is None
    assert state.should_terminate is None
    assert isinstance(state.active_requests, weakref.WeakSet)
    assert callable(state.task_ready)


def test_a_consumer_hands_messages_to_what_its_strategies_hold() -> None:
    consumer = celery.worker.consumer.Consumer
    assert "self.strategies[name]" in inspect.getsource(consumer.update_strategies)
    handler = inspect.getsource(consumer.create_task_handler)
    assert "strategies = self.strategies" in handler
    assert "strategies[type_]" in handler


def test_a_consumer_is_told_what_to_consume_and_what_to_call() -> None:
    consumer = celery.worker.consumer.Consumer
    assert "queue" in inspect.signature(consumer.add_task_queue).parameters
    assert "queue" in inspect.signature(consumer.cancel_task_queue).parameters
    assert list(inspect.signature(consumer.call_soon).parameters)[:2] == ["self", "p"]
    assert "drain_events(timeout=" in inspect.getsource(celery.worker.loops.synloop)
    assert callable(kombu.messaging.Consumer.consuming_from)
    assert list(inspect.signature(consumer.on_unknown_task).parameters)[1:] == [
        "body",
        "message",
        "exc",
    ]
    assert "on_unknown_task = self.on_unknown_task" in inspect.getsource(consumer)
    assert "self.conninfo = self.app.connection_for_read()" in inspect.getsource(consumer)


def test_the_queues_of_a_worker_are_selected_by_name(app: Celery) -> None:
    queues: Any = app.amqp.queues
    assert not queues._consume_from
    assert queues.new_missing("c").name == "c"
    queues.select(["a", "b"])
    assert set(queues._consume_from or ()) == {"a", "b"}
    queues.deselect(["b"])
    assert set(queues._consume_from or ()) == {"a"}


def test_celery_calls_bodies_without_a_message_in_these_places(app: Celery) -> None:
    assert "errback(request, exc, traceback)" in inspect.getsource(Backend)
    for name, call in (("celery.map", "task(item)"), ("celery.starmap", "task(*item)")):
        assert call in inspect.getsource(app.tasks[name].run)
    assert celery.app.task.Context().called_directly
    assert app.tasks["celery.map"].request_stack.stack == []


def test_a_request_says_who_runs_it_and_can_be_given_back() -> None:
    source = inspect.getsource(Request)
    assert "def _context(self)" in source
    assert "self.worker_pid = pid" in source
    assert list(inspect.signature(Request.on_accepted).parameters) == [
        "self",
        "pid",
        "time_accepted",
    ]
    assert list(inspect.signature(Request.on_failure).parameters)[:2] == ["self", "exc_info"]
    assert "requeue" in inspect.signature(Request.reject).parameters
    assert "request" in inspect.signature(Backend.mark_as_retry).parameters


def test_a_request_that_waits_is_known_and_can_be_ended() -> None:
    assert isinstance(state.requests, dict)
    assert isinstance(state.reserved_requests, weakref.WeakSet)
    assert Request._apply_result is None
    assert Request.acknowledged is False
    assert celery.concurrency.prefork.TaskPool.uses_semaphore
    assert not celery.concurrency.solo.TaskPool.uses_semaphore
    for pooled in (Request.execute_using_pool, create_request_cls):
        source = inspect.getsource(pooled)
        # It asks in any case, and before the pool has it.
        assert re.search(r"if self.revoked\(\):\s+raise TaskRevokedError", source)
        assert source.index("self.revoked()") < source.index("self._apply_result = ")
        # A pool of threads says what it will run, and the request returns it.
        assert "self._apply_result = maybe(ref, result)" in source
        assert re.search(r"return result$", source, re.MULTILINE)
    future: Future[None] = Future()
    assert celery.concurrency.thread.ApplyResult(future).f is future
    handed = inspect.getsource(celery.worker.WorkController._process_task)
    assert "except TaskRevokedError" in handed
    assert "_quick_release" in handed


def test_a_worker_on_redis_can_hear_the_last_answer_after_its_loop() -> None:
    assert getattr(kombu.transport.redis.Transport, "brpop_timeout", 1) == 1
    # A step of the worker that needs the pool is stopped between its consumer and its pool.
    assert celery.worker.components.Consumer.last
    # What comes where nobody consumes goes back to its queue.
    delivered = inspect.getsource(kombu.transport.virtual.base.Transport._deliver)
    assert "self._reject_inbound_message(message)" in delivered
    hub = kombu.asynchronous.Hub()
    try:
        turned: list[int] = []
        hub.call_later(0, turned.append, 1)
        hub.run_once()
        hub.run_once()
        assert turned == [1]
    finally:
        hub.close()
    # The loop's own fds may be gone by then; each turn adds those of the transport again.
    registered = inspect.getsource(kombu.transport.redis.Transport.register_with_event_loop)
    assert "[add_reader(fd, on_readable, fd) for fd in cycle.fds]" in registered
    assert "loop.on_tick.add(on_poll_start)" in registered


def test_a_call_whose_time_has_come_goes_one_way_to_the_pool() -> None:
    consumer = celery.worker.consumer.Consumer
    for way in (consumer.apply_eta_task, consumer._limit_move_to_pool):
        assert "self.on_task_request(" in inspect.getsource(way)


def test_a_pool_is_known_by_its_module() -> None:
    for module, name in (
        (celery.concurrency.prefork, "prefork"),
        (celery.concurrency.solo, "solo"),
    ):
        assert module.TaskPool.__module__ == f"celery.concurrency.{name}"


def test_the_command_line_of_a_worker_takes_one_more_option(app: Celery) -> None:
    worker: Any = celery.bin.worker.worker
    assert isinstance(worker.params, list)
    option = celery.bin.base.CeleryOption(["--odd"], is_flag=True, help_group="Ours")
    assert option.name == "odd"
    assert isinstance(app.user_options["worker"], set)


# kombu and py-amqp


def test_a_producer_writes_by_one_method_of_its_own() -> None:
    written: list[Any] = []

    class Watched(kombu.messaging.Producer):
        def _publish(self, body: Any, *args: Any, **kwargs: Any) -> Any:
            written.append(body)

    with kombu.connection.Connection(BROKER) as connection:
        producer = Watched(connection.channel(), auto_declare=False)
        producer.publish("x", routing_key="q", serializer="json", retry=False)
    assert written == ['"x"']


def test_a_batch_of_a_producer_is_known_by_two_names_or_not_there() -> None:
    assert hasattr(kombu.messaging.Producer, "batch") == (KOMBU >= (5, 7))
    assert hasattr(kombu.messaging.Producer, "supports_batch_publish") == (KOMBU >= (5, 7))


@pytest.mark.skipif(KOMBU < (5, 7), reason="kombu before 5.7")
def test_a_channel_of_redis_gives_its_commands_to_the_batch_that_it_was_told_to_make(
    shared_server: ExternalServer, key: str
) -> None:
    class Batch:
        channel: Any = None
        commands: ClassVar[list[Any]] = []

        def publish(self, message: Any, **options: Any) -> None:
            self.channel.basic_publish(message, _publish_batch=self, **options)

        def add(self, *command: Any) -> None:
            self.commands.append(command)

        def nothing(self) -> None: ...

        flush = discard = close = nothing

    with kombu.connection.Connection(shared_server.url) as connection:
        channel = connection.channel()
        Batch.channel = channel
        channel._expires[key] = 5
        channel.create_publish_batch = lambda max_size: Batch()
        producer = kombu.messaging.Producer(channel, auto_declare=False)
        with producer.batch(max_size=9):
            producer.publish({}, exchange="", routing_key=key, priority=3, serializer="json")
        del channel.create_publish_batch
        assert channel.create_publish_batch(max_size=9).pipeline.command_stack == []
    (push, *expiries) = Batch.commands
    assert push[:2] == ("lpush", f"{key}\x06\x163")
    assert isinstance(push[2], str)
    keys = [key, *(f"{key}\x06\x16{step}" for step in (3, 6, 9))]
    assert expiries == [("pexpire", each, 5) for each in keys]
    assert not shared_server.client().exists(*keys)


@pytest.mark.skipif(KOMBU < (5, 7), reason="kombu before 5.7")
def test_a_client_of_kombu_puts_the_prefix_before_the_keys_of_these_commands(
    shared_server: ExternalServer,
) -> None:
    options = {"global_keyprefix": "shop:"}
    with (
        kombu.connection.Connection(shared_server.url, transport_options=options) as connection,
        connection.channel().conn_or_acquire() as client,
    ):
        assert type(client) is kombu.transport.redis.PrefixedStrictRedis
        for command in ("LPUSH", "PEXPIRE"):
            assert client._prefix_args((command, "q")) == [command, "shop:q"]
        assert client.connection_pool.get_encoder().encode("ß") == "ß".encode()
        pipeline: Any = redis.Redis.pipeline(client, transaction=False)
        pipeline.execute_command("SET", "raw", "x")
        assert pipeline.command_stack == [(("SET", "raw", "x"), {})]
    with (
        kombu.connection.Connection(shared_server.url) as connection,
        connection.channel().conn_or_acquire() as client,
    ):
        assert type(client) is redis.Redis


@pytest.mark.skipif(KOMBU < (5, 7), reason="kombu before 5.7")
def test_these_methods_of_kombu_are_functions_of_these_files() -> None:
    virtual = kombu.transport.virtual.base
    for kind, names, module in (
        (kombu.transport.redis.Channel, ("_put_fanout", *_PUTTING), kombu.transport.redis),
        (virtual.Channel, _PREPARING, virtual),
        (kombu.messaging.Producer, _WRITING, kombu.messaging),
    ):
        for name in names:
            method = vars(kind)[name]
            assert type(method) is FunctionType
            assert method.__code__.co_filename == module.__file__
    assert vars(kombu.transport.redis)["dumps"] is kombu.utils.json.dumps
    assert kombu.utils.json.dumps.__code__.co_filename == kombu.utils.json.__file__


def test_a_pool_of_kombu_calls_a_function_for_each_connection(
    shared_server: ExternalServer,
) -> None:
    greeted: list[Any] = []

    def greet(connection: Any) -> None:
        greeted.append(connection)
        connection.on_connect()

    with kombu.connection.Connection(shared_server.url) as connection:
        channel = connection.channel()
        channel.pool.connection_kwargs["redis_connect_func"] = greet
        for _ in range(2):
            with channel.conn_or_acquire() as client:
                assert client.ping()
        assert len(greeted) == 1
        channel.pool.disconnect()
        with channel.conn_or_acquire() as client:
            assert client.ping()
        assert len(greeted) == 2


def test_a_channel_of_redis_reads_queues_in_this_order(
    shared_server: ExternalServer, key: str
) -> None:
    options = {"queue_order_strategy": "priority"}
    with kombu.connection.Connection(shared_server.url, transport_options=options) as connection:
        channel = connection.channel()
        assert channel.queue_order_strategy == "priority"
        names = [f"{key}-{name}" for name in "ab"]
        for name in names:
            channel.basic_consume(name, no_ack=True, callback=print, consumer_tag=name)
        assert channel._active_queues == names
        channel._active_queues.reverse()
        channel._update_queue_cycle()
        if isinstance(channel.active_queues, list):  # before, the order is that of a set
            assert channel._queue_cycle.consume(2) == names[::-1]


def test_a_channel_of_redis_tells_and_forgets_bindings() -> None:
    assert list(inspect.signature(kombu.transport.redis.Channel.get_table).parameters) == [
        "self",
        "exchange",
    ]
    bindings = kombu.transport.virtual.BrokerState()
    bindings.binding_declare("q", "e", "r", {})
    bindings.queue_bindings_delete("q")
    assert not bindings.has_binding("q", "e", "r")


def test_a_connection_knows_its_alternatives_and_its_transport() -> None:
    connection = kombu.connection.Connection("redis://a:1//;redis://b:2//")
    assert len(connection.alt) == 2
    assert connection.get_transport_cls().driver_type == "redis"
    assert kombu.connection.Connection("pyamqp://a//").get_transport_cls().driver_name == "py-amqp"
    assert callable(connection.collect)


def test_what_kombu_encodes_with_returns_what_it_did() -> None:
    assert functions.maybe_list(None) is None
    assert functions.maybe_list("a") == ["a"]
    assert dumps_json({"a": 1}) == '{"a": 1}'
    assert kombu.serialization.dumps({"a": 1}, serializer="json") == (
        "application/json",
        "utf-8",
        '{"a": 1}',
    )
    body, header = kombu.compression.compress(b"x" * 100, "zlib")
    assert (type(body), header) == (bytes, "application/x-gzip")


def test_py_amqp_encodes_a_table_and_tells_of_returned_messages() -> None:
    assert isinstance(amqp.serialization.dumps("F", [{"a": 1}]), bytes)
    assert "self.events.get('basic_return')" in inspect.getsource(amqp.channel.Channel)


def test_py_amqp_confirms_a_message_where_a_channel_is_told_to() -> None:
    source = inspect.getsource(amqp.channel.Channel)
    assert "self.basic_publish = self.basic_publish_confirm" in source
    assert "self.is_open = " in source


# billiard


def test_a_process_of_billiard_knows_its_parent() -> None:
    assert billiard.process.Process()._parent_pid == os.getpid()
    assert isinstance(TERM_SIGNAL, int)


def test_an_error_of_a_pool_process_is_wrapped_and_can_be_made_here() -> None:
    wrapped = billiard.einfo.ExceptionWithTraceback(ValueError("x"), "trace")
    assert isinstance(wrapped.exc, ValueError)
    error = ValueError("x")
    found = None
    try:
        raise error
    except ValueError:
        found = billiard.einfo.ExceptionInfo().exception
    assert getattr(found, "exc", found) is error


# redis-py


@pytest.mark.parametrize(
    "kind", [redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection]
)
def test_a_connection_makes_its_socket_in_one_method(kind: Any) -> None:
    class Watched(kind):
        def _connect(self) -> Any:
            raise redis.AuthenticationError("asked")

    with pytest.raises(redis.AuthenticationError, match="asked"):
        Watched().connect()


@pytest.mark.parametrize(
    "kind",
    [
        redis.asyncio.Connection,
        redis.asyncio.SSLConnection,
        redis.asyncio.UnixDomainSocketConnection,
    ],
)
def test_a_connection_of_asyncio_makes_its_socket_in_one_method(kind: Any) -> None:
    class Watched(kind):
        async def _connect(self) -> Any:
            raise OSError("asked")

    with pytest.raises(redis.ConnectionError, match="asked"):
        asyncio.run(Watched(path="x").connect() if "Unix" in kind.__name__ else Watched().connect())


@pytest.mark.parametrize("kind", [redis.Connection, redis.asyncio.Connection])
def test_a_connection_can_be_spoken_through(kind: Any) -> None:
    for name in (
        "connect", "disconnect", "on_connect", "pack_commands", "read_response", "send_command",
        "send_packed_command",
    ):  # fmt: skip
        assert callable(getattr(kind, name))
    if kind is redis.Connection:
        assert callable(kind.can_read)


@pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.asyncio.ConnectionPool])
def test_a_pool_shows_how_it_makes_connections(kind: Any) -> None:
    pool = kind(host="h", db=3)
    assert (pool.connection_kwargs["host"], pool.connection_kwargs["db"]) == ("h", 3)
    assert pool.connection_class.__name__ == "Connection"
    assert callable(pool.get_connection)
    assert callable(pool.release)


def test_commands_are_packed_before_anything_is_written(
    shared_server: ExternalServer, key: str
) -> None:
    pool: Any = shared_server.client().connection_pool
    connection = pool.get_connection(*ANY_COMMAND)
    written: list[bytes] = []

    class Watched:
        """A socket that notes what is written to it."""

        def __init__(self, sock: Any) -> None:
            self._sock = sock

        def sendall(self, data: bytes) -> None:
            written.append(bytes(data))
            self._sock.sendall(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    connection._sock = Watched(connection._sock)
    try:
        commands = [("SET", key, b"\xff" * 9), ("INCR", key), ("EXISTS", key)]
        packed = [_pack(command, connection.encoder.encode) for command in commands]
        assert written == []
        connection.send_packed_command(packed)
        assert [name in b"".join(written) for name in (b"SET", b"INCR", b"EXISTS")] == [True] * 3
        assert connection.read_response() in (b"OK", "OK")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            connection.read_response()
        assert connection.read_response() == 1
    finally:
        connection.disconnect()
        pool.release(connection)


def test_a_pool_calls_a_function_for_each_connection(shared_server: ExternalServer) -> None:
    greeted: list[Any] = []

    def greet(connection: Any) -> None:
        greeted.append(connection)
        connection.on_connect()

    client = shared_server.client()
    client.connection_pool.connection_kwargs["redis_connect_func"] = greet
    for _ in range(2):
        assert client.ping()
    assert len(greeted) == 1
    client.connection_pool.disconnect()
    assert client.ping()
    assert len(greeted) == 2


def test_a_client_says_whether_its_pool_is_its_own() -> None:
    assert redis.Redis().auto_close_connection_pool is True
    assert redis.asyncio.Redis().auto_close_connection_pool is True


def test_a_client_of_sentinels_shows_whom_it_asks() -> None:
    asked = redis.sentinel.Sentinel([("a", 1)], sentinel_kwargs={"password": "p"})
    pool = asked.master_for("m").connection_pool
    assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
    assert (pool.service_name, pool.is_master) == ("m", True)
    manager = pool.sentinel_manager
    (first,) = manager.sentinels
    assert first.connection_pool.connection_kwargs["host"] == "a"
    assert manager.min_other_sentinels == 0
    assert manager.sentinel_kwargs["password"] == "p"


def test_a_key_has_the_slot_that_a_cluster_gives_it() -> None:
    assert key_slot(b"{foo}bar") == 12182


def test_a_lock_says_whether_this_thread_holds_it() -> None:
    lock: Any = threading.RLock()
    assert not lock._is_owned()
    with lock:
        assert lock._is_owned()
        others: list[bool] = []
        thread = threading.Thread(target=lambda: others.append(lock._is_owned()))
        thread.start()
        thread.join(10)
        assert others == [False]
    assert not lock._is_owned()
