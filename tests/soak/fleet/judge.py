"""Judges what the fleet ran: each leader-only call and each periodic run exactly once.

As far as the broker goes: RabbitMQ delivers a message again when it does not know that it was
done, and says so in the message (``redelivered``). The first delivery, which alone is not marked,
may be run after the second, by a worker that was stopped meanwhile. Whatever ran again for another
reason is a problem.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set

from tests.soak.fleet.app import EffectRun, PeriodicRun
from tests.soak.verdict import Verdict
from tests.support.celery.chaos import Grid, problems

__all__ = ["judge_effects", "judge_periodic", "let_through"]

_UNCHECKED = re.compile(
    r"Periodic run (\S+) of \S+ was executed twice: publication \S+ was let through unchecked"
)


def let_through(lines: Iterable[str]) -> set[str]:
    """Return the occurrences of which workers say that one ran unchecked, without Redis."""
    return {found[1] for line in lines if (found := _UNCHECKED.search(line))}


def judge_effects(
    sent: Set[str],
    unknown: Set[str],
    runs: Sequence[EffectRun],
    restarts: Sequence[float],
) -> Verdict:
    """Judge the leader-only calls.

    Args:
        sent: Calls that the broker confirmed.
        unknown: Calls of unknown outcome.
        runs: All runs, in any order.
        restarts: When the broker was restarted, by the monotonic clock.
    """
    by_call: dict[str, list[EffectRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.began):
        by_call[run.call].append(run)
    done = {run.call for run in runs if run.outcome != "refused"}
    verdict = Verdict()
    again: Counter[str] = Counter()
    for call, found in by_call.items():
        for before, run in itertools.pairwise(found):
            why = _why_again(before, run, restarts, _unmarked(found) == 1)
            again[why] += 1
            if why == "for no reason":
                verdict.problems.append(f"{call} ran again for no reason: {before} {run}")
    verdict.problems += [f"{call} was lost" for call in sorted(sent - done)]
    verdict.problems += [f"nobody sent {call}" for call in sorted(by_call.keys() - sent - unknown)]
    verdict.problems += _overlaps(runs)
    verdict.counts = {
        "leader-only calls": len(sent),
        "calls of unknown outcome": len(unknown),
        "effects": sum(run.outcome == "written" for run in runs),
        "calls lost": len(sent - done),
        "refused under an old token": sum(run.outcome == "refused" for run in runs),
        "runs again": dict(again),
        "tenures with runs": len({run.token for run in runs}),
    }
    return verdict


def _unmarked(runs: Sequence[EffectRun] | Sequence[PeriodicRun]) -> int:
    return sum(not run.redelivered for run in runs)


def _why_again(
    before: EffectRun, run: EffectRun, restarts: Sequence[float], may_be_late: bool
) -> str:
    if run.redelivered:
        return "redelivered by the broker"
    if before.redelivered and may_be_late:
        return "redelivered by the broker, and the first delivery run later"
    if run.retries > before.retries:
        return "retried by the task"
    if run.forwards > 0:
        return "forwarded, and the broker had kept the message"
    if any(before.began < at < run.began for at in restarts):
        return "after a restart of the broker"
    return "for no reason"


def _overlaps(runs: Sequence[EffectRun]) -> list[str]:
    """Say where two led at once: a run began under a valid lease after one of a later token."""
    candidates: dict[int, str] = {}
    found = []
    newest = 0
    for run in sorted(runs, key=lambda run: run.began):
        if candidates.setdefault(run.token, run.candidate) != run.candidate:
            found.append(f"token {run.token} of {candidates[run.token]} and {run.candidate}")
        if run.token < newest and run.left > 0:
            found.append(f"{run.call} began under token {run.token} after token {newest} ran")
        newest = max(newest, run.token)
    return found


def judge_periodic(
    runs: Sequence[PeriodicRun],
    grids: Mapping[str, Grid],
    until: int,
    unchecked: Set[str],
    restarts: Sequence[float],
) -> Verdict:
    """Judge the periodic runs.

    Args:
        runs: All of them, in any order.
        grids: When each entry is due.
        until: Up to which moment, in microseconds, every due moment must have been served.
        unchecked: Occurrences of which workers say that one ran unchecked, without Redis.
        restarts: When the broker was restarted, by the monotonic clock.
    """
    by_occurrence: dict[str, list[PeriodicRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.at):
        by_occurrence[run.execution.occurrence].append(run)
    verdict = Verdict()
    again: Counter[str] = Counter()
    for occurrence, found in by_occurrence.items():
        for before, run in itertools.pairwise(found):
            name = run.execution.publication
            same = [each for each in found if each.execution.publication == name]
            late = _unmarked(same) == 1
            why = _why_twice(before, run, restarts, occurrence in unchecked, late)
            again[why] += 1
            if why == "for no reason":
                verdict.problems.append(f"{occurrence} ran again for no reason: {before} {run}")
    broken = problems([run.execution for run in runs], grids, until, may_double=True)
    verdict.problems += broken
    verdict.counts = {
        "periodic runs": len(runs),
        "occurrences": len(by_occurrence),
        "runs lost": sum(": lost " in line for line in broken),
        "periodic runs again": dict(again),
        "tenures that published": len({run.execution.token for run in runs}),
    }
    return verdict


def _why_twice(
    before: PeriodicRun,
    run: PeriodicRun,
    restarts: Sequence[float],
    unchecked: bool,
    may_be_late: bool,
) -> str:
    if before.execution.publication != run.execution.publication:
        return "a second publication, unchecked without Redis" if unchecked else "for no reason"
    if run.redelivered:
        return "redelivered by the broker"
    if before.redelivered and may_be_late:
        return "redelivered by the broker, and the first delivery run later"
    if any(before.at < at < run.at for at in restarts):
        return "after a restart of the broker"
    return "for no reason"
