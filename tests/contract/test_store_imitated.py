"""Servers that imitate Redis, as far as their INFO differs: the election goes by the connection."""

from __future__ import annotations

import logging
import re
from importlib.resources import files

import pytest
import redis

from celery_safe_leader._core.messages import ReplyStatus
from celery_safe_leader._store import codec
from celery_safe_leader._store.lua import Script, load
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import ask, observe, renew, win
from tests.support.servers import Server

REPLICATION = "role:master\r\nmaster_replid:abc\r\n"
SERVER = "redis_version:7.4.0\r\nrun_id:def\r\n"
IMITATION = """
local real = redis
local function answered(call, command, section)
  if command ~= 'INFO' then return call(command, section) end
  return section == 'server' and {server} or {replication}
end
local redis = setmetatable({{
  call = function(command, ...)
    if command == 'INFO' then return answered(real.call, command, ...) end
    return real.call(command, ...)
  end,
  pcall = function(command, ...)
    if command == 'INFO' then return answered(real.pcall, command, ...) end
    return real.pcall(command, ...)
  end,
}}, {{ __index = real }})
"""


def imitation(replication: str, server: str) -> str:
    """Return Lua by which a server answers INFO so."""
    quoted = [repr(text) for text in (replication, server)]
    return IMITATION.format(replication=quoted[0], server=quoted[1])


def without(text: str, field: str) -> str:
    return re.sub(rf"{field}:[^\r]*\r\n", "", text)


def epoch(server: Server, replication: str, info: str) -> str:
    scripts = files("celery_safe_leader._store") / "scripts"
    lua = (scripts / "epoch.lua").read_text()
    asked = "\nlocal epoch, problem = server_epoch()\nreturn problem or epoch\n"
    reply: bytes = server.client().eval(imitation(replication, info) + lua + asked, 0)
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def test_an_epoch_is_run_id_and_replid(valkey_server: Server) -> None:
    assert epoch(valkey_server, REPLICATION, SERVER) == "def:abc"


@pytest.mark.parametrize("field", ["role", "master_replid", "run_id"])
def test_without_one_of_them_there_is_no_epoch_and_no_wrong_reason(
    valkey_server: Server, field: str
) -> None:
    shown = without(REPLICATION, field), without(SERVER, field)
    with pytest.raises(redis.ResponseError, match=r"^NOEPOCH"):
        epoch(valkey_server, *shown)


def test_a_replica_is_still_refused_as_one(valkey_server: Server) -> None:
    shown = without(REPLICATION.replace("master\r", "slave\r"), "master_replid")
    with pytest.raises(redis.ReadOnlyError):
        epoch(valkey_server, shown, SERVER)


def test_an_election_is_held_there_and_what_is_lost_is_said_once(
    make_store: object,
    valkey_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    imitated = imitation(without(REPLICATION, "master_replid"), without(SERVER, "run_id"))

    def loaded(package: str, name: str, *preludes: str, before: str = "") -> Script:
        return load(package, name, *preludes, before=before or imitated)

    monkeypatch.setattr(codec, "load", loaded)
    store: StoreUnderTest = make_store(valkey_server.url)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        won = win(store)
        for _ in range(3):
            assert ask(store, renew(won.token)).status is ReplyStatus.ACCEPTED
    assert ask(store, observe()).record.holder == "a"
    (line,) = [each.getMessage() for each in caplog.records]
    assert "INFO of this server does not show role, master_replid or run_id" in line
    assert "can lead to two leaders" in line
