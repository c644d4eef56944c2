"""How many runs go into one script."""

from __future__ import annotations

from typing import Any, cast

import pytest

from celery_safe_leader._dispatch.records import _parts
from celery_safe_leader._dispatch.run import Run
from celery_safe_leader._ledger.publications import BATCH, FULL_BATCH, Push


class Pushed:
    def __init__(self, size: int) -> None:
        self.push = Push(b"queue", b"x" * size) if size else None


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([0] * (2 * BATCH + 1), [BATCH, BATCH, 1]),
        ([100] * (BATCH + 1), [BATCH, 1]),
        ([FULL_BATCH // 4] * 9, [4, 4, 1]),
        ([1, 5 * FULL_BATCH, 1, 1], [1, 1, 2]),
    ],
)
def test_a_script_has_no_more_runs_than_it_can_push_in_time(
    sizes: list[int], parts: list[int]
) -> None:
    runs = cast(Any, [Pushed(size) for size in sizes])
    found: list[list[Run]] = list(_parts(runs))
    assert [len(part) for part in found] == parts
    assert [run for part in found for run in part] == runs
