"""How long one script of the ledger keeps Redis while runs are published, beside a bare loop."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import redis

from benchmarks.contenders import LEADER
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from celery_safe_leader._ledger import ledger_session, packed_commands
from tests.support.servers import Server

__all__ = ["main"]

_ENTRIES = 10_000
_TURNS = 3
_PIECE = 77
"""Scripts in one write, as many as for 1,000 runs."""


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print the figures, the middle of three turns."""
    goal = f"round trips of the ledger a dispatch, {_ENTRIES:,} due"
    waits, ours, loops = [], [], []
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        stage = Rig(server.url, server.url, Path(folder))
        for _ in range(1 if quick else _TURNS):
            count, times = _publish(stage)
            loop = _loop(stage, len(times), median(times))
            waits.append(count)
            ours.append(_nearly(times))
            loops.append(_nearly(loop))
            report.say(
                f"Ledger, {_ENTRIES:,} due: {len(times):,} scripts in {count:,} round trips; one "
                f"script keeps Redis for {median(times):.2f} ms (median), {ours[-1]:.2f} ms "
                f"(99 %), {times[-1]:.2f} ms (most), all together for {sum(times):.0f} ms. As many "
                f"that count and touch no data: {median(loop):.2f} ms (median), {loops[-1]:.2f} "
                f"ms (99 %), {loop[-1]:.2f} ms (most)\n"
            )
    report.at_most(goal, max(waits) / _ENTRIES, 0.03)
    beside = f"one that counts as long and touches no data {median(loops):.2f} ms"
    report.at_most("one script keeps Redis, 99 % of them", median(ours), 0.3, " ms", beside=beside)


def _publish(stage: Rig) -> tuple[int, list[float]]:
    """Publish many runs.

    Returns:
        How often the leader waited for replies; for how many milliseconds each script kept Redis,
        the least first.
    """
    stage.clear()
    send_packed = mock.patch.object(
        ledger_session, "send_packed", wraps=packed_commands.send_packed
    )
    with redis.Redis.from_url(stage.state, decode_responses=True) as client, send_packed as sent:
        due = time.time() + 2.0 + _ENTRIES * 3e-4
        with LEADER.session(stage, _ENTRIES, due) as send:
            time.sleep(max(0.0, due - time.time()) + 0.02)
            _start_log(client)
            sent.reset_mock()
            send()
        return sent.call_count, _durations(client)


def _loop(stage: Rig, count: int, length: float) -> list[float]:
    """Run scripts that only count.

    What the longest of them take above their median is the machine's doing.

    Args:
        stage: Whose Redis.
        count: How many scripts.
        length: The median that they should have, in milliseconds.

    Returns:
        For how many milliseconds each kept Redis, the least first.
    """
    with redis.Redis.from_url(stage.state, decode_responses=True) as client:
        sha = client.script_load("for _ = 1, ARGV[1] do end")
        steps = 10_000

        def play(times: int) -> list[float]:
            _start_log(client)
            for _ in range(0, times, _PIECE):
                with client.pipeline(transaction=False) as pipe:
                    for _ in range(_PIECE):
                        pipe.evalsha(sha, 0, steps)
                    pipe.execute()
            return _durations(client)

        for _ in range(5):
            steps = max(1, round(steps * length / median(play(_PIECE))))
        return play(count)


def _start_log(client: redis.Redis) -> None:
    client.config_set("slowlog-max-len", 100_000)
    client.slowlog_reset()
    client.config_set("slowlog-log-slower-than", 0)


def _durations(client: redis.Redis) -> list[float]:
    """End the log; return the milliseconds of each script in it, the least first."""
    client.config_set("slowlog-log-slower-than", -1)
    log: Any = client.slowlog_get(100_000)
    return sorted(each["duration"] / 1000 for each in log if "EVALSHA" in str(each["command"][:10]))


def _nearly(times: list[float]) -> float:
    return times[int(len(times) * 0.99)]
