from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from celery_safe_leader._dispatch.outcomes import BuildError
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.composing.arguments import describe

APP = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
DUE = 1_700_000_000_000_000

flat = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.text("'\"\\\n ab", max_size=6),
    st.text("a", min_size=1000, max_size=1050),
)
values = st.one_of(flat, st.binary(max_size=5), st.lists(flat, max_size=3), st.decimals())


@given(st.lists(values, max_size=5), st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_arguments_are_shown_as_celery_shows_them(args: list[Any], kwargs: dict[str, Any]) -> None:
    for positional in (args, tuple(args)):
        assert describe(APP, (positional, kwargs)) == (
            saferepr(positional, APP.amqp.argsrepr_maxsize),
            saferepr(kwargs, APP.amqp.kwargsrepr_maxsize),
        )


OPTIONS: list[dict[str, Any]] = [
    {},
    {"queue": "other", "priority": 3, "headers": {"own": "header"}},
    {"expires": 30, "countdown": 5},
    {"compression": "gzip", "serializer": "pickle"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
@pytest.mark.parametrize("sent_event", [False, True])
@pytest.mark.parametrize("arguments", [((), {}), ((1, "o'clock"), {"flag": None}), (("x",), {})])
def test_the_second_entry_of_a_kind_gets_the_message_that_it_would_get_alone(
    options: dict[str, Any], sent_event: bool, arguments: tuple[Any, Any]
) -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_send_sent_event = sent_event
    app.task(name="shop.work", shared=False)(_anything)
    first = _entry("first", (0, "first"), {"only": "first"}, options)
    second = _entry("second", *arguments, options)
    builder = Builder(app, now=lambda: DUE / 1e6)
    _build(builder, first, "id-1")
    assert _build(builder, second, "id-2") == _build(
        Builder(app, now=lambda: DUE / 1e6), second, "id-2"
    )
    assert "second" in builder._templates._of_entries


def test_an_entry_whose_arguments_do_not_fit_is_an_error_also_as_the_second_of_its_kind() -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)

    def work(number: int) -> None:
        """Take one argument."""

    app.task(name="shop.work", shared=False)(work)
    builder = Builder(app)
    _build(builder, _entry("first", (1,), {}, {}), "id-1")
    with pytest.raises(BuildError, match="second"):
        _build(builder, _entry("second", (1, 2), {}, {}), "id-2")


def _anything(*args: Any, **kwargs: Any) -> None:
    """Take any arguments."""


def _entry(name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    return SimpleNamespace(name=name, task="shop.work", args=args, kwargs=kwargs, options=options)


def _build(builder: Builder, entry: Any, task_id: str) -> Any:
    message: Any = builder.build(entry, task_id=task_id, headers={"leader_token": 1}, due_us=DUE)
    # What is left until the expiry is told by expires_us; each attempt computes it anew.
    properties = {k: v for k, v in message.properties.items() if k != "expiration"}
    # Nor is it part of a message what others share with it.
    return message._replace(properties=properties, content=_plain(message.content), common=None)


def _plain(content: Any) -> Any:
    args, kwargs, embedded = content
    return list(args), dict(kwargs), embedded
