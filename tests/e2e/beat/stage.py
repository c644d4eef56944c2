"""Where the fault table is played with beats: a server, three links, three beats, a broker.

The broker is a server of its own: what is looked at are the messages, and they must not be lost to
the fault itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.faults import TAKEOVER, TTL, WAIT
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.inbox import Dispatch, Inbox, by_two, gaps
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.processes.cleanup import CleansUp
from tests.support.processes.waiting import PATIENCE
from tests.support.servers import Server

__all__ = ["TAKEOVER", "TTL", "WAIT", "BeatStage", "Result", "Scene", "perform"]

APART = 0.5
"""Seconds that two beats' messages of a 1 s entry have to be apart at least."""
SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 1.0, "kwargs": {"entry": "tick"}}}'


@dataclass(frozen=True)
class Place:
    """Where a beat runs: its link to the election, and the folder of its app."""

    link: Proxy
    folder: Path


class BeatStage(CleansUp):
    """Servers, links and beats.

    Args:
        kind: Of server.
        folder: For the apps.
        schedule: Source of ``beat_schedule``.
        count: How many beats.
    """

    def __init__(
        self, kind: str, folder: Path, *, schedule: str = SCHEDULE, count: int = 3
    ) -> None:
        self._kind = kind
        self._folder = folder
        self._schedule = schedule
        self._count = count
        self._started = 0
        self.beats: list[Beat] = []
        self.places: dict[str, Place] = {}

    def __enter__(self) -> BeatStage:
        with ExitStack() as cleanup:
            self._cleanup = cleanup
            self._children = Children()
            self.broker = self.add_server()
            self.server = self.add_server()
            self.inbox = Inbox(self.broker.url)
            cleanup.callback(self.inbox.close)
            # Last, so that they end before their servers do.
            cleanup.callback(self._children.close)
            places = [self._place(number) for number in range(self._count)]
            for place in places:
                self.start(place)
            self._cleanup = cleanup.pop_all()
        return self

    def _place(self, number: int) -> Place:
        place = Place(self.add_link(self.server), self._folder / f"place-{number}")
        place.folder.mkdir()
        write_app(
            place.folder,
            self.broker.url,
            self._schedule,
            leader_url=place.link.url(),
            leader_ttl=TTL,
            leader_wait=WAIT,
        )
        return place

    def start(self, place: Place) -> Beat:
        """Start a beat."""
        self._started += 1
        beat = Beat(self._children, place.folder, name=f"beat {self._started}")
        self.places[beat.name] = place
        self.beats.append(beat)
        return beat

    def add_server(self, replica_of: tuple[str, int] | None = None) -> Server:
        """Start another server."""
        server = Server(self._kind, replica_of=replica_of)
        self._cleanup.callback(server.close)
        return server.start()

    def add_link(self, server: Server) -> Proxy:
        """Put a link in front of a server."""
        link = Proxy(server.port)
        self._cleanup.callback(link.close)
        return link

    @property
    def links(self) -> list[Proxy]:
        """The links of all places."""
        return list({id(place.link): place.link for place in self.places.values()}.values())

    def link_of(self, beat: Beat) -> Proxy:
        """Return the link of a beat."""
        return self.places[beat.name].link

    def replace(self, beat: Beat) -> Beat:
        """Start another in the place of one that ended."""
        return self.start(self.places[beat.name])

    def leader(self, timeout: float = PATIENCE, *, other_than: Beat | None = None) -> Beat:
        """Wait until one leads."""
        return leader_of(lambda: self.beats, timeout, other_than=other_than)

    def standbys(self) -> list[Beat]:
        """Return those that do not lead and could."""
        return [b for b in self.beats if not (b.leads or b.ended or b.paused)]

    def wait_settled(self) -> Beat:
        """Wait until one leads and has dispatched, and the others stand by."""
        leader = self.leader()
        for standby in self.standbys():
            standby.wait_standing_by()
        self.inbox.wait_for(1, since=time.monotonic())
        return leader

    def check(self, sent: Sequence[Dispatch]) -> None:
        """Check what holds after any fault: no two dispatch at once, and nobody is gone."""
        assert by_two(sent, APART) == []
        for beat in self.beats:
            assert beat.ended or beat.child.running, beat.child.output
            assert "Traceback" not in beat.child.output, beat.child.output
            assert "CRITICAL" not in beat.child.output, beat.child.output


@dataclass(frozen=True)
class Scene:
    """One line of the table."""

    name: str
    play: Callable[[BeatStage], float]
    """Makes the fault, ends it, and returns the moment since which all is well again."""
    keeps_leader: bool = False
    """Whether the same beat goes on."""
    forgets: bool = False
    """Whether nobody is left who knows what was run: the entry begins anew."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Result:
    """What came of it."""

    resumed_after: float
    """Seconds from the healing to the first message."""
    longest_pause: float
    """Seconds between two messages."""
    messages: int
    beats: int
    """How many beats sent them."""


def perform(stage: BeatStage, scene: Scene) -> Result:
    """Play a line on a stage that is well, and check what must hold in each."""
    before = stage.wait_settled()
    began = stage.inbox.sent()[-1].at  # with the last message before the fault
    healed = scene.play(stage)
    first = stage.inbox.wait_for(1, since=healed)[0]
    # Not only for a moment: whatever the fault led to has come out by then.
    settled = healed + TAKEOVER + 1.0
    time.sleep(max(0.0, settled - time.monotonic()))
    stage.inbox.wait_for(1, since=time.monotonic())
    sent = stage.inbox.sent(since=began)
    stage.check(stage.inbox.sent())
    resumed = first.at - healed
    times = [dispatch.at for dispatch in sent]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    if scene.keeps_leader:
        assert {dispatch.pid for dispatch in sent} == {before.pid}
    if not scene.forgets:
        assert gaps(sent, 1.0) == []
    senders = {dispatch.pid for dispatch in sent}
    return Result(resumed, max(pauses), len(sent), len(senders))
