"""Candidates in processes of their own, watched from outside."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.candidates.participant import Participant
from tests.support.candidates.tenures import Tenure, overlaps
from tests.support.processes import Children
from tests.support.processes.waiting import PATIENCE, wait_until

__all__ = ["Candidate", "Fleet"]


class Candidate(Participant):
    """A process that takes part, see ``candidate_program``."""

    def __init__(
        self,
        children: Children,
        url: str,
        key: str,
        *,
        ttl: float,
        wait: float,
        shell: str = "blocking",
        name: str = "candidate",
        more: Mapping[str, Any] | None = None,
    ) -> None:
        program = "tests.support.candidates.program"
        argv = [shell, url, key, str(ttl), str(wait)]
        env = {"PYTHONWARNINGS": "error::ResourceWarning", "CANDIDATE_MORE": json.dumps(more or {})}
        super().__init__(name, children.module(program, *argv, env=env, name=name))
        self._read = 0
        self._tenures: dict[tuple[int, float], Tenure] = {}
        self._events: list[dict[str, Any]] = []
        self._noise: list[str] = []
        self.candidate_id = ""
        self.samples = 0

    def _catch_up(self) -> None:
        lines = self.child.lines
        for text in lines[self._read :]:
            try:
                said = json.loads(text)
            except ValueError:
                self._noise.append(text)
                continue
            if "leads" in said:
                place = (said["leads"], said["from"])
                self._tenures[place] = Tenure(self.name, *place, said["to"], said["over"])
            elif "event" in said:
                self._events.append(said)
            self.candidate_id = said.get("ready", self.candidate_id)
            self.samples = said.get("samples", self.samples)
        self._read = len(lines)

    @property
    def tenures(self) -> list[Tenure]:
        """What it said about its leadership, oldest first."""
        self._catch_up()
        return list(self._tenures.values())

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that its listeners had."""
        self._catch_up()
        return list(self._events)

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the events of one name."""
        return [said for said in self.events if said["event"] == event]

    @property
    def noise(self) -> list[str]:
        """Lines that are no report: logs, warnings, tracebacks."""
        self._catch_up()
        return list(self._noise)

    def wait_ready(self) -> None:
        """Wait until it takes part."""
        self.child.wait_for_line('"ready"', 30)

    def terminate(self) -> float:
        """SIGTERM, and wait for its end; return the moment before."""
        now = self.note_end()
        self.child.signal(signal.SIGTERM)
        assert self.child.wait(10) == 0, self.child.output
        return now


class Fleet:
    """All candidates of one election."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = list(candidates)
        for candidate in self.candidates:
            candidate.wait_ready()

    @property
    def tenures(self) -> list[Tenure]:
        """Those of all, by their beginning."""
        every = [tenure for candidate in self.candidates for tenure in candidate.tenures]
        return sorted(every, key=lambda tenure: tenure.start)

    def standbys(self) -> list[Candidate]:
        """Return those that do not lead and could."""
        return [c for c in self.candidates if not (c.leads or c.ended or c.paused)]

    def leader(
        self, timeout: float = PATIENCE, *, other_than: Candidate | None = None
    ) -> Candidate:
        """Wait until one leads."""

        def leading() -> Candidate | None:
            found = (c for c in self.candidates if c.leads and c is not other_than)
            return next(found, None)

        return wait_until(leading, timeout, lambda: f"a leader; {self.tenures}")  # type: ignore[return-value]

    def led_after(self, moment: float, limit: float = PATIENCE) -> float:
        """Wait until somebody leads at or after a moment, and return how long after it."""

        def first() -> list[float]:
            found = [max(t.start, moment) - moment for t in self.tenures if t.end >= moment]
            return sorted(found)[:1]

        slack = 2.0  # to tell how late it was, not only that it was late
        left = moment + limit + slack - time.monotonic()
        after = wait_until(first, max(left, 0.1), lambda: f"a leader; {self.tenures}")[0]
        assert after <= limit, f"nobody led for {after:.3f} s, at most {limit:.3f} s are allowed"
        return after

    def check(self) -> None:
        """Check what holds after any fault: one leader at most, nobody gone, paired events."""
        assert overlaps(self.tenures) == []
        tokens = [tenure.token for tenure in self.tenures]
        assert tokens == sorted(tokens), f"a later leader had a lower token: {self.tenures}"
        for candidate in self.candidates:
            assert candidate.ended or candidate.child.running, candidate.child.output
            assert "Traceback" not in "\n".join(candidate.noise), candidate.noise
            told = [e for e in candidate.events if e["event"] != "error"]
            names = [e["event"] for e in told]
            assert names == (["elected", "demoted"] * len(names))[: len(names)], told
            pairs = zip(told[::2], told[1::2], strict=False)
            assert all(begun["token"] == ended["token"] for begun, ended in pairs), told
