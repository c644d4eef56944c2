"""Leaders that are driven step by step, in both ways of publication, and what they publish."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.beat.driven_leaders import TRANSACTIONAL, WRITE_AHEAD, DrivenLeaders, Queue
from tests.support.servers import Server


@pytest.fixture(params=[TRANSACTIONAL, WRITE_AHEAD])
def stage(
    quick_server: Server, key: str, request: pytest.FixtureRequest
) -> Iterator[DrivenLeaders]:
    """Leaders of one key, in each way in turn."""
    stage = DrivenLeaders(quick_server, key, request.param)
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture
def queue(stage: DrivenLeaders) -> Iterator[Queue]:
    """What they have published."""
    queue = Queue(stage.broker, stage.key)
    yield queue
    queue.close()
