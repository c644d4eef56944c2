"""What ``leader check`` says of an app: settings, workers, and beats beside the leader."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.utils.imports import load_extension_class_names, symbol_by_name

from celery_safe_leader._clients import redis_client
from celery_safe_leader._ledger.codec import encode_entry
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._operations.health.finding import Finding, bad, doubtful, good
from celery_safe_leader._operations.output import clause, plain
from celery_safe_leader._publishing.broker_settings import describe_way
from celery_safe_leader._runtime.embedded.embedded_role import EmbeddedRole, embedded_role_of
from celery_safe_leader._setting_sources import spelling, visibility_timeout
from celery_safe_leader._store.keys import LedgerKeys
from celery_safe_leader.conf import LeaderSettings

__all__ = ["app_findings", "load_scheduler"]

_RECENT = 600.0
"""Seconds since which a schedule file was written that a running beat keeps; it does each 3 min."""
_PATIENCE = 1.5
"""Seconds in which workers have to answer."""
_ASKED = 100
"""Entries of the app that are looked up in the ledger."""
_EVERYBODYS = "celery.backend_cleanup"
_SHOWN = 5


def app_findings(app: Celery, settings: LeaderSettings) -> Iterator[Finding]:
    """Return what is to be said of an app; asks its broker and its ledger."""
    # As beats do before they load the scheduler: Django's is not ready else, nor is a schedule
    # that modules with tasks add to.
    try:
        app.loader.import_default_modules()
    except Exception as exc:
        yield bad(
            "tasks",
            f"the modules with tasks cannot be imported ({type(exc).__name__})",
            "start a beat or a worker: it fails alike, and shows where",
        )
    yield good(
        "settings",
        f"key {settings.key}, ttl {settings.ttl:g} s, wait {settings.wait:g} s, "
        f"{settings.url_setting} {settings.server}",
    )
    yield from _dedup(app, settings)
    found = _found_scheduler(app)
    yield good("publication", _way(app, found))
    ours = yield from _scheduler(app, found)
    yield from _stock_beats(app, ours=ours)
    yield from _shared_key(app, settings)
    yield from _workers(app)


def _dedup(app: Celery, settings: LeaderSettings) -> Iterator[Finding]:
    timeout = visibility_timeout(app.conf)
    said = f"accepted runs are remembered for {settings.dedup_window:g} s"
    # A shorter one than twice the timeout is refused when the settings are read.
    beside = f", visibility timeout {timeout:g} s" if timeout else ""
    yield good("dedup window", f"{said}{beside}")


def _found_scheduler(app: Celery) -> Any:
    """Return what ``beat_scheduler`` names, or the error that importing it raised."""
    try:
        return load_scheduler(app)
    except Exception as exc:
        return exc


def _way(app: Celery, scheduler: Any) -> str:
    if isinstance(scheduler, type) and embedded_role_of(scheduler) is EmbeddedRole.OWN_CANDIDATE:
        return (
            f"{scheduler.__qualname__} sends one run after the other by Celery's own code, and "
            "notes each in its own store"
        )
    return f"by the settings: {describe_way(app)}"


def _scheduler(app: Celery, found: Any) -> Generator[Finding, None, bool]:
    """Return whether beats use this package unless they are told otherwise."""
    named = app.conf.beat_scheduler
    if isinstance(found, Exception):
        yield bad(
            "scheduler",
            f"beat_scheduler {named!r} cannot be loaded ({type(found).__name__})",
            "set it to 'celery_safe_leader.LeaderScheduler'",
        )
        return False
    if isinstance(found, type) and embedded_role_of(found) is not None:
        yield good("scheduler", f"beat_scheduler is {found.__qualname__}")
        return True
    yield doubtful(
        "scheduler",
        f"beat_scheduler is {named}: a beat that is started without -S leader dispatches "
        "everything, beside the leader",
        f"set {spelling(app.conf, 'beat_scheduler')} to 'celery_safe_leader.LeaderScheduler'",
    )
    return False


def load_scheduler(app: Celery) -> Any:
    """Return what ``beat_scheduler`` names. Raises whatever importing it raises."""
    aliases = dict(load_extension_class_names("celery.beat_schedulers"))
    return symbol_by_name(app.conf.beat_scheduler, aliases=aliases)


def _stock_beats(app: Celery, *, ours: bool) -> Iterator[Finding]:
    file = str(app.conf.beat_schedule_filename or "celerybeat-schedule")
    for path in (Path(file), *(Path(file + ending) for ending in (".db", ".dat", ".bak"))):
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:
            continue
        if age < _RECENT:
            yield bad(
                "stock beat",
                f"{path.resolve()} was written {age:.0f} s ago: a stock beat runs here, and "
                "dispatches beside the leader",
                "end it, or start it with -S leader",
            )
            return
    found = [] if ours else list(_stock_processes())
    if found:
        yield doubtful(
            "stock beat",
            f"on this machine {', '.join(f'process {pid}' for pid in found[:_SHOWN])} is a beat "
            "that names no scheduler of this package",
            "if it is of this app, start it with -S leader",
        )
    else:
        yield good("stock beat", "none seen on this machine; others cannot be seen from here")


def _stock_processes() -> Iterator[int]:
    """Return beats on this machine whose command line does not name this package."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        line = b" ".join(words)
        is_beat = b"celery" in line and (b"beat" in words or b"-B" in words or b"--beat" in words)
        if is_beat and b"eader" not in line and int(folder.name) != os.getpid():
            yield int(folder.name)


