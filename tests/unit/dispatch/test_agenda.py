"""When each entry is due next."""

from __future__ import annotations

import random

from celery_safe_leader._dispatch.agenda import Agenda


def filled(**moments: int) -> Agenda:
    agenda = Agenda()
    for name, moment in moments.items():
        agenda.put(name, moment)
    return agenda


def test_what_is_due_comes_in_the_order_of_its_moments_and_only_once():
    agenda = filled(late=30, early=10, middle=20)
    assert agenda.next_us() == 10
    assert agenda.pop_due(20, 100) == [(10, "early"), (20, "middle")]
    assert agenda.pop_due(20, 100) == []
    assert agenda.next_us() == 30


def test_no_more_are_taken_than_asked_for_and_the_rest_stays_due():
    agenda = filled(a=1, b=2, c=3)
    assert agenda.pop_due(10, 2) == [(1, "a"), (2, "b")]
    assert agenda.pop_due(10, 2) == [(3, "c")]


def test_a_moment_that_is_put_again_replaces_the_first():
    agenda = filled(moved=10, other=20)
    agenda.put("moved", 30)
    assert agenda.next_us() == 20
    assert agenda.pop_due(25, 10) == [(20, "other")]
    agenda.put("moved", 5)
    assert agenda.pop_due(100, 10) == [(5, "moved")]
    assert agenda.pop_due(100, 10) == []


def test_a_moment_that_is_put_back_to_an_earlier_one_counts_once():
    agenda = filled(a=10)
    agenda.put("a", 20)
    agenda.put("a", 10)
    assert agenda.pop_due(100, 10) == [(10, "a")]
    assert agenda.pop_due(100, 10) == []
    assert agenda.next_us() is None


def test_what_is_removed_or_never_due_is_not_there():
    agenda = filled(gone=10, never=20)
    agenda.remove("gone")
    agenda.remove("unknown")
    agenda.put("never", None)
    assert agenda.next_us() is None
    assert len(agenda) == 0


def test_it_agrees_with_a_sorted_list_after_many_changes():
    dice, agenda, moments = random.Random(7), Agenda(), dict[str, int]()
    for _ in range(2000):
        name = f"entry-{dice.randrange(40)}"
        if dice.random() < 0.2:
            agenda.remove(name)
            moments.pop(name, None)
        else:
            moments[name] = dice.randrange(1000)
            agenda.put(name, moments[name])
        if dice.random() < 0.1:
            until = dice.randrange(1000)
            due = sorted((moment, n) for n, moment in moments.items() if moment <= until)
            assert agenda.pop_due(until, 100) == due
            for _, n in due:
                del moments[n]
        assert agenda.next_us() == min(moments.values(), default=None)


def places(agenda: Agenda) -> int:
    return len(agenda._heap)


def test_the_heap_stays_flat_when_a_schedule_is_set_again_and_again():
    agenda = Agenda()
    for turn in range(60):
        for number in range(500):
            agenda.remove(f"entry-{number}")
            agenda.put(f"entry-{number}", 1_000_000 * number + turn)
    assert len(agenda) == 500
    assert places(agenda) <= 1_100
    assert agenda.pop_due(10**12, 1000) == [(1_000_000 * n + 59, f"entry-{n}") for n in range(500)]


def test_the_heap_stays_flat_when_names_come_and_go():
    agenda = filled(stays=10**9)
    for number in range(10_000):
        agenda.put(f"entry-{number}", 10**6 + number)
        if number % 2:
            agenda.remove(f"entry-{number}")
        else:
            agenda.put(f"entry-{number}", None)
        assert places(agenda) < 100
    assert agenda.pop_due(10**12, 10) == [(10**9, "stays")]
