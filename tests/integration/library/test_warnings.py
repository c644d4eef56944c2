"""A link that is too slow for the ttl is told of, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.library.shells import Shell
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server


def test_a_link_that_is_too_slow_for_the_ttl_is_told_of_once(
    start_candidate: Callable[..., Shell],
    start_proxy: Callable[[Server], Proxy],
    quick_server: Server,
    terms: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = start_proxy(quick_server)
    link.delay(0.2)
    one = start_candidate(**{**terms, "redis": link.url(), "ttl": 0.6})
    one.elect()

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if "the ttl is too short for this connection" in line]

    wait_until(told, 30, "the warning")
    link.heal()
    one.wait_until_leader(30)
    link.delay(0.2)
    wait_until(lambda: not one.leader.is_leader, 30)
    assert len(told()) == 1
    assert "a third of the ttl of 0.6 s" in told()[0]
