"""Short plays of what ``make soak`` plays for minutes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.scenes import play_chaos, play_upgrade
from tests.soak.verdict import NOTHING_DOUBLED, TRANSACTIONAL, WRITE_AHEAD


@pytest.fixture
def seed() -> int:
    chosen = random.randrange(10**6)
    print(f"seed={chosen}")
    return chosen


@pytest.mark.timeout(150)
def test_in_one_script_nothing_is_lost_or_doubled_at_the_list(
    tmp_path: Path, seed: int, measured: Callable[[str], None]
) -> None:
    verdict = play_chaos(tmp_path, seed, 25, TRANSACTIONAL)
    measured(f"soak in one script, 25 s (seed {seed}): {verdict.counts}")
    assert verdict.passed, verdict


@pytest.mark.timeout(150)
def test_by_write_ahead_nothing_is_lost_at_the_list(
    tmp_path: Path, seed: int, measured: Callable[[str], None]
) -> None:
    verdict = play_chaos(tmp_path, seed, 25, WRITE_AHEAD)
    measured(f"soak by write-ahead, 25 s (seed {seed}): {verdict.counts}")
    assert verdict.void == ""
    # That something is doubled is certain only in longer runs.
    assert [line for line in verdict.problems if line != NOTHING_DOUBLED] == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_an_upgrade_and_back_under_chaos(
    tmp_path: Path, seed: int, measured: Callable[[str], None]
) -> None:
    verdict = play_upgrade(tmp_path, seed, 120)
    measured(f"upgrade and back, 120 s (seed {seed}): {verdict.counts}")
    assert verdict.passed, verdict
