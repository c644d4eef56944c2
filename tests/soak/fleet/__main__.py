"""Let four workers and three beats run under random faults of all kinds: ``make fleet``.

A RabbitMQ node and a Redis server of its own, both behind proxies. Every few seconds a process is
killed, stopped, told to end once or twice, a link is cut or swallows all, the broker or Redis is
restarted, a channel is closed by the broker, a consumer cancelled, the temporary files are
removed. Leader-only calls and periodic tasks go on meanwhile. In the end each has to have run
exactly once, as far as the broker delivered it once; one worker and one beat that no fault ended
must not have grown; and every process has to work, and to lead if all others are gone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from tests.soak.__main__ import FOLDER, versions
from tests.soak.endurance import Sample, growth
from tests.soak.fleet.app import read_notes
from tests.soak.fleet.faults import Weather
from tests.soak.fleet.judge import judge_effects, judge_periodic, let_through
from tests.soak.fleet.posts import LEADS, PATIENCE, Harbour
from tests.soak.verdict import Verdict
from tests.support.celery.effects import Producer
from tests.support.processes import wait_until

RATE = 8.0
"""Leader-only calls a second."""
SAMPLE_EVERY = 10.0
ALLOWED = {
    "RSS KiB": (0.03, 3072.0),
    "threads": (0.0, 1.0),
    "sockets": (0.0, 2.0),
    "files": (0.0, 2.0),
}
"""By how much each may be larger in the last third than it was before: a part, or so much."""
_ROLES = {"leading": 1.0, "waiting": 0.0}


def thirds(samples: Sequence[Sample]) -> dict[str, tuple[float, float, float]]:
    """Return what each elder held in the thirds of the time that it led, and that it waited.

    Apart, since a leader holds more: whoever led last would seem to have grown. A role with fewer
    than nine samples is left out.
    """
    found = {}
    for who in sorted({name.split(": ")[0] for sample in samples for name in sample}):
        for role, value in _ROLES.items():
            own = [sample for sample in samples if sample[f"{who}: {LEADS}"] == value]
            if len(own) < 9:
                continue
            for name, held in growth(own).items():
                what = name.removeprefix(f"{who}: ")
                if what in ALLOWED:
                    found[f"{who} {role}: {what}"] = held
    return found


def grown(samples: Sequence[Sample]) -> list[str]:
    """Return what an elder held more of in the last third of a role's time than in both others.

    Against the higher of the two: the first third is for warming up, and what dips in the middle
    and comes back has not grown.
    """
    found = []
    for name, (first, middle, after) in thirds(samples).items():
        before = max(first, middle)
        part, least = ALLOWED[name.split(": ")[-1]]
        if after - before > max(part * before, least):
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return found


def _play(
    folder: Path, seed: int, seconds: float, logs: Path | None
) -> tuple[Verdict, list[Sample]]:
    samples: list[Sample] = []
    with Harbour(folder) as harbour, _logs_kept(harbour, logs):
        harbour.start()
        wait_until(lambda: harbour.leader("worker") and harbour.leader("beat"), 90, "leaders")
        elders = [post.child for post in harbour.posts if post.is_elder]
        weather = Weather(harbour, seed)
        began = time.monotonic()
        producer = Producer(harbour.children, folder, "calls", rate=RATE, seconds=seconds)
        while time.monotonic() < began + seconds:
            weather.turn()
            if time.monotonic() >= began + SAMPLE_EVERY * len(samples):
                samples.append(harbour.sample())
            time.sleep(0.1)
        _calm(weather)
        sent, unknown, _ = producer.wait(120)
        until = time.time_ns() // 1000
        verdict = _settled(harbour, weather, sent, until)
        verdict.problems += [
            f"{child.name}, which no fault ended, did not live to the end"
            for child in elders
            if not child.running
        ]
        verdict.problems += _in_turn(harbour, weather)
        _count(verdict, harbour, weather, sent, unknown, until)
        verdict.problems += grown(samples)
    return verdict, samples


@contextmanager
def _logs_kept(harbour: Harbour, logs: Path | None) -> Iterator[None]:
    try:
        yield
    finally:
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for post in [*harbour.posts, *harbour.gone]:
                for child in post.all:
                    text = [f"{line.at:.3f} {line.text}\n" for line in child.timed_lines]
                    (logs / f"{child.name}.log").write_text("".join(text))
            shutil.copy(harbour.notes, logs / "notes")


def _calm(weather: Weather) -> None:
    def over() -> bool:
        weather.turn(calm=True)
        return weather.is_over

    wait_until(over, 120, "the end of all faults", interval=0.2)


def _settled(harbour: Harbour, weather: Weather, sent: set[str], until: int) -> Verdict:
    """Wait until all is done, and every worker has run a call of its own."""
    verdict = Verdict()

    def done() -> bool:
        weather.turn(calm=True)
        effects, periodic, _ = read_notes(harbour.notes)
        last: Counter[str] = Counter()
        for run in periodic:
            last[run.execution.entry] = max(last[run.execution.entry], run.execution.last)
        served = all(last[name] + grid.step > until for name, grid in harbour.grids.items())
        return served and sent <= {run.call for run in effects if run.outcome != "refused"}

    _try(verdict, done, 180, "all calls and runs to be done")
    asked: set[str] = set()

    def all_work() -> bool:
        weather.turn(calm=True)
        names = {post.name for post in harbour.of("worker")}
        for post in harbour.of("worker"):
            if post.name not in asked and harbour.works(post):
                asked.add(post.name)
        return names <= harbour.answered()

    _try(verdict, all_work, 90, "every worker to run a call of its own")
    return verdict


def _in_turn(harbour: Harbour, weather: Weather) -> list[str]:
    """End whoever leads, until one is left: each of them leads when it is its turn."""
    verdict = Verdict()
    for kind in ("worker", "beat"):
        posts = harbour.of(kind)
        while len(posts) > 1:
            leader = harbour.leader(kind)
            if leader not in posts:
                what = f"{kind} to lead of {[post.name for post in posts]}"
                if not _try(verdict, lambda: harbour.leader(kind) in posts, 60, what):  # noqa: B023
                    break
                continue
            posts.remove(leader)
            harbour.posts.remove(leader)
            harbour.gone.append(leader)
            leader.child.signal(signal.SIGTERM)
            try:
                code = leader.child.wait(PATIENCE)
            except AssertionError:
                harbour.impatient += 1
                os.killpg(leader.child.pid, signal.SIGKILL)
                continue
            if code != 0:
                verdict.problems.append(f"{leader.name} was told to end and left {code}")
        (last,) = posts[:1]
        what = f"{last.name} to lead, alone"
        _try(verdict, lambda: harbour.leader(kind) is last, 60, what)  # noqa: B023
    before = len(read_notes(harbour.notes)[1])
    what = "periodic runs by the last beat and worker"
    _try(verdict, lambda: len(read_notes(harbour.notes)[1]) > before + 3, 60, what)
    # The last beat ends first, and the last worker once it has nothing left to do.
    for kind in ("beat", "worker"):
        (last,) = harbour.of(kind)[:1]
        _try(verdict, lambda: harbour.waiting() == 0, 60, "empty queues")
        if last.child.stop() != 0:
            verdict.problems.append(f"{last.name} was told to end and left {last.child.returncode}")
    return verdict.problems


def _try(verdict: Verdict, condition: Callable[[], bool], timeout: float, what: str) -> bool:
    try:
        wait_until(condition, timeout, what, interval=0.5)
    except AssertionError:
        verdict.problems.append(f"waited {timeout:g} s in vain for {what}")
        return False
    return True


def _count(
    verdict: Verdict,
    harbour: Harbour,
    weather: Weather,
    sent: set[str],
    unknown: set[str],
    until: int,
) -> None:
    effects, periodic, _ = read_notes(harbour.notes)
    lines = list(harbour.lines())
    unchecked = let_through(line for _, line in lines)
    parts = (
        judge_effects(sent, unknown, effects, weather.restarts),
        judge_periodic(periodic, harbour.grids, until, unchecked, weather.restarts),
    )
    verdict.counts = {
        "faults": dict(sorted(weather.faults.items())),
        "processes started": sum(len(post.all) for post in [*harbour.posts, *harbour.gone]),
        "told to end and killed after 45 s": harbour.impatient,
    }
    for part in parts:
        verdict.counts |= part.counts
        verdict.problems += part.problems
    verdict.counts["longest gap between effects, s"] = _gap([run.began for run in effects])
    verdict.counts["longest gap between periodic runs, s"] = _gap([run.at for run in periodic])
    verdict.counts["second publications dropped"] = sum(
        "Dropped a second publication" in line for _, line in lines
    )
    verdict.counts["lines of errors"] = dict(_errors(lines))
    verdict.problems += weather.problems
    verdict.problems += [f"{who}: {line}" for who, line in lines if "not foreseen" in line]


def _errors(lines: Sequence[tuple[str, str]]) -> Counter[str]:
    """Count the last lines of tracebacks, and errors, without what differs in each."""
    found: Counter[str] = Counter()
    for _, line in lines:
        if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line) or "ERROR" in line:
            found[re.sub(r"\d+|[0-9a-f]{8}-[0-9a-f-]{27}", "#", line)[:120]] += 1
    return Counter(dict(found.most_common(40)))


def _gap(moments: Sequence[float]) -> float:
    ordered = sorted(moments)
    return round(max((b - a for a, b in itertools.pairwise(ordered)), default=0.0), 1)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def main() -> int:
    """Play, print and keep what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.fleet", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the faults; a random one if not given")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for how long")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the file")
    parser.add_argument("--logs", type=Path, help="folder for the log of each process")
    given = parser.parse_args()
    given.seed = random.randrange(10**6) if given.seed is None else given.seed
    given.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"fleet, {given.seconds:.0f} s, seed {given.seed}", flush=True)
    start = _now()
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        verdict, samples = _play(Path(name), given.seed, given.seconds, given.logs)
    file = given.folder / f"fleet-{given.seed}-{start[:19].replace(':', '')}.json"
    kept = {
        "scene": "fleet",
        "seed": given.seed,
        "command": shlex.join(["python", "-m", "tests.soak.fleet", *sys.argv[1:]]),
        "start": start,
        "end": _now(),
        "versions": versions(),
        "passed": verdict.passed,
        "problems": verdict.problems,
        "counts": verdict.counts,
        "growth": thirds(samples),
        "samples": samples,
    }
    file.write_text(json.dumps(kept, indent=1) + "\n")
    for name, value in verdict.counts.items():
        print(f"{name:>40}  {value}")
    for name, held in kept["growth"].items():
        print(f"{name:>40}", *(f"{value:12,.0f}" for value in held))
    for line in verdict.problems[:50]:
        print(f"PROBLEM: {line}")
    print(f"{'passed' if verdict.passed else 'FAILED'}; kept in {file}")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
