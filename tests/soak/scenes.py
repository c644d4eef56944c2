"""What ``make soak`` plays: chaos counted at the list, and an upgrade and back under chaos."""

from __future__ import annotations

from pathlib import Path

from tests.soak.rollout import Rollout
from tests.soak.stage import LIST, SoakStage
from tests.soak.verdict import Verdict, judge, judge_executions
from tests.support.older_release import BASE, unpacked

__all__ = ["play_chaos", "play_upgrade"]


def play_chaos(folder: Path, seed: int, seconds: float, way: str, *, kind: str = "") -> Verdict:
    """Strike the leader while workers without ``install(app)`` run, and count at the list.

    Args:
        folder: Where the processes run; it exists and is empty.
        seed: Of the faults.
        seconds: For how long.
        way: Which way the runs have to go: ``transactional`` or ``write-ahead``.
        kind: Of the server.
    """
    with SoakStage(folder, seed, way=way, kind=kind) as stage:
        stage.start()
        stage.chaos(seconds)
        until = stage.finish()
        executions = stage.fleet.executions()
        pushed, where = stage.monitor.messages(), (stage.database, LIST)
        verdict = judge(way, pushed, executions, stage.fleet.grids, until, where)
        _add_to(verdict, stage)
    return verdict


def play_upgrade(folder: Path, seed: int, seconds: float, *, kind: str = "") -> Verdict:
    """Upgrade beats and workers from the older release and back, one by one, under chaos.

    Workers have ``install(app)``: what is published twice while releases are mixed is their part.
    """
    older = unpacked(folder / "older")
    stage_folder = folder / "app"
    stage_folder.mkdir()
    with SoakStage(stage_folder, seed, install=True, kind=kind) as stage:
        rollout = Rollout(stage, older, seed)
        stage.start(release=older)
        stage.chaos(seconds, workers_stand=True, after_fault=rollout.follow)
        rollout.finish()
        until = stage.finish()
        executions, pushed = stage.fleet.executions(), stage.monitor.messages()
        verdict = judge_executions(pushed, executions, stage.fleet.grids, until)
        verdict.problems += rollout.problems()
        verdict.counts = {
            "older release": BASE,
            "restarted with the other release": rollout.done,
            "tenures of the older release": rollout.tenures(older),
            "tenures of this release": rollout.tenures(None),
            "second publications dropped": stage.fleet.dropped,
            **verdict.counts,
        }
        _add_to(verdict, stage)
    return verdict


def _add_to(verdict: Verdict, stage: SoakStage) -> None:
    """Add what each run has: its faults, what the logs complain of, whether MONITOR saw all."""
    faults = stage.faults.faults
    verdict.counts = {
        "faults": dict(faults),
        "tenures": stage.fleet.takeovers,
        **verdict.counts,
    }
    verdict.server = dict(stage.versions)
    verdict.void = stage.monitor.void or verdict.void
    verdict.problems += stage.fleet.complaints()
    if stage.fleet.takeovers < faults.total():
        verdict.problems.append("the faults hit no leader")
