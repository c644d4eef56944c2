"""What building a message leaves alone, remembers, and refuses."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import signals
from celery.backends.base import DisabledBackend
from celery.beat import BeatLazyFunc, ScheduleEntry

from celery_safe_leader._dispatch.outcomes import BuildError
from celery_safe_leader._dispatch.ports import Making
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.composing.encoding import Encoded, encode
from celery_safe_leader._publishing.messages import Message
from tests.support.celery.periodic import DUE, DUE_US, make_app, new_queue


@pytest.fixture
def app() -> Iterator[Any]:
    app = make_app("memory://", new_queue())
    yield app
    app.close()


@pytest.fixture
def builder(app: Any) -> Builder:
    return Builder(app)


def entry_of(app: Any, **fields: Any) -> ScheduleEntry:
    given = {"name": "nightly", "task": "tests.plain", "schedule": 1, "args": (1, 2), "app": app}
    return ScheduleEntry(**{**given, **fields})


def build(builder: Builder, entry: Any, task_id: str = "id", due_us: int = DUE_US) -> Any:
    return builder.build(entry, task_id=task_id, headers={"leader_token": 1}, due_us=due_us)


def sent(message: Any) -> Any:
    """Return what of a message is sent: not what it shares with others."""
    return message._replace(common=None)


def fail() -> None:
    raise LookupError("no price\nfor today")


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"args": (object(), 2)}, "EncodeError: Object of type object is not JSON serializable"),
        ({"args": (1,)}, "TypeError: plain() missing 1 required positional argument: 'y'"),
        ({"args": (BeatLazyFunc(fail), 2)}, "LookupError: no price for today"),
        ({"args": "two"}, "TypeError: plain() takes 2 positional arguments but 3 were given"),
        ({"args": 5}, "TypeError: 'int' object is not iterable"),
        ({"options": {"serializer": "nope"}}, "SerializerNotInstalled: No encoder installed for"),
        ({"options": {"headers": {"a": object()}}}, "TypeError: Object of type object is not"),
        ({"options": {"headers": "a"}}, "TypeError: 'str' object is not a mapping"),
        ({"options": {"countdown": "soon"}}, "TypeError: unsupported type for timedelta seconds"),
        ({"options": {"expires": 1e300}}, "OverflowError: "),
        ({"options": {"expires": timedelta(1)}}, "Error: "),
        ({"options": {"queue": "unknown"}}, "QueueNotFound: "),
    ],
    # Without addresses: every process of a run must give a test the same name.
    ids=lambda value: re.sub(r" object at 0x[0-9a-f]+", "", str(value)),
)
def test_mistake_of_an_entry_is_an_error_that_names_it(fields: Any, detail: str) -> None:
    app = make_app("memory://", new_queue(), task_create_missing_queues=False)
    with pytest.raises(BuildError) as caught:
        build(Builder(app), entry_of(app, **fields))
    text = str(caught.value)
    assert text.startswith("periodic task 'nightly' (tests.plain) cannot be sent: ")
    assert detail in text
    assert "\n" not in text
    assert caught.value.__cause__ is not None
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_error_of_a_huge_argument_stays_readable() -> None:
    error = BuildError.because("nightly", "tests.plain", ValueError("x" * 100_000))
    assert len(str(error)) < 700


def test_soft_limit_above_the_hard_one_is_refused_as_in_stock(app: Any, builder: Builder) -> None:
    task = app.tasks["tests.loaded"]
    task.soft_time_limit = 100
    with pytest.raises(BuildError, match="soft_time_limit must be less than or equal"):
        build(builder, entry_of(app, task="tests.loaded"))


def test_untyped_task_is_sent_with_any_arguments(app: Any, builder: Builder) -> None:
    app.tasks["tests.plain"].typing = False
    assert isinstance(build(builder, entry_of(app, args=(1,))), Message)


def test_entry_is_left_as_it_is(app: Any, builder: Builder) -> None:
    headers = {"tenant": "a"}
    options = {
        "headers": headers, "expires": 9, "countdown": 1, "leader": {"missed_runs": "skip"},
        "queue": "elsewhere", "task_id": "fixed",
    }  # fmt: skip
    entry = entry_of(app, options=options, kwargs={}, args=[1, [2]])
    before = pickle.dumps((options, entry.args, entry.kwargs))
    for _ in range(2):
        message = build(builder, entry)
        assert message.headers["tenant"] == "a"
        assert message.headers["id"] == "id"
        assert "leader" not in message.properties
    assert pickle.dumps((options, entry.args, entry.kwargs)) == before
    assert headers == {"tenant": "a"}


def test_messages_of_two_runs_share_nothing_that_changes(app: Any, builder: Builder) -> None:
    entry = entry_of(app, options={"expires": 60, "countdown": 5})
    first = build(builder, entry, "one")
    second = build(builder, entry, "two", DUE_US + 1_000_000)
    third = build(builder, entry, "three", DUE_US + 2_000_000)
    assert [m.headers["id"] for m in (first, second, third)] == ["one", "two", "three"]
    assert [m.headers["root_id"] for m in (first, second, third)] == ["one", "two", "three"]
    assert [m.properties["correlation_id"] for m in (first, second, third)] == [
        "one", "two", "three",
    ]  # fmt: skip
    assert first.body is second.body is third.body
    for seconds, message in enumerate((first, second, third)):
        due = DUE + timedelta(seconds=seconds)
        assert message.headers["eta"] == (due + timedelta(seconds=5)).isoformat()
        assert message.headers["expires"] == (due + timedelta(seconds=60)).isoformat()
        assert message.expires_us == DUE_US + (seconds + 60) * 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: setattr(entry, "args", (1, 3)),
        lambda entry: setattr(entry, "args", (1, True)),
        lambda entry: setattr(entry, "args", (1, 2.0)),
        lambda entry: entry.kwargs.update(z=1),
        lambda entry: entry.args[1].append(5),
        lambda entry: setattr(entry, "task", "elsewhere.unknown"),
        lambda entry: entry.options.update(priority=9),
        lambda entry: entry.options["headers"].update(tenant="b"),
    ],
)
def test_changed_entry_gets_a_new_message(app: Any, builder: Builder, change: Any) -> None:
    def make() -> ScheduleEntry:
        return entry_of(app, task="tests.any", args=[1, [2]], kwargs={}, options={"headers": {}})

    entry = make()
    entry.kwargs["k"] = 0
    build(builder, entry)
    change(entry)
    renewed = build(builder, entry)
    afresh = build(Builder(app), entry)
    assert sent(renewed) == sent(afresh)


def test_lazy_arguments_are_evaluated_at_each_run(app: Any, builder: Builder) -> None:
    counter = iter(range(10))
    entry = entry_of(app, args=(BeatLazyFunc(next, counter), 0))
    assert [build(builder, entry).content[0] for _ in range(3)] == [[0, 0], [1, 0], [2, 0]]


def test_replaced_task_and_replaced_routes_are_noticed(app: Any, builder: Builder) -> None:
    entry = entry_of(app)
    assert "priority" not in build(builder, entry).properties
    app.conf.update(task_routes={"tests.plain": {"priority": 8}})
    assert build(builder, entry).properties["priority"] == 8
    del app.tasks["tests.plain"]
    assert build(builder, entry).headers["ignore_result"] is None

    @app.task(name="tests.plain", shared=False)
    def strict(x: Any) -> None: ...

    with pytest.raises(BuildError, match="takes 1 positional argument but 2 were given"):
        build(builder, entry)


def test_event_names_the_run_it_belongs_to() -> None:
    app = make_app("memory://", new_queue(), task_send_sent_event=True)
    builder, entry = Builder(app), entry_of(app, options={"expires": 5})
    for task_id in ("one", "two"):
        message = build(builder, entry, task_id)
        assert message.event["uuid"] == message.event["root_id"] == task_id
        assert message.event["expires"] == message.headers["expires"]
        assert message.event["name"] == "tests.plain"
        assert message.event["queue"] == app.conf.task_default_queue


def test_eager_task_is_left_to_celery(app: Any) -> None:
    app.conf.task_always_eager = True
    builder = Builder(app)
    assert builder.making(entry_of(app)) is Making.CALLED
    assert builder.why_called(entry_of(app)) == "task_always_eager"
    assert not builder.making(entry_of(app, task="elsewhere.unknown")).is_called


def test_with_a_receiver_celery_makes_every_message_from_the_next_on(
    app: Any, builder: Builder
) -> None:
    def receive(**_: Any) -> None:
        """Be there."""

    for signal, making in (
        # Nobody who is told before could notice when it is published.
        (signals.before_task_publish, Making.CALLED),
        (signals.after_task_publish, Making.CALLED_WITHIN),
        (signals.task_sent, Making.CALLED_WITHIN),
    ):
        assert builder.making(entry_of(app)) is Making.EARLY
        signal.connect(receive)
        try:
            assert builder.making(entry_of(app)) is making
            options = {"reply_to": "me"}
            assert builder.making(entry_of(app, options=options)) is Making.CALLED
        finally:
            signal.disconnect(receive)


def test_a_result_backend_that_is_told_first_is_told_by_celery(app: Any) -> None:
    class Backend(DisabledBackend):
        def on_task_call(self, producer: Any, task_id: str) -> None:
            """Be told."""

    app._local.backend = Backend(app=app)
    builder = Builder(app)
    assert builder.making(entry_of(app)) is Making.CALLED
    assert "the result backend" in builder.why_called(entry_of(app))


def test_body_is_encoded_once_for_all_runs(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counted(content: Any, *how: Any) -> Encoded:
        calls.append(content)
        return encode(content, *how)

    monkeypatch.setattr("celery_safe_leader._publishing.builder.encode", counted)
    builder, entry = Builder(app), entry_of(app)
    for _ in range(5):
        build(builder, entry)
    assert len(calls) == 1


def test_forgotten_entry_leaves_nothing_behind(app: Any, builder: Builder) -> None:
    build(builder, entry_of(app))
    builder.forget("nightly")
    builder.forget("nightly")
    assert "nightly" not in builder._templates._of_entries


def test_what_is_left_of_an_expiry_is_never_negative(app: Any) -> None:
    builder = Builder(app, now=lambda: time.time() + 10_000)
    assert build(builder, entry_of(app, options={"expires": 5})).properties["expiration"] == 0


def test_many_entries_share_what_they_have_in_common_and_nothing_else() -> None:
    app = make_app("memory://", new_queue(), task_send_sent_event=True)
    builder = Builder(app)
    kinds: list[dict[str, Any]] = [
        {}, {"priority": 1}, {"queue": "a"}, {"expires": 9}, {"headers": {"a": 1}},
        {"compression": "zlib", "serializer": "pickle", "countdown": 3},
    ]  # fmt: skip
    entries = [
        entry_of(app, name=f"entry-{number}", args=(number % 7, "x"), options=dict(options))
        for number, options in enumerate(kinds * 8)
    ]
    afresh = [build(Builder(app), entry, entry.name) for entry in entries]
    for message in afresh:
        message.properties.pop("expiration", None)
    for _ in range(2):
        built = [build(builder, entry, entry.name) for entry in entries]
        for message in built:
            message.properties.pop("expiration", None)
        assert list(map(sent, built)) == list(map(sent, afresh))
    assert len(builder._templates._shared) == len(kinds)


def test_mistake_in_arguments_shows_also_where_the_rest_is_known(
    app: Any, builder: Builder
) -> None:
    build(builder, entry_of(app, name="right"))
    with pytest.raises(BuildError, match=r"'wrong'.*missing 1 required positional argument"):
        build(builder, entry_of(app, name="wrong", args=(1,)))
    with pytest.raises(BuildError, match=r"'odd'.*not JSON serializable"):
        build(builder, entry_of(app, name="odd", args=(object(), 1)))


def test_headers_of_one_run_do_not_stay_for_the_next(app: Any, builder: Builder) -> None:
    entry = entry_of(app, options={"headers": {"mine": 1}})
    builder.build(entry, task_id="1", headers={"leader_token": 1, "again": 1}, due_us=DUE_US)
    second = builder.build(entry, task_id="2", headers={"leader_token": 2}, due_us=DUE_US)
    assert second.headers["leader_token"] == 2
    assert second.headers["mine"] == 1
    assert "again" not in second.headers


def test_entries_that_come_and_go_leave_no_template_behind(app: Any, builder: Builder) -> None:
    for number in range(1_000):
        # Each with arguments of its own, and every second with options of its own.
        options = {"priority": 1, "headers": {"number": number}} if number % 2 else {}
        entry = entry_of(app, name=f"entry-{number}", args=(number, 2), options=options)
        build(builder, entry)
        build(builder, entry)
        builder.forget(entry.name)
    templates = builder._templates
    assert len(templates._of_entries) == 0
    assert 0 < len(templates._shared) <= 1_000
    for number in range(2_000):
        entry = entry_of(app, options={"headers": {"number": number}})
        build(builder, entry)
    assert len(templates._of_entries) == 1
    assert len(templates._shared) <= 1_000
