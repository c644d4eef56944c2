"""Whatever a server refuses: a message is in its queue exactly when its run is recorded.

Each server is made sick in one way after the other, and is well again after each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.publications import (
    Batch,
    OverlapPolicy,
    OverlapRule,
    Publication,
    Published,
)
from celery_safe_leader.errors import SafeLeaderError, StoreRefusedError
from tests.contract.ledger_helpers import Bench
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.kinds import all_kinds

RULE = OverlapRule(OverlapPolicy.SKIP, 60_000)
PUBLISHED, REFUSED = "PUBLISHED", "REFUSED"


@dataclasses.dataclass
class Ward:
    """A server, and a batch to publish there.

    Three plain runs, one with a rule of overlap, one whose list is none, one without a message.
    """

    server: Server
    bench: Bench
    ledger: Ledger
    batch: Batch = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        bench = self.bench
        bench.enrol(self.ledger, *"abcdef")
        bench.client.set(bench.queue("string"), "x")
        plain = [bench.publication(entry) for entry in "abc"]
        ruled = dataclasses.replace(bench.publication("d"), overlap=RULE)
        unwanted = bench.publication("e", queue=bench.queue("string"))
        without = dataclasses.replace(bench.publication("f"), push=None)
        self.batch = Batch((*plain, ruled, unwanted, without))

    def queued(self) -> list[bytes]:
        """Messages in the queue, the oldest first."""
        found: Any = self.bench.client.lrange(self.bench.queue(), 0, -1)
        return list(found[::-1])

    def recorded(self, publication: Publication) -> bool:
        """Whether a run is recorded as published."""
        name = publication.claim.entry.encode()
        raw: Any = self.bench.client.hget(self.bench.names.runs, name)
        return bool(raw) and int(raw.split()[1]) == publication.run.count

    def check(self) -> None:
        """Queue and ledger are equal."""
        found = self.queued()
        assert len(found) == len(set(found)), found
        for each in self.batch.publications:
            if each.push is not None:
                assert (each.push.message in found) == self.recorded(each), each.claim.entry

    def publish_once_known(self) -> Published | SafeLeaderError:
        """Let the server know the script: else it would be refused for that."""
        (answer,) = self.ledger.publish([Batch(())], lambda: True) or []
        return answer

    def check_recovery(self) -> None:
        """All is published, once, but for what its list refuses."""
        for _ in range(2):
            answer = self.publish()
            assert isinstance(answer, Published), answer
            outcomes = [each.name for each in answer.outcomes]
            assert outcomes == [PUBLISHED] * 4 + [REFUSED, PUBLISHED]
            assert "WRONGTYPE" in answer.refusals["e"]
            assert self.queued() == [b"a 1", b"b 1", b"c 1", b"d 1"]
            self.check()

    def publish(self) -> Published | SafeLeaderError:
        """Publish the batch."""
        (answer,) = self.ledger.publish([self.batch], lambda: True) or []
        return answer


@pytest.fixture(scope="module", params=all_kinds())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    # It counts as sick if it cannot save only where it should save.
    with Server(request.param, config={"save": "3600 1"}) as server:
        yield server


@pytest.fixture
def ward(server: Server) -> Iterator[Ward]:
    with redis.Redis.from_url(server.url) as client:
        bench = Bench(client, f"sick-{uuid.uuid4().hex[:8]}")
        yield Ward(server, bench, bench.ledger())


Sickness = Callable[[Ward], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def configured(ward: Ward, settings: dict[str, str]) -> Iterator[None]:
    client: Any = ward.bench.client
    before = {name: value for key in settings for name, value in client.config_get(key).items()}
    for name, value in settings.items():
        client.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)


def out_of_memory(ward: Ward) -> Any:
    return configured(ward, {"maxmemory-policy": "noeviction", "maxmemory": "1"})


def too_few_replicas(ward: Ward) -> Any:
    return configured(ward, {"min-replicas-to-write": "1"})


@contextlib.contextmanager
def read_only(ward: Ward) -> Iterator[None]:
    client: Any = ward.bench.client
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def cannot_save(ward: Ward) -> Iterator[None]:
    # A file cannot take the place of a folder that is not empty.
    dump = ward.server.folder / "dump.rdb"
    dump.unlink(missing_ok=True)
    (dump / "full").mkdir(parents=True)
    try:
        save(ward, "err")
        yield
    finally:
        shutil.rmtree(dump)
        save(ward, "ok")


def save(ward: Ward, status: str) -> None:
    client: Any = ward.bench.client
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 0)
    assert client.info("persistence")["rdb_last_bgsave_status"] == status


@contextlib.contextmanager
def rights(ward: Ward, *rules: str) -> Iterator[None]:
    """Let the ledger work as a user who has these rights."""
    client: Any = ward.bench.client
    user = f"user-{ward.bench.key}"
    client.execute_command("ACL", "SETUSER", user, "on", ">p", "~*", "+@all", *rules)
    limited = redis.Redis(port=ward.server.port, username=user, password="p")
    ward.ledger._session.client = limited
    try:
        yield
    finally:
        ward.ledger._session.client = client
        limited.close()
        client.acl_deluser(user)


def without(command: str) -> Sickness:
    return lambda ward: rights(ward, f"-{command}")


def without_its_queue(ward: Ward) -> Any:
    return rights(ward, "resetkeys", f"~{{leader:{ward.bench.key}}}*")


def wrong_type(name: str) -> Sickness:
    @contextlib.contextmanager
    def sickness(ward: Ward) -> Iterator[None]:
        client, key = ward.bench.client, getattr(ward.bench.names, name)
        aside = f"{key} aside"
        if client.exists(key):
            client.rename(key, aside)
        client.set(key, "x")
        try:
            yield
        finally:
            client.delete(key)
            if client.exists(aside):
                client.rename(aside, key)

    return sickness


SICKNESSES: dict[str, Sickness] = {
    "out of memory": out_of_memory,
    "cannot save": cannot_save,
    "too few replicas": too_few_replicas,
    "read-only": read_only,
    "no right to eval": without("evalsha"),
    "no right to read": without("hmget"),
    "no right to write": without("hset"),
    "no right to its queue": without_its_queue,
    "runs is none": wrong_type("runs"),
    "pending is none": wrong_type("pending"),
    "running is none": wrong_type("running"),
}
MISSING_RIGHTS = [name for name in SICKNESSES if name.startswith("no right")]


@pytest.mark.parametrize("name", SICKNESSES)
def test_what_a_sick_server_refuses_changed_nothing(ward: Ward, name: str) -> None:
    assert isinstance(ward.publish_once_known(), Published)
    with SICKNESSES[name](ward):
        for _ in range(2):
            answer = ward.publish()
            assert isinstance(answer, StoreRefusedError), answer
            assert answer.is_missing_right == (name in MISSING_RIGHTS), answer
    assert ward.batch.steps == []
    assert ward.queued() == []
    assert not any(map(ward.recorded, ward.batch.publications))
    ward.check_recovery()


@pytest.mark.parametrize("count", [3, 6], ids=["all plain", "mixed"])
def test_a_run_that_may_not_be_recorded_is_not_pushed(ward: Ward, count: int) -> None:
    """The list would take the message: what may not be written is the sentinel."""
    ward.publish_once_known()
    ward.batch = Batch(ward.batch.publications[:count])
    with rights(ward, "-hset"):
        ward.publish()
    assert ward.queued() == []


def test_messages_that_may_not_be_pushed_are_not_recorded(ward: Ward) -> None:
    with rights(ward, "-lpush"):
        answer = ward.publish()
        assert isinstance(answer, Published), answer
        assert [each.name for each in answer.outcomes] == [REFUSED] * 5 + [PUBLISHED]
    assert ward.queued() == []
    ward.check()
    ward.check_recovery()


def test_a_well_server_publishes_all_but_what_its_list_refuses(ward: Ward) -> None:
    ward.check_recovery()
