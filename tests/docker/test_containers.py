"""What needs a Docker engine: ``make test-docker``. Not part of the ordinary run.

It was written without an engine at hand; ``tests/example/test_compose.py`` and
``test_dockerfile.py`` check outside Docker what can be checked there.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from pytest_celery import RedisTestBroker

from celery_safe_leader import create_safe_redis_leader
from tests.support.processes.child import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

BEATS = ("beat-1", "beat-2", "beat-3")


def compose(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", "compose", "--project-name", "safe-leader-test", *arguments],
        cwd=ROOT,
        check=check,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.fixture
def composed() -> Iterator[None]:
    compose("up", "--build", "--detach", "redis", "migrate", *BEATS, "worker-1", "worker-2")
    yield
    compose("down", "--volumes", "--timeout", "5", check=False)


def elected(beats: tuple[str, ...]) -> str:
    """Wait until one of the beats says that it leads."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for beat in beats:
            if "Elected leader of" in compose("logs", "--no-color", beat):
                return beat
        time.sleep(0.5)
    pytest.fail(f"none of {beats} was elected: {compose('logs', '--tail', '50')}")


def test_the_composed_shop_goes_on_when_its_leader_is_killed(composed: None) -> None:
    first = elected(BEATS)
    compose("kill", first)
    elected(tuple(beat for beat in BEATS if beat != first))
    time.sleep(5)
    # Ends with an error if a run was lost or doubled.
    compose("exec", "-T", "--workdir=/app", "worker-1", "python", "-m", "demo.audit")


def test_a_leader_is_elected_and_followed_on_the_redis_of_pytest_celery(
    celery_redis_broker: RedisTestBroker,
) -> None:
    url = celery_redis_broker.config()["host_url"]
    first = create_safe_redis_leader(redis=url, key="docker", ttl=1.0)
    second = create_safe_redis_leader(redis=url, key="docker", ttl=1.0)
    with first, second:
        deadline = time.monotonic() + 10
        while not (first.is_leader or second.is_leader):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        leader, standby = (first, second) if first.is_leader else (second, first)
        leader.stop()
        assert standby.wait_until_leader(2) > 0
