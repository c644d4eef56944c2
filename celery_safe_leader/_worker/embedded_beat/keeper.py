"""The beat of ``celery worker -B``, as its worker sees it: started, watched, started again, ended.

Celery starts the process and never looks at it again (celery/worker/components.py and
celery/beat.py, read in 5.4.0, 5.5.3, 5.6.0 and 5.7.0: the step ``Beat`` keeps in ``obj``, and in
``worker.beat``, what ``EmbeddedService`` makes, and calls its ``start``, ``stop`` and
``terminate``). The keeper takes the place of that process.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from celery.beat import EmbeddedService
from celery.utils.imports import load_extension_class_names, symbol_by_name
from celery.worker import state

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._dispatch.health.patience import Cause
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._runtime.embedded.embedded_role import EmbeddedRole, embedded_role_of
from celery_safe_leader._runtime.embedded.pulse import PulseReader
from celery_safe_leader._runtime.service.metrics import Family
from celery_safe_leader._runtime.service.relayed_metrics import unpack_families
from celery_safe_leader._schedules.policy_options import check_entry_options
from celery_safe_leader._worker.member import Member

__all__ = ["Keeper", "keep_embedded_beat"]

BEAT = "beat"
"""Reason to take no part in the election: the worker's beat does not run."""
_POLL = 0.1
"""Seconds between two checks of the process."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a beat that ended is started again."""
_SHORTEST_SILENCE = 5.0
_LONGEST_START = 60.0
"""Seconds without a pulse after which a beat counts as dead: once it has run, and at its start."""
_NOT_AGAIN = 600.0
"""Seconds after which it is tried again whether another beat's process does better."""