def _shared_key(app: Celery, settings: LeaderSettings) -> Iterator[Finding]:
    own = [str(name) for name in app.conf.beat_schedule or {} if name != _EVERYBODYS]
    if not own:
        yield good("schedule", "beat_schedule is empty, so it cannot be compared with the ledger")
        return
    asked = own[:_ASKED]
    client: Any = redis_client(settings, settings.key)
    name = LedgerKeys(settings.key, settings.prefix).runs
    try:
        # The ledger of a beat over another scheduler has a pause to say, and no entries.
        marked, *known = client.execute_command("HMGET", name, SENTINEL, *map(encode_entry, asked))
        size = int(client.execute_command("HLEN", name)) - (marked is not None)
    except (redis.RedisError, OSError):
        yield doubtful("schedule", "the ledger cannot be read", "grant what `leader acl` prints")
        return
    finally:
        client.close()
    missing = [entry for entry, value in zip(asked, known, strict=True) if value is None]
    if not size:
        yield good(
            "schedule",
            "the ledger has no entries, so it cannot be compared: no LeaderScheduler has led yet, "
            "or the scheduler keeps what was run in a store of its own",
        )
    elif len(missing) == len(asked):
        yield bad(
            "schedule",
            f"the ledger has entries, and none of this app's {clause(len(own), 'entry', 'entries')}"
            ": another app uses the same key, or no beat of this app has led",
            f"give each app and environment a {spelling(app.conf, 'leader_key')} of its own",
        )
    elif missing:
        shown = ", ".join(plain(entry, 60) for entry in missing[:_SHOWN])
        yield doubtful(
            "schedule",
            f"{clause(len(missing), 'entry', 'entries')} of this app not in the ledger: {shown}",
            "nothing if they are new; else the leader runs another schedule under this key",
        )
    else:
        yield good("schedule", f"the ledger knows {clause(len(asked), 'entry', 'entries')} of it")


def _workers(app: Celery) -> Iterator[Finding]:
    try:
        with app.connection_for_write(connect_timeout=_PATIENCE) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_PATIENCE)
            inspect = app.control.inspect(timeout=_PATIENCE, connection=connection)
            stats = inspect.stats() or {}
    except Exception as exc:
        yield doubtful(
            "workers",
            f"the broker cannot be asked ({type(exc).__name__})",
            "check that it runs and that its URL is right",
        )
        return
    without = sorted(name for name, each in stats.items() if "leader_election" not in (each or {}))
    if without:
        yield bad(
            "workers",
            f"without install(app): {', '.join(plain(each, 60) for each in without[:_SHOWN])}: a "
            "second message of a run is executed there, and leader-only tasks are not",
            "call celery_safe_leader.install(app) in the module that makes the app",
        )
    elif stats:
        yield good("workers", f"{clause(len(stats), 'worker')} answered, all with install(app)")
    else:
        yield doubtful(
            "workers",
            f"none answered within {_PATIENCE:g} s",
            "nothing if none is meant to run, or their remote control is off",
        )
