"""Two apps that share a key by mistake: the beat that leads says so."""

from __future__ import annotations

from pathlib import Path

from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children
from tests.support.servers import Server


def test_an_app_that_finds_the_schedule_of_another_says_so(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    def once_leader(place: int, name: str) -> Beat:
        """Let a beat lead, and end."""
        folder = tmp_path / str(place)
        folder.mkdir()
        schedule = f'{{"{name}": {{"task": "shop.work", "schedule": 60}}}}'
        write_app(folder, valkey_server.url, schedule)
        beat = Beat(children, folder, name=name)
        leader_of(lambda: [beat], 30)
        beat.child.wait_for_line("Loaded the ledger", 30)
        beat.terminate()
        return beat

    for place, name in enumerate(("ours", "theirs", "theirs")):
        beat = once_leader(place, name)
        told = beat.lines("it is not in this beat's schedule: 'ours'")
        # Once it is known itself, the other one may as well be an entry that was removed.
        assert len(told) == (place == 1), beat.child.output


def test_a_standby_says_so_before_it_ever_leads(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    beats = []
    for name in ("ours", "theirs"):
        folder = tmp_path / name
        folder.mkdir()
        schedule = f'{{"{name}": {{"task": "shop.work", "schedule": 60}}}}'
        write_app(folder, valkey_server.url, schedule, leader_ttl=10.0)
        beats.append(Beat(children, folder, name=name))
        leader_of(lambda: beats[:1], 30)
        beats[0].child.wait_for_line("Loaded the ledger", 30)
    leader, standby = beats
    standby.child.wait_for_line("it is not in this beat's schedule: 'ours'", 30)
    assert not standby.leads, standby.child.output
    assert not leader.lines("in this beat's schedule"), leader.child.output
