"""The pause before another attempt doubles, up to a bound."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.backoff import backoff


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10**6, 5.0)]
)
def test_it_doubles_up_to_the_longest(failures: int, pause: float) -> None:
    assert backoff(failures, first=0.1, longest=5.0) == pytest.approx(pause)


def test_it_is_never_longer_than_the_longest() -> None:
    assert backoff(1, first=9.0, longest=5.0) == 5.0
