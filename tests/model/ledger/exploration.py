"""Every order of the steps of two leaders, each of which may die, sleep, or get no reply.

A history is a list of choices. Each is run from its beginning on a real server, until every choice
was taken once at every state of the world that can be reached. A history that comes to a state that
another one has been in ends there: what may follow depends on nothing but the state, and is gone
through from where it was met first. So each state is left by each of its choices once, whatever
number of histories lead to it, and each final state is judged. Without ``remembers`` the same is
gone through again for each of these histories.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import redis

from tests.model.ledger.leader import Leader
from tests.model.ledger.whole_state import whole_state
from tests.model.ledger.world import World

__all__ = ["Explored", "WrongHistoryError", "explore"]

OUTSIDE = ("publish entry", "wait")
"""Steps that do not ask the ledger."""

ONE_SCRIPT = ("publish runs",)
"""Steps whose request may be lost, or come late."""


class WrongHistoryError(AssertionError):
    """A history in which a run was lost, came twice, or a leader was in an impossible state."""


class _SeenBeforeError(Exception):
    """A history came to a state that another one has been in."""


@dataclass
class Explored:
    """What was gone through."""

    histories: int = 0
    """That were begun."""
    states: int = 0
    """That were left by each of their choices; counted with ``remembers`` alone."""
    base: int = 0
    """Of its worlds."""
    outcomes: set[bytes] = field(default_factory=set)
    """Digests of the states that histories ended in."""

    def __str__(self) -> str:
        return f"{self.histories} histories, {self.states} states, {len(self.outcomes)} outcomes"


@dataclass
class _Point:
    """A choice that was taken, and those that are left."""

    taken: str
    left: list[str]
    state: bytes


class Choices:
    """Takes recorded choices again, then always the first; ``advance`` goes on to the next."""

    def __init__(self, *, remembers: bool) -> None:
        self._remembers = remembers
        self.states: set[bytes] = set()
        self._path: list[_Point] = []
        self._place = 0
        self._world: World | None = None

    def begin(self, world: World) -> None:
        """Begin a history at its first choice."""
        self._world, self._place = world, 0

    def take(self, where: str, *options: str) -> str:
        """Return one of several options.

        Args:
            where: Which point of a history's program this is.
            options: What may be taken.

        Raises:
            _SeenBeforeError: Another history was at this point in the same state.
        """
        if self._place == len(self._path):
            state = self._state(where, options) if self._remembers else b""
            self._path.append(_Point(options[0], list(options[1:]), state))
        self._place += 1
        return self._path[self._place - 1].taken

    def _state(self, where: str, options: tuple[str, ...]) -> bytes:
        assert self._world is not None
        state = digest(f"{where} {options} ".encode() + whole_state(self._world))
        if state in self.states:
            # Then there would be a history without an end, which no final state shows.
            assert all(point.state != state for point in self._path), "this history never ends"
            raise _SeenBeforeError
        self.states.add(state)
        return state

    def advance(self) -> bool:
        """Go on to the next history; return whether there is one."""
        while self._path:
            point = self._path.pop()
            if point.left:
                self._path.append(_Point(point.left[0], point.left[1:], point.state))
                return True
        return False

    def __str__(self) -> str:
        return ", ".join(point.taken for point in self._path)


def digest(state: bytes) -> bytes:
    """Return 128 bits of a state."""
    return hashlib.blake2b(state, digest_size=16).digest()


def explore(
    client: redis.Redis,
    shape: tuple[int, int, int],
    workers: str,
    kinds: tuple[type[Leader], type[Leader]],
    *,
    sleepers: bool,
    lead: int = 0,
    remembers: bool = True,
    base: int = 0,
) -> Explored:
    """Run all histories, and judge each.

    Args:
        client: Of the server, which is emptied before each history.
        shape: How many entries, moments of each, and claims at once.
        workers: When they take messages.
        kinds: Of the two leaders.
        sleepers: Whether the first leader may sleep and wake.
        lead: Ticks by which the older release claims before the moment; time then passes while a
            leader waits for one. 0: all is due from the beginning.
        remembers: Whether a history ends where another one has been.
        base: As that of a world.

    Raises:
        WrongHistoryError: A history went wrong; it says which.
    """
    entries, ticks, batch = shape
    choices, found = Choices(remembers=remembers), Explored()
    while True:
        client.flushdb()
        periods = {f"entry {n}": 1 for n in range(entries)}
        world = World(client, periods, batch, workers=workers, key="world", base=base)
        base = found.base = world.base  # moments are part of a state
        world.lead, world.until = lead, ticks
        world.now = 0 if lead else ticks
        found.histories += 1
        choices.begin(world)
        try:
            _play(world, choices, kinds, sleepers=sleepers)
            found.outcomes.add(digest(whole_state(world)))
        except _SeenBeforeError:
            pass
        if not choices.advance():
            found.states = len(choices.states)
            return found


def _play(
    world: World, choices: Choices, kinds: tuple[type[Leader], type[Leader]], *, sleepers: bool
) -> None:
    """Run a history and judge it.

    Raises:
        WrongHistoryError: It went wrong.
    """

    def number(_: int = 0) -> str:
        return f"<{next(world.nonces)}>"

    try:
        # Generations and marks, numbered as the nonces are.
        with mock.patch.object(secrets, "token_hex", number):
            _run_history(world, choices, kinds, sleepers=sleepers)
        faults: list[Any] = world.faults()
    except _SeenBeforeError:
        raise
    except (AssertionError, KeyError) as exc:
        faults = [repr(exc)]  # a leader found itself in a state that cannot be
    if faults:
        trace = "\n".join(world.trace)
        raise WrongHistoryError(f"{faults}\nafter: {choices}\n{trace}")


def _run_history(
    world: World, choices: Choices, kinds: tuple[type[Leader], type[Leader]], *, sleepers: bool
) -> None:
    """Two leaders, each of which may die before any step; the first may sleep and wake.

    One request that publishes may go wrong: its reply is lost, or it is executed after its sender
    has given up, at any later time. Of several scripts in one write the first alone may be.
    """
    first = world.elect(kinds[0])
    ways_to_leave = ("dies", "sleeps") if sleepers else ("dies",)
    while first.at:
        options = ("goes on", *ways_to_leave, *_faults_of(world, first), *_late(world))
        if (way := choices.take("first", *options)) in ways_to_leave:
            if way == "dies":
                first.kill()
            break
        _go_on(world, first, way)
    second = world.elect(kinds[1])
    _wake_if_refused(first, choices)
    while second.at:
        options = ("goes on", "dies", *_faults_of(world, second), *_late(world))
        options += ("first",) * first.at.startswith(OUTSIDE)
        match way := choices.take("second", *options):
            case "first":
                first.step()
                _wake_if_refused(first, choices)
            case "dies":
                second.kill()
            case _:
                _go_on(world, second, way)
    # A sleeper that is left wakes after the last leader has done everything.
    world.finish(kinds[1])


def _faults_of(world: World, leader: Leader) -> tuple[str, ...]:
    """What may go wrong in a leader's next step: once in a history."""
    if world.has_failed or not leader.at.startswith(ONE_SCRIPT):
        return ()
    return ("reply", "late", "cut")


def _late(world: World) -> tuple[str, ...]:
    """What may be executed late now."""
    return ("arrives",) * bool(world.late)


def _go_on(world: World, leader: Leader, way: str) -> None:
    """Do a step of a leader, or what was chosen to happen instead."""
    if way == "arrives":
        world.arrive_late(0)
        return
    if way != "goes on":
        leader.client.fault, world.has_failed = way, True
    leader.step()


def _wake_if_refused(sleeper: Leader, choices: Choices) -> None:
    """Let a sleeper take a step in the ledger at once, or after all others.

    It is refused and changes nothing, so all moments in between are alike. Publications are not,
    nor is a wait for the moment of one.
    """
    if sleeper.at and not sleeper.at.startswith(OUTSIDE):
        options = ("refused at once", "refused at the end")
        if choices.take("sleeper", *options) == "refused at once":
            sleeper.step()
            assert not sleeper.at, f"a sleeper was not refused and goes on with {sleeper.at}"
