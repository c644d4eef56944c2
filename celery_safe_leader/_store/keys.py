"""Names of the keys in Redis.

The hash tag is made of ``leader_key``, not of the election: the elections of one key (beats,
workers) and its ledger share a cluster slot, so one script can check a lease and write the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass

from celery_safe_leader.errors import ConfigurationError

__all__ = ["BEAT", "WORKER", "ElectionKeys", "LedgerKeys", "checked_key"]

BEAT = "beat"
"""Role: the election of stand-alone beats."""

WORKER = "worker"
"""Role: the election of workers, which embedded beats follow."""

LONGEST_KEY = 1024
"""Bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class ElectionKeys:
    """Keys of one election."""

    key: str
    """The user's name for it: ``leader_key``, or ``key=`` of the stand-alone library."""
    role: str = ""
    """Which of the key's elections: ``beat``, ``worker``, or empty for a stand-alone one."""
    prefix: str = ""
    """Put before each name: Celery's ``global_keyprefix``."""

    @property
    def election(self) -> str:
        """Name for people: ``shop:beat``."""
        return f"{self.key}:{self.role}" if self.role else self.key

    def _name(self, part: str) -> str:
        role = f"{self.role}:" if self.role else ""
        return f"{self.prefix}{{leader:{self.key}}}:{role}{part}"

    @property
    def lease(self) -> str:
        """The record: a hash."""
        return self._name("lease")

    @property
    def history(self) -> str:
        """Transitions: a capped stream."""
        return self._name("history")

    @property
    def wake(self) -> str:
        """A short list that a resigning leader fills to wake standbys."""
        return self._name("wake")

    @property
    def ask(self) -> str:
        """A list of requests to the leader, which takes them from the left."""
        return self._name("ask")

    @property
    def changes(self) -> str:
        """A list of notes that a source of entries was edited, which the leading beat takes."""
        return self._name("changes")

    @property
    def next(self) -> str:
        """A hash: when the leader's schedule has each entry due next."""
        return self._name("next")

    @property
    def publication(self) -> str:
        """A string for people: which way the leader's runs take to the broker, and why."""
        return self._name("publication")

    @property
    def presences(self) -> str:
        """A hash for people: candidate id -> when it was seen last, and what it says of itself."""
        return self._name("candidates")

    @property
    def witness(self) -> str:
        """Written by standbys to check whether replicas confirm (``wait_replicas``)."""
        return self._name("witness")

    @property
    def probe(self) -> str:
        """A value that the broker's connection leaves and the ledger's reads: is it one server?"""
        return self._name("probe")


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """Keys of the ledger of one key: shared by every election of that key."""

    key: str
    prefix: str = ""
    """As in :class:`ElectionKeys`."""

    @property
    def runs(self) -> str:
        """Hash: entry -> last committed occurrence."""
        return self._name("runs")

    @property
    def pending(self) -> str:
        """Hash: entry -> occurrence that is claimed but not committed."""
        return self._name("pending")

    @property
    def unknown(self) -> str:
        """Hash: entry -> since when no leader has known it."""
        return self._name("unknown")

    @property
    def running(self) -> str:
        """Hash: entry -> the occurrence of which a message waits or runs, and until when."""
        return self._name("running")

    @property
    def versions(self) -> str:
        """Hash: stored entry -> its version."""
        return self._name("versions")

    def staged(self, nonce: str, part: str) -> str:
        """A hash of a ledger that is put into Redis, and is not in use yet."""
        return self._name(f"import:{nonce}:{part}")

    def accepted(self, occurrence: str) -> str:
        """A string: which publication of an occurrence a worker accepted first."""
        return self._name(f"accepted:{occurrence}")

    def again(self, occurrence: str) -> str:
        """A string that marks an occurrence which a leader attempted a second time."""
        return self._name(f"again:{occurrence}")

    def _name(self, part: str) -> str:
        return f"{self.prefix}{{leader:{self.key}}}:{part}"


def checked_key(key: object, setting: str = "key") -> str:
    """Return the name of an election if it is a valid one.

    Raises:
        ConfigurationError: It is not a string, is empty or too long, or contains what would break
            a line of the log: line ends, tabs and other unprintable characters.
    """
    allowed = f"the name of the election: a string of 1 to {LONGEST_KEY} bytes"
    if not isinstance(key, str):
        raise ConfigurationError(setting, f"{key!r} (a {type(key).__name__})", allowed)
    size = len(key.encode("utf-8", "replace"))
    if not 1 <= size <= LONGEST_KEY:
        shown = repr(key) if size < 80 else f"{key[:40]!r}… ({size} bytes)"
        raise ConfigurationError(setting, shown, allowed)
    if not key.isprintable():
        shown = ascii(key) if size < 80 else f"{key[:40]!a}…"
        raise ConfigurationError(setting, shown, f"{allowed}, all of them printable characters")
    return key
