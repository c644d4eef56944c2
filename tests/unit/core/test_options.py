"""What a candidate may be told."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from celery_safe_leader._core.options import Options
from celery_safe_leader.errors import ConfigurationError


def test_times_follow_from_the_ttl() -> None:
    options = Options(12.0)
    assert (options.ttl, options.wait, options.wait_replicas) == (12.0, 2.4, 0)
    assert options.lease_length == pytest.approx(11.88)
    assert options.renew_interval == options.request_timeout == 4.0
    assert options.confirm_timeout == 3.0


@pytest.mark.parametrize("ttl", [10, 10.0, timedelta(seconds=10)])
def test_a_ttl_is_seconds_or_a_timedelta(ttl: Any) -> None:
    options = Options(ttl, wait=timedelta(milliseconds=500))
    assert (options.ttl, options.wait) == (10.0, 0.5)
    assert type(options.ttl) is float


def test_a_wait_may_be_longer_than_the_ttl() -> None:
    assert Options(1.5, 3.0).wait == 3.0


@pytest.mark.parametrize(
    "ttl",
    [
        0, -1, 10**400, math.nan, math.inf, -math.inf, 0.049, 86_401, "10", None, True, b"10", 10j,
        timedelta(0), timedelta(days=2), [10],
    ],
)  # fmt: skip
def test_a_wrong_ttl_is_refused_by_name_and_value(ttl: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^ttl is .*; it must be a number of sec") as info:
        Options(ttl, allow_long_ttl=True)
    assert info.value.setting == "ttl"
    shown = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    assert repr(shown) in info.value.value


@pytest.mark.parametrize("wait", [0, math.nan, -1, math.inf, "2", False])
def test_a_wrong_wait_is_refused(wait: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^wait is .*; it must be a number of seconds"):
        Options(10, wait)


def test_a_long_ttl_is_taken_for_milliseconds_unless_allowed() -> None:
    assert Options(300).ttl == 300.0
    with pytest.raises(ConfigurationError, match=r"1500 s; .* write 1\.5\); pass allow_long_ttl"):
        Options(1500)
    assert Options(1500, allow_long_ttl=True).ttl == 1500.0


def test_a_long_wait_is_taken_for_milliseconds_unless_allowed() -> None:
    # As in a half-converted call of the JavaScript original.
    with pytest.raises(ConfigurationError, match=r"wait is 3000 s; .* at most 300 s, .* write 3\)"):
        Options(1.5, 3000)
    assert Options(1.5, 3000, allow_long_ttl=True).wait == 3000.0
    assert Options(1500, allow_long_ttl=True).wait == 300.0


@pytest.mark.parametrize("count", [-1, 1.0, "1", True, None])
def test_wrong_replicas_are_refused(count: Any) -> None:
    with pytest.raises(ConfigurationError, match="wait_replicas is"):
        Options(10, wait_replicas=count)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Options(10).ttl = 20  # type: ignore[misc]
