"""Name resolution that hangs for good delays no demotion, and no end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.network.proxy import Proxy
from tests.support.processes import Child, Children
from tests.support.servers import Server

TTL = 1.5


def told(child: Child, what: str, timeout: float = 15.0) -> dict[str, Any]:
    """Wait for what it says."""
    line: dict[str, Any] = json.loads(child.wait_for_line(f'"what": "{what}"', timeout).text)
    return line


@pytest.mark.parametrize("shell", ["blocking", "asyncio"])
def test_a_leader_whose_resolver_hangs_is_demoted_on_time_and_ends(
    children: Children,
    tmp_path: Path,
    valkey_server: Server,
    start_proxy: Callable[[Server], Proxy],
    shell: str,
) -> None:
    link, flag = start_proxy(valkey_server), tmp_path / "hang"
    url = f"redis://localhost:{link.port}/0"
    child = children.module(
        "tests.integration.library.resolver_program", shell, url, str(flag), str(TTL)
    )
    told(child, "elected")
    flag.touch()
    link.cut()
    hangs = told(child, "hangs")
    over = told(child, "leads no longer")
    demoted = told(child, "demoted")
    assert demoted["reason"] == "expired"
    # It hangs from the first request after the last renewal on, for good: whatever is said later
    # is said while it hangs. And it led no longer than it had left then.
    assert hangs["at"] < over["at"]
    assert hangs["left"] < TTL
    assert over["led_at"] <= hangs["at"] + hangs["left"] + 0.001
    child.stop(20)
    told(child, "ended")
