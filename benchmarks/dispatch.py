"""Dispatches per second, in turn within one run, against a plain loop of ``send_task``."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import redis

from benchmarks.contenders import CONTENDERS, LEADER, LOOP, Contender, Stage
from tests.support.servers import Server

__all__ = ["main", "round_trips", "table"]

_LOADS = (100, 1_000, 10_000, 100_000)
_QUICK_LOADS = (1_000, 10_000)
_SLOW = {"Scheduler", "PersistentScheduler", "MultiBeat", "RedBeat"}


def _lead(contender: Contender, entries: int) -> float:
    """Return the seconds that a contender needs before it is ready to send."""
    if contender is LOOP:
        return 0.2
    return 3.0 + entries * (2e-3 if contender.name == "RedBeat" else 3e-4)


def _flush(stage: Stage) -> None:
    for url in {stage.broker, stage.state}:
        with redis.Redis.from_url(url) as client:
            client.flushall()


def table(
    stage: Stage, entries: int, repeat: int, contenders: tuple[Contender, ...] = CONTENDERS
) -> dict[str, list[float]]:
    """Measure all contenders in turn, again and again.

    Returns:
        Name -> its rates, one for each turn.
    """
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeat):
        for contender in contenders:
            if contender.most < entries:
                continue
            _flush(stage)
            due = time.time() + _lead(contender, entries)
            rates[contender.name].append(contender.rate(stage, entries, due))
    return dict(rates)


def _print(where: str, entries: int, rates: dict[str, list[float]]) -> None:
    loops = rates[LOOP.name]
    for name, each in rates.items():
        # Turn by turn: the machine is not equally fast all the time.
        ratio = median(rate / loop for rate, loop in zip(each, loops, strict=True))
        print(
            f"{where}, {entries:>7,} due: {name:<20} {median(each):>8,.0f}/s  "
            f"{ratio:6.2f} of the loop",
            flush=True,
        )


def round_trips(stage: Stage, entries: int) -> tuple[float, float, float]:
    """Count what the ledger costs.

    Returns:
        Scripts per dispatch; the median and the 99th percentile of the milliseconds for which one
        of them keeps Redis.
    """
    _flush(stage)
    with redis.Redis.from_url(stage.state, decode_responses=True) as client:
        due = time.time() + _lead(LEADER, entries)
        with LEADER.session(stage, entries, due) as send:
            time.sleep(max(0.0, due - time.time()) + 0.02)
            client.config_set("slowlog-max-len", 100_000)
            client.config_set("slowlog-log-slower-than", 0)
            client.slowlog_reset()
            send()
            client.config_set("slowlog-log-slower-than", -1)
        times = sorted(
            each["duration"] / 1000
            for each in client.slowlog_get(100_000)
            if "EVALSHA" in str(each["command"][:10])
        )
    return len(times) / entries, median(times), times[int(len(times) * 0.99)]


@contextlib.contextmanager
def _stages() -> Iterator[dict[str, Stage]]:
    with Server("redis") as one, Server("redis") as two, tempfile.TemporaryDirectory() as folder:
        yield {
            "one server": Stage(one.url, one.url, Path(folder)),
            "two servers": Stage(two.url, one.url, Path(folder)),
        }


def main(*, quick: bool = False) -> None:
    """Print all figures."""
    with _stages() as stages:
        one = stages["one server"]
        for entries in _QUICK_LOADS if quick else _LOADS:
            some = tuple(c for c in CONTENDERS if entries <= 1_000 or c.name not in _SLOW)
            contenders = some if quick else CONTENDERS
            _print("one server", entries, table(one, entries, 1 if quick else 3, contenders))
        if not quick:
            separate = table(stages["two servers"], 10_000, 3, (LOOP, LEADER))
            _print("two servers", 10_000, separate)
        each, middle, most = round_trips(one, 10_000)
        print(
            f"ledger, 10,000 due: {each:.4f} round trips a dispatch; one script keeps Redis for "
            f"{middle:.2f} ms (median), {most:.2f} ms (99 %)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    main(quick=parser.parse_args().quick)