class Keeper:
    """Keeps one embedded beat running. Takes the place of Celery's process object.

    While its beat does not run, the worker takes no part in the election, so that a worker whose
    beat runs can lead.
    """

    def __init__(
        self, process: Any, make: Callable[[], Any], member: Member | None, *, ttl: float
    ) -> None:
        """Take over a process that has not been started.

        Args:
            process: The one that Celery made.
            make: Makes another one like it.
            member: The worker's part in the election, if the beat follows it.
            ttl: Seconds that the beat may take to end.
        """
        self._process = process
        self._make = make
        self._member = member
        self._ttl = ttl
        self._pulse = None if member is None else PulseReader(member.board_path)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._restarts = 0
        self._started_at = 0.0
        self._beats = 0
        self._silence = 0.0
        self._alive = False
        self._back_at: float | None = None
        self._replaced_at: float | None = None
        self._in_vain = False  # nothing was published since then

    @property
    def follows(self) -> bool:
        """Whether the beat leads when its worker does."""
        return self._member is not None

    @property
    def runs(self) -> bool:
        """Whether the beat runs and its pulse has been seen."""
        return self._alive and self._running()

    def work(self) -> dict[str, Any]:
        """Return what the beat said last of its work, for people. From any thread."""
        try:
            said = json.loads(self._pulse.said() or b"{}") if self._pulse else {}
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def metrics(self) -> list[Family]:
        """Return what the beat has counted since its start, as it said last. From any thread.

        What goes up and down is left out while the beat does not run.
        """
        families = unpack_families(self._pulse.counted()) if self._pulse else []
        return [each for each in families if each.kind != "gauge" or self.runs]

    # What Celery calls

    def start(self) -> None:
        """Start the process."""
        self._start(self._process)

    def stop(self) -> None:
        """End the process, unless the election ends it once the worker has resigned."""
        if self._member is None or self._thread is None:
            self._ending.set()
            self._signal_end()

    def terminate(self) -> None:
        """End the process, as ``stop()`` does."""
        self.stop()

    # What the election calls

    def watch(self) -> None:
        """Watch from now on that the beat runs. May be called again."""
        if self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._watch, name="leader:keeper", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End the process and wait for that, at most for a ttl. May be called again.

        The beat finishes its batch: call it while the worker still leads.
        """
        self._ending.set()
        self._end_process()

    # The parts

    def _start(self, process: Any) -> None:
        with self._lock:
            if self._ending.is_set():
                return
            self._process = process
            process.start()
        self._started_at = time.monotonic()
        self._alive, self._silence = False, 0.0
        if self._pulse is not None:
            self._beats = self._pulse.beats

    def _running(self) -> bool:
        # Not join(): it waits for a pipe whose other end the beat closes when it starts.
        return self._process.pid is not None and self._process.exitcode is None

    def _signal_end(self) -> None:
        with self._lock:
            if self._running():
                self._process.terminate()

    def _end_process(self) -> None:
        self._signal_end()
        deadline = time.monotonic() + self._ttl
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._running():
            logger.warning("The embedded beat did not end within %g s: it is killed", self._ttl)
            self._kill()

    def _kill(self) -> None:
        with self._lock:
            if self._running():
                os.kill(self._process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        while self._running():
            time.sleep(0.01)

    def _watch(self) -> None:
        while not self._ending.wait(_POLL):
            try:
                self._check()
            except Exception:
                logger.exception("Watching the embedded beat failed; continuing")

    def _check(self) -> None:
        if not self._running():
            self._restart(_how_it_ended(self._process.exitcode))
        elif self._silent():
            self._restart(f"gave no sign of life for {self._silence:.0f} s and is killed")
        if self._pulse is not None and self._member is not None:
            self._listen(self._pulse, self._member)

    def _listen(self, pulse: PulseReader, member: Member) -> None:
        """Do what the beat asks for."""
        seconds = pulse.wish()
        if seconds is not None:
            member.resign(BEAT)
            self._back_at = time.monotonic() + seconds
        elif self._back_at is not None and time.monotonic() >= self._back_at:
            self._back_at = None
            member.elect(BEAT)
        if pulse.succeeded():
            self._in_vain = False
            member.campaign_in_time()
        why = pulse.stood_down()
        if why is not None:
            self._stand_down(why, member)

    def _stand_down(self, why: str, member: Member) -> None:
        """Start another beat; if that was in vain, let another worker lead."""
        if why == Cause.CLOCK.value:
            # Another process of this machine has no other clock, and this one remembers.
            logger.error(
                "The embedded beat (pid %s) found this machine's clock off: this worker hands "
                "leadership over, so that one with a correct clock can lead",
                self._process.pid,
            )
            member.stand_down(why)
            return
        now, before = time.monotonic(), self._replaced_at
        again = before is not None and (self._in_vain or now - before < _NOT_AGAIN)
        self._replaced_at, self._in_vain = now, True
        logger.error(
            "The embedded beat (pid %s) could not publish anything (cause: %s)%s",
            self._process.pid,
            why,
            ", as the one before it: this worker hands leadership over, and others go first"
            if again
            else ". This worker starts another one, and hands leadership over if that is in vain",
        )
        if again:
            member.stand_down(why)
        self._end_process()
        self._start(self._make())

    def _silent(self) -> bool:
        """Return whether the beat hangs. Checks are counted, since this process may hang, too."""
        if self._pulse is None:
            return False
        beats = self._pulse.beats
        if beats != self._beats:
            self._beats, self._silence, self._alive = beats, 0.0, True
            return False
        self._silence += _POLL
        limit = max(self._ttl, _SHORTEST_SILENCE) if self._alive else _LONGEST_START
        return self._silence >= limit

    def _restart(self, how: str) -> None:
        if time.monotonic() - self._started_at >= _LONGEST_PAUSE:
            self._restarts = 0
        self._restarts += 1
        pause = backoff(self._restarts, first=_SHORTEST_PAUSE, longest=_LONGEST_PAUSE)
        if _shuts_down():
            # The beat got the same signal. Until the worker has resigned, a beat has to dispatch.
            self._kill()
        else:
            logger.error(
                "The embedded beat (pid %s) %s. This worker %s it again in %g s",
                self._process.pid,
                how,
                "starts" if self._member is None else "hands leadership over and starts",
                pause,
            )
            if self._member is not None:
                self._member.resign(BEAT)
            self._kill()
        if self._ending.wait(pause):
            return
        self._start(self._make())
        if self._member is not None and self._back_at is None:
            self._member.elect(BEAT)


def keep_embedded_beat(worker: Any, member: Member | None, ttl: float) -> Keeper | None:
    """Replace a worker's embedded beat by a keeper, if its scheduler is of this package.

    Args:
        worker: Celery's ``WorkController``, before it starts.
        member: The worker's part in the election; ``None`` if it takes none.
        ttl: Of the election, in seconds.

    Returns:
        The keeper; ``None`` if there is no beat to keep.

    Raises:
        ConfigurationError: An entry's options are wrong; its beat would refuse them.
        OSError: No temporary file can be made.
    """
    process = getattr(worker, "beat", None)
    if process is None:
        return None
    scheduler = _scheduler_class(worker.scheduler)
    role = embedded_role_of(scheduler)
    if role is None:
        return None
    follows = role is EmbeddedRole.FOLLOWS_WORKER
    step = next(each for each in worker.steps if each.obj is process)
    if follows and member is None:
        logger.info("This worker takes no part in the election: its embedded beat is not started")
        step.obj = worker.beat = None
        return None
    _check_entries(worker.app)

    def make() -> Any:
        return EmbeddedService(
            worker.app, schedule_filename=worker.schedule_filename, scheduler_cls=worker.scheduler
        )

    keeper = Keeper(process, make, member if follows else None, ttl=ttl)
    step.obj = worker.beat = keeper
    return keeper


def _scheduler_class(named: Any) -> type:
    try:
        aliases = dict(load_extension_class_names("celery.beat_schedulers"))
        found = symbol_by_name(named, aliases=aliases)
    except Exception:
        # Its beat reports what is wrong, as it does without this package.
        return object
    return found if isinstance(found, type) else object


def _check_entries(app: Any) -> None:
    # A beat that refuses to start each time would keep its worker from leading.
    for name, entry in (app.conf.beat_schedule or {}).items():
        if isinstance(entry, dict):
            check_entry_options(name, entry.get("options") or {})


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return "could not start" if code is None else f"has ended with exit code {code}"


def _shuts_down() -> bool:
    wanted = (state.should_stop, state.should_terminate)
    return any(each is not None and each is not False for each in wanted)
