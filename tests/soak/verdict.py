"""Judges a run of the soak by the messages at the list, and by what was executed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.soak.pushes import Pushed
from tests.support.celery.chaos import Execution, Grid, doubles, problems

__all__ = [
    "LEAST_TRANSACTIONAL",
    "NOTHING_DOUBLED",
    "TRANSACTIONAL",
    "WAYS",
    "WRITE_AHEAD",
    "Verdict",
    "judge",
    "judge_executions",
]

TRANSACTIONAL = "transactional"
WRITE_AHEAD = "write-ahead"
WAYS = (TRANSACTIONAL, WRITE_AHEAD)
NOTHING_DOUBLED = "nothing was doubled: nothing shows that the counter counts"
LEAST_TRANSACTIONAL = 0.99
"""Of all messages, where broker and ledger are one database."""


@dataclass
class Verdict:
    """What a run came to."""

    counts: dict[str, object] = field(default_factory=dict)
    server: dict[str, str] = field(default_factory=dict)
    """Its version."""
    problems: list[str] = field(default_factory=list)
    void: str = ""
    """Why nothing can be said; empty if it can."""

    @property
    def passed(self) -> bool:
        """Whether all was as it has to be."""
        return not self.problems and not self.void


def judge(
    way: str,
    pushed: Sequence[Pushed],
    executions: Sequence[Execution],
    grids: Mapping[str, Grid],
    until: int,
    where: tuple[int, str],
) -> Verdict:
    """Judge by the list, for workers that ask nobody before they execute.

    Args:
        way: Which way the runs had to go.
        pushed: All messages that came to a list.
        executions: All that was executed, after the workers had nothing left to do.
        grids: When each entry is due.
        until: Up to which moment, in microseconds, every due moment must have been published.
        where: Database and list that the workers read.
    """
    published = [message for message in pushed if not message.restored]
    runs = [message.run for message in published]
    doubled = doubles(runs)
    ways = Counter(TRANSACTIONAL if m.transactional else WRITE_AHEAD for m in published)
    broken = problems(runs, grids, until, may_double=True)
    verdict = Verdict()
    verdict.counts = {
        "published": len(published),
        "occurrences": len({run.occurrence for run in runs}),
        "lost": sum(": lost " in line for line in broken),
        "doubled": len(doubled) + sum(": doubled " in line for line in broken),
        "messages by way": {name: ways[name] for name in WAYS},
        "given back by workers": len(pushed) - len(published),
        "executed": len(executions),
        "executed twice": len(doubles(executions)),
        "leaders that published": len({run.token for run in runs}),
    }
    verdict.problems += broken
    verdict.problems += _problems_of_way(way, ways, doubled)
    verdict.problems += [
        f"{m.run.entry}: a message went to {m.key!r} of database {m.database}, which nobody reads"
        for m in pushed
        if (m.database, m.key) != where
    ]
    verdict.problems += _unequal(runs, executions)
    unseen = {run.publication for run in executions} - {run.publication for run in runs}
    if unseen:
        verdict.void = f"{len(unseen)} messages were executed that MONITOR did not show"
    return verdict


def judge_executions(
    pushed: Sequence[Pushed],
    executions: Sequence[Execution],
    grids: Mapping[str, Grid],
    until: int,
) -> Verdict:
    """Judge by what was executed, for workers with ``install(app)`` that are restarted.

    A worker whose pool has begun a task, but has not said so yet, gives the message back when it
    ends, and another one executes it again: Celery's own way, with one publication or more. Such a
    message is seen to come back to the list; all else that is executed twice is a problem.
    """
    published = Counter(message.run.occurrence for message in pushed if not message.restored)
    restored = Counter(message.run.publication for message in pushed if message.restored)
    publications: dict[str, list[str]] = defaultdict(list)
    for run in executions:
        publications[run.occurrence].append(run.publication)
    again: list[str] = []
    twice: list[str] = []
    for occurrence in doubles(executions):
        first, *more = publications[occurrence]
        given_back = set(more) == {first} and restored[first] >= len(more)
        (again if given_back else twice).append(occurrence)
    broken = problems(executions, grids, until, may_double=True)
    verdict = Verdict(
        problems=[*broken, *(f"{each} was executed more than once" for each in twice)]
    )
    verdict.counts = {
        "published": published.total(),
        "published twice": sum(count > 1 for count in published.values()),
        "given back by workers": restored.total(),
        "executed": len(executions),
        "lost": sum(": lost " in line for line in broken),
        "executed twice": len(twice) + sum(": doubled " in line for line in broken),
        "executed again after given back": len(again),
    }
    return verdict


def _problems_of_way(way: str, ways: Counter[str], doubled: Sequence[str]) -> list[str]:
    if way == WRITE_AHEAD:
        found = [] if doubled else [NOTHING_DOUBLED]
        if ways[TRANSACTIONAL]:
            found.append(f"{ways[TRANSACTIONAL]} messages were published transactionally")
        return found
    found = [f"{occurrence} was published more than once" for occurrence in doubled]
    share = ways[TRANSACTIONAL] / max(1, ways.total())
    if share < LEAST_TRANSACTIONAL:
        found.append(f"{share:.2%} were transactional, below {LEAST_TRANSACTIONAL:.0%}")
    return found


def _unequal(runs: Sequence[Execution], executions: Sequence[Execution]) -> list[str]:
    """Compare messages and executions: workers were left alone."""
    executed = Counter(run.publication for run in executions)
    found = []
    for publication, count in Counter(run.publication for run in runs).items():
        if executed[publication] != count:
            found.append(
                f"message {publication}: {count} at the list, {executed[publication]} executed"
            )
    return found
