"""docker-compose.yml against reality: its commands are run, its variables are looked up."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

from tests.example.dockerfile import parse, steps_of
from tests.example.project import EXAMPLE, environment, run
from tests.support.network.ports import free_port
from tests.support.processes import Child, Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server, find_binary

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BEATS = ["beat-1", "beat-2", "beat-3"]
WORKERS = ["worker-1", "worker-2"]
SHOP = ["migrate", *BEATS, *WORKERS]
BROKER = "redis://redis:6379/"
SERVICE_KEYS = {
    "image", "build", "command", "environment", "volumes", "depends_on", "healthcheck",
    "restart", "stop_grace_period", "profiles",
}  # fmt: skip
"""What of Compose's language is used here."""

RECORD_READS = """
import json, os
names = set()
class Recording(type(os.environ)):
    def __getitem__(self, name):
        names.add(os.fsdecode(name))  # some ask in bytes
        return super().__getitem__(name)
os.environ.__class__ = Recording
{script}
print(json.dumps(sorted(names)))
"""


def names_read_by(script: str, cwd: Path) -> set[str]:
    """Run a script and return the environment variables that it asked for."""
    done = run("-c", RECORD_READS.format(script=script), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def outside(value: str, url: str, data: Path) -> str:
    """Turn a value of the compose file into one for this machine."""
    return value.replace(BROKER, url.removesuffix("0")).replace("/data/", f"{data}/")


@pytest.fixture
def start(children: Children, valkey_server: Server, tmp_path: Path) -> Callable[..., Child]:
    """Start the command of a service, with its environment, against a local server."""

    def start(service: str, *more: str, cwd: Path = EXAMPLE) -> Child:
        settings = SERVICES[service].get("environment", {})
        env = {
            name: outside(str(value), valkey_server.url, tmp_path)
            for name, value in settings.items()
        }
        program, *arguments = SERVICES[service]["command"]
        local = Path(sys.executable).parent / program
        assert local.exists(), f"{service}: {program} is no program of this environment"
        argv = [str(local), *arguments, *more]
        return children.start(argv, env=environment(**env), cwd=cwd, name=service)

    return start


def test_the_services_are_redis_three_beats_two_workers_and_the_tests() -> None:
    assert set(SERVICES) == {"redis", *SHOP, "tests"}
    for name, service in SERVICES.items():
        assert set(service) - {"<<"} <= SERVICE_KEYS, name
    for same in (BEATS, WORKERS):
        assert all(SERVICES[name] == SERVICES[same[0]] for name in same)


def test_the_tests_start_on_demand_only() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["tests"]


def test_dependencies_name_services_and_can_be_met() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, f"{name} depends on {needed}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert "restart" not in SERVICES[needed], f"{needed} would never complete"


def test_images_are_pinned_or_built_here() -> None:
    version = re.search(r'(?m)^version = "(.+)"$', (ROOT / "pyproject.toml").read_text())
    assert version
    stages = parse(ROOT / "Dockerfile")
    for name, service in SERVICES.items():
        image, _, tag = service["image"].rpartition(":")
        assert re.fullmatch(r"[a-z0-9]+([._/-][a-z0-9]+)*", image), name
        if "build" in service:
            assert tag == version[1], f"{name}: the tag is the version of the package"
            assert service["build"]["context"] == "."
            assert service["build"]["target"] in stages
        else:
            assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-z0-9.]+)?", tag), name


def test_volumes_are_declared_and_used() -> None:
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    }
    assert used == set(COMPOSE["volumes"])


def test_the_database_is_in_a_volume_that_the_user_of_the_image_can_write() -> None:
    steps = steps_of(parse(ROOT / "Dockerfile"), "shop")
    made = " ".join(rest for instruction, rest in steps if instruction == "RUN")
    for name in SHOP:
        folder = Path(SERVICES[name]["environment"]["SHOP_DATABASE"]).parent
        assert f"shop-data:{folder}" in SERVICES[name]["volumes"]
        assert f"mkdir {folder}" in made
        assert f"chown leader:leader {folder}" in made


def test_the_shop_reads_each_variable_that_is_set() -> None:
    read = names_read_by("import shop.celery; shop.celery.app.conf.broker_url", EXAMPLE)
    for name in SHOP:
        assert set(SERVICES[name]["environment"]) <= read, name


def test_the_suite_reads_each_variable_that_is_set() -> None:
    read = names_read_by("import tests.conftest", ROOT)
    assert set(SERVICES["tests"]["environment"]) <= read


def test_the_composed_redis_is_among_the_servers_of_the_suite(start: Callable[..., Child]) -> None:
    # One folder: to collect all takes a quarter of a minute.
    suite = start("tests", "--collect-only", "-q", "tests/integration/library", cwd=ROOT)
    assert suite.wait(60) == 0, suite.output
    assert "[external" in suite.output


def test_redis_starts_with_its_arguments_and_answers_its_health_check(
    children: Children, tmp_path: Path
) -> None:
    program, *arguments = SERVICES["redis"]["command"]
    assert program == "redis-server"
    binary = find_binary("redis") or find_binary("valkey")
    assert binary
    port = str(free_port())
    here = ["--port", port, "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    redis = children.start([binary, *arguments, *here], cwd=tmp_path, name="redis")
    redis.wait_for_line("Ready to accept connections", 30)
    assert SERVICES["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    client = Redis(port=int(port))
    assert client.ping()
    client.close()


def test_migrate_completes(start: Callable[..., Child], tmp_path: Path) -> None:
    migrate = start("migrate")
    assert migrate.wait(30) == 0, migrate.output
    assert (tmp_path / "shop.sqlite3").exists()


def test_a_worker_starts(start: Callable[..., Child]) -> None:
    start("worker-1").wait_for_line(" ready.", 30)


def test_three_beats_start_and_one_is_elected(start: Callable[..., Child]) -> None:
    beats = [start(name) for name in BEATS]
    for beat in beats:
        beat.wait_for_line("beat: Starting", 30)
    ttl = float(SERVICES["beat-1"]["environment"]["SHOP_LEADER_TTL"])
    wait = float(SERVICES["beat-1"]["environment"]["SHOP_LEADER_WAIT"])

    def leaders() -> list[Child]:
        return [beat for beat in beats if "Elected leader of shop:beat" in beat.output]

    wait_until(leaders, 1.01 * ttl + wait + 10, "a beat to be elected")
    assert len(leaders()) == 1
    assert all(beat.running for beat in beats)
