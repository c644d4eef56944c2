"""Listeners: who is called, in which order, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from celery_safe_leader._runtime.listeners import EVENT_NAMES, Listeners
from celery_safe_leader.errors import ConfigurationError


def first(event: Any) -> None:
    """A listener."""


def second(event: Any) -> None:
    """Another."""


@pytest.fixture
def listeners() -> Listeners:
    return Listeners()


def test_nobody_listens_at_first(listeners: Listeners) -> None:
    assert EVENT_NAMES == ("elected", "demoted", "new_leader", "error")
    assert [listeners.pop_callees(name) for name in EVENT_NAMES] == [(), (), (), ()]


def test_listeners_are_called_in_the_order_in_which_they_came(listeners: Listeners) -> None:
    for listener in (second, first, second):
        listeners.add("elected", listener)
    assert listeners.pop_callees("elected") == (second, first, second)
    assert listeners.pop_callees("elected") == (second, first, second)
    assert listeners.pop_callees("demoted") == ()


def test_who_wants_one_call_gets_one(listeners: Listeners) -> None:
    listeners.add("error", first, once=True)
    listeners.add("error", second)
    listeners.add("error", first)
    assert listeners.pop_callees("error") == (first, second, first)
    assert listeners.pop_callees("error") == (second, first)


def test_the_same_function_once_and_always_is_two_listeners(listeners: Listeners) -> None:
    listeners.add("error", first)
    listeners.add("error", first, once=True)
    listeners.pop_callees("error")
    assert listeners.pop_callees("error") == (first,)


def test_the_last_of_equal_listeners_is_removed(listeners: Listeners) -> None:
    for listener in (first, second, first):
        listeners.add("elected", listener)
    listeners.remove("elected", first)
    assert listeners.pop_callees("elected") == (first, second)
    listeners.remove("elected", first)
    listeners.remove("elected", first)  # is not there any more
    assert listeners.pop_callees("elected") == (second,)


def test_a_method_can_be_removed(listeners: Listeners) -> None:
    calls: list[Any] = []
    listeners.add("elected", calls.append)
    listeners.remove("elected", calls.append)
    assert listeners.pop_callees("elected") == ()


def test_all_of_one_event_or_all_at_once_are_removed(listeners: Listeners) -> None:
    for name in EVENT_NAMES:
        listeners.add(name, first)
    listeners.clear("elected")
    assert [len(listeners.pop_callees(name)) for name in EVENT_NAMES] == [0, 1, 1, 1]
    listeners.clear()
    assert [len(listeners.pop_callees(name)) for name in EVENT_NAMES] == [0, 0, 0, 0]


@pytest.mark.parametrize("event", ["Elected", "", "ELECTED", "error "])
def test_an_unknown_event_is_refused_by_name(listeners: Listeners, event: str) -> None:
    match = "event is .* must be one of elected, demoted, new_leader, error"
    with pytest.raises(ConfigurationError, match=match):
        listeners.add(event, first)
    with pytest.raises(ConfigurationError, match=match):
        listeners.remove(event, first)
    with pytest.raises(ConfigurationError, match=match):
        listeners.clear(event)


def test_what_cannot_be_called_is_refused(listeners: Listeners) -> None:
    not_a_function: Any = "print"
    with pytest.raises(ConfigurationError, match="listener is 'print'; it must be a function"):
        listeners.add("elected", not_a_function)
    assert listeners.pop_callees("elected") == ()
