"""Real beats with django-celery-beat's scheduler, RedBeat's, and Celery's own with a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.beat.other_schedulers import KINDS, Database, OtherStage, RedBeat

STEP = 1.0

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_three_beats_take_over_from_each_other_and_replay_nothing(
    kind: type[OtherStage], tmp_path: Path, measured: Callable[[str], None]
):
    with kind(tmp_path) as stage:
        first = stage.wait_settled()
        stage.inbox.wait_for(1, entry="hourly")
        for standby in stage.beats:
            assert bool(stage.writes(standby)) == (standby is first), standby.name

        told = first.terminate()
        second = stage.leader(other_than=first)
        run = stage.inbox.wait_for(1, entry="tick", since=told, pid=second.pid)[0]
        handover = run.at - told
        stage.start()

        stage.wait_settled()
        killed = second.kill()
        third = stage.leader(other_than=second)
        stage.start()
        run = stage.inbox.wait_for(1, entry="tick", since=killed, pid=third.pid)[0]
        takeover = run.at - killed
        stage.wait_settled()

        # Not in the middle of a write: SQLite would stay locked by a process that stands still.
        time.sleep(0.4)
        third.pause()
        fourth = stage.leader(other_than=third)
        stage.inbox.wait_for(2, entry="tick", since=time.monotonic(), pid=fourth.pid)
        resumed = time.monotonic()
        third.resume()
        third.child.wait_for_line("Demoted: no longer leader")
        stage.inbox.wait_for(2, entry="tick", since=resumed, pid=fourth.pid)
        assert stage.inbox.sent("tick", since=resumed)[0].pid == fourth.pid
        assert {run.pid for run in stage.inbox.sent("tick", since=resumed)} == {fourth.pid}
        ticks = stage.check()
        assert len({run.pid for run in ticks}) == 4
        measured(
            f"{kind.__name__}: first run after SIGTERM {handover:.2f} s, "
            f"after SIGKILL {takeover:.2f} s"
        )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_run_whose_leader_died_before_noting_it_is_sent_once_more_with_the_same_id(
    kind: type[OtherStage], tmp_path: Path
):
    with kind(tmp_path, count=2, crash=True) as stage:
        one, other = stage.inbox.wait_for(2, 40, entry="hourly")
        assert one.pid != other.pid
        assert one.task_id == other.task_id == one.headers["leader_occurrence"]
        assert one.headers["leader_election"] == other.headers["leader_election"] == "shop"
        assert one.headers["leader_publication"] != other.headers["leader_publication"]
        assert 0 < one.token < other.token
        stage.inbox.wait_for(2, entry="tick", since=time.monotonic())
        assert len(stage.inbox.sent("hourly")) == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_runs_stay_due_while_the_broker_is_away_and_come_once(
    kind: type[OtherStage], tmp_path: Path
):
    with kind(tmp_path, count=1) as stage:
        leader = stage.wait_settled()
        stage.broker.pause()
        leader.child.wait_for_line("The broker failed", 30)
        stage.broker.resume()
        healed = time.monotonic()
        runs = stage.inbox.wait_for(4, 60, entry="tick", since=healed)
        assert leader.leads
        by_publication = {run.headers["leader_publication"] for run in runs}
        assert len(by_publication) == len(runs)
        ticks = list({run.task_id: run for run in stage.inbox.sent("tick")}.values())
        assert len(ticks) > 4
        assert len({run.task_id for run in stage.inbox.sent("hourly")}) == 1


def test_an_entry_that_is_edited_while_others_lead_is_what_the_next_leader_follows(tmp_path: Path):
    program = (
        "import app\nfrom django_celery_beat.models import PeriodicTask\n"
        "task = PeriodicTask.objects.get(name='tick')\n"
        "task.kwargs = '{\"entry\": \"edited\"}'\ntask.save()\nprint('edited')\n"
    )
    with Database(tmp_path, count=2) as stage:
        first = stage.wait_settled()
        stage.children.python(program, cwd=stage.folder).wait_for_line("edited", 30)
        stage.inbox.wait_for(2, 30, entry="edited", pid=first.pid)
        killed = first.kill()
        second = stage.leader(other_than=first)
        stage.inbox.wait_for(2, 30, entry="edited", pid=second.pid, since=killed)
        assert stage.inbox.sent("tick", since=killed) == []


def test_redbeats_own_lock_is_not_used(tmp_path: Path):
    with RedBeat(tmp_path, count=2) as stage:
        stage.wait_settled()
        assert not stage.store.client().exists("redbeat:lock")
