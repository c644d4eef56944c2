"""What counts as growth in an hour."""

from __future__ import annotations

import pytest

from tests.soak.endurance import Sample, growth, problems


def samples(name: str, *values: float) -> list[Sample]:
    return [{name: value} for value in values]


def test_what_warms_up_and_then_stays_has_not_grown() -> None:
    found = samples("leader: RSS KiB", 40_000, 60_000, 70_000, 70_100, 70_000, 70_200)
    assert growth(found) == {"leader: RSS KiB": (50_000, 70_050, 70_100)}
    assert problems(found) == []


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("leader: RSS KiB", 200_000, 205_000),
        ("worker: sockets", 12, 14),
        ("standby: threads", 5, 7),
        ("leader: heap blocks", 350_000, 351_100),
        ("keys", 15, 18),
        ("Redis KiB", 2_000, 8_000),
    ],
)
def test_what_grows_is_named(name: str, before: float, after: float) -> None:
    found = samples(name, *(before,) * 4, *(after,) * 2)
    assert problems(found) == [f"{name} grew from {before:.0f} to {after:.0f}"]


def test_the_queue_of_a_worker_that_is_late_is_shown_and_not_judged() -> None:
    found = samples("waiting messages", 0, 0, 10, 20, 15_000, 16_000)
    assert growth(found) == {"waiting messages": (0, 15, 15_500)}
    assert problems(found) == []


def test_of_a_heap_that_saw_tooths_the_mean_counts() -> None:
    """The median of the last third is one tooth above that of the middle one."""
    low, high, name = 344_000, 348_000, "standby: heap blocks"
    first, middle, last = [low] * 7, [low, high] * 3 + [low], [high, low] * 3 + [high]
    assert problems(samples(name, *first, *middle, *last)) == []
    last = [each + 1_000 for each in last]
    assert problems(samples(name, *first, *middle, *last)) == [f"{name} grew from 345714 to 347286"]
