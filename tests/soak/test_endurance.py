"""What counts as growth in an hour."""

from __future__ import annotations

import pytest

from tests.soak.endurance import Sample, growth, problems


def samples(name: str, *values: float) -> list[Sample]:
    return [{name: value} for value in values]


def test_what_warms_up_and_then_stays_has_not_grown() -> None:
    found = samples("leader: RSS KiB", 40_000, 60_000, 70_000, 70_100, 70_000, 70_200)
    assert growth(found) == {"leader: RSS KiB": (70_050, 70_100)}
    assert problems(found) == []


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("leader: RSS KiB", 200_000, 205_000),
        ("worker: sockets", 12, 14),
        ("standby: threads", 5, 7),
        ("keys", 15, 18),
        ("Redis KiB", 2_000, 8_000),
    ],
)
def test_what_grows_is_named(name: str, before: float, after: float) -> None:
    found = samples(name, *(before,) * 4, *(after,) * 2)
    assert problems(found) == [f"{name} grew from {before:.0f} to {after:.0f}"]
