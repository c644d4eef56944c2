"""How the election stands as one candidate sees it, with both libraries on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery_safe_leader._core.status import Role, Status
from celery_safe_leader._runtime.inspection import candidate_answer
from tests.integration.library.shells import Shell
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

Start = Callable[..., Shell]


def wait_for(shell: Shell, role: Role) -> Status:
    wait_until(lambda: shell.leader.standing.role is role, 30, f"the role {role.value}")
    return shell.leader.standing


def test_leader_and_standby_agree_and_a_cut_off_one_knows_of_nobody(
    start_candidate: Start, quick_server: Server, key: str
) -> None:
    with Proxy(quick_server.port) as link:
        terms: dict[str, Any] = {"key": key, "ttl": 1.0, "wait": 0.1}
        one = start_candidate(redis=quick_server.url, **terms)
        two = start_candidate(redis=link.url(), **terms)
        assert one.leader.standing == Status(Role.AWAY)
        before = time.time()
        one.elect()
        waiting = wait_for(one, Role.LEADERLESS)
        assert (waiting.leader, waiting.fencing_token) == ("", 0)
        token = one.wait_until_leader(30)
        elected = time.time()
        two.elect()

        leads = one.leader.standing
        assert (leads.role, leads.leader, leads.fencing_token) == (
            Role.LEADER,
            one.leader.candidate_id,
            token,
        )
        assert before <= leads.since <= elected
        assert 0 < leads.remaining <= 1.0

        sees = wait_for(two, Role.STANDBY)
        assert (sees.leader, sees.fencing_token, sees.error) == (leads.leader, token, "")
        assert elected <= sees.since <= time.time()
        assert 0 < sees.remaining <= 1.01

        answer = candidate_answer(two.leader)
        assert answer["role"] == "standby"
        assert answer["leader"] == one.leader.candidate_id
        assert answer["candidate_id"] == two.leader.candidate_id
        assert answer["last_error"] is None

        link.black_hole()
        lost = wait_for(two, Role.LEADERLESS)
        assert lost.leader == ""
        wait_until(lambda: two.leader.standing.error, 30, "the error")
        error = candidate_answer(two.leader)["last_error"]
        assert "no answer from Redis" in error["error"]
        assert candidate_answer(one.leader)["role"] == "leader"
        one.stop()
        assert one.leader.standing.role is Role.AWAY
        link.heal()
        # The error stays, as the last one.
        assert wait_for(two, Role.LEADER).error
