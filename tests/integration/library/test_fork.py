"""A fork is no candidate: it never leads and never renews, whatever its parent is."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.support.candidates.tenures import Tenure, overlaps
from tests.support.processes import Child, Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

TTL = 2.0
"""A share of it is the time limit of a request, and no request may fail here."""


def reports(child: Child) -> list[dict[str, Any]]:
    return [json.loads(line) for line in child.lines if line.startswith("{")]


def report(child: Child, name: str) -> dict[str, Any]:
    child.wait_for_line(f'"{name}"', 30)
    return next(said for said in reports(child) if name in said)


def tenures(child: Child) -> list[Tenure]:
    """Return what each process said of its leadership."""
    last = {
        (said["pid"], said["from"]): Tenure(
            str(said["pid"]), said["leads"], said["from"], said["to"], said["over"]
        )
        for said in reports(child)
        if "from" in said
    }
    return sorted(last.values(), key=lambda tenure: tenure.start)


@pytest.mark.parametrize("shell", ["blocking", "asyncio"])
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "billiard"])
def test_a_forked_child_is_an_idle_candidate_of_its_own(
    how: str, shell: str, quick_server: Server, key: str, children: Children
):
    program = "tests.integration.library.fork_program"
    # From Python 3.12 on os.fork() warns of the threads that a child does not have.
    env = {"PYTHONWARNINGS": "error::ResourceWarning"}
    process = children.module(program, how, shell, quick_server.url, key, str(TTL), env=env)
    parent, child = report(process, "parent"), report(process, "child")
    assert child["pid"] != parent["pid"]
    assert child["id"] != parent["id"]
    assert f":{child['pid']}:" in child["id"]
    assert (child["active"], child["leads"], child["token"]) == (False, False, None)
    assert child["remaining"] == 0
    assert not any(name.startswith("leader:") for name in child["threads"])

    looked_on = report(process, "looked_on")
    assert looked_on["looked_on"] > 50
    report(process, "elects")
    lease, client = f"{{leader:{key}}}:lease", quick_server.client()
    assert client.hgetall(lease)["holder"] == parent["id"]
    assert [(t.who, t.token) for t in tenures(process)] == [(str(parent["pid"]), parent["token"])]

    # Two renewals of the parent, after the child has used connections of its own.
    time.sleep(TTL)
    assert [said["error"] for said in reports(process) if "error" in said] == []

    # The parent hands over, and now the child leads, in its own name.
    process.wait_for_line(lambda text: '"elects"' in text)
    wait_until(lambda: client.xlen(f"{{leader:{key}}}:history") >= 1)
    os.kill(parent["pid"], signal.SIGTERM)
    wait_until(lambda: len(tenures(process)) == 2, 30, lambda: process.output)
    assert tenures(process)[1].who == str(child["pid"])
    assert tenures(process)[1].token > parent["token"]
    wait_until(lambda: client.hget(lease, "holder") == child["id"], 30)
    os.kill(child["pid"], signal.SIGTERM)
    wait_until(lambda: tenures(process)[1].over, 30)
    assert overlaps(tenures(process)) == []
    assert "Traceback" not in process.output


def test_the_parent_may_end_while_the_child_only_looks_on(
    quick_server: Server, key: str, children: Children
):
    program = "tests.integration.library.fork_program"
    process = children.module(program, "os.fork", "blocking", quick_server.url, key, str(TTL))
    parent, child = report(process, "parent"), report(process, "child")
    os.kill(parent["pid"], signal.SIGTERM)
    process.wait_for_line('"parent_ended"', 30)
    # Resigned, and nobody there: the idle child does not take the record up.
    report(process, "elects")
    wait_until(lambda: len(tenures(process)) == 2, 30, lambda: process.output)
    # By the order of what they said: it may lead as soon as it takes part.
    said = reports(process)
    before = said[: next(place for place, each in enumerate(said) if "elects" in each)]
    assert any("looked_on" in each for each in before)
    assert {each["pid"] for each in before if "leads" in each and "from" in each} == {parent["pid"]}
    assert tenures(process)[1].who == str(child["pid"])
    os.kill(child["pid"], signal.SIGTERM)
