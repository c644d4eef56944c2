"""Which key on which server a command is about. Imports no Celery: RQ and others use it, too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import click
import redis

from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._operations.health.finding import Finding
from celery_safe_leader._operations.output import plain
from celery_safe_leader._store.errors import for_operator, is_login_refused
from celery_safe_leader._store.keys import BEAT, WORKER, ElectionKeys, LedgerKeys
from celery_safe_leader._store.server_now import read_time
from celery_safe_leader.errors import StoreError, StoreRefusedError, StoreUnavailableError

__all__ = [
    "LIBRARY",
    "ROLES",
    "CannotTellError",
    "NextMoment",
    "Target",
    "WrongSettingError",
    "as_operator",
    "candidates_of",
    "offer_target",
    "optional",
    "pass_target",
    "require_answer",
]

LIBRARY = "library"
"""What people call the election without a role: that of the stand-alone library."""

ROLES = (BEAT, WORKER, LIBRARY)

_META = "celery_safe_leader.target"
Value = TypeVar("Value")
NextMoment: TypeAlias = Callable[[str, LastRun], int | None]
"""Returns when an entry is due after its last run, in microseconds since 1970; ``None`` if that is
not known."""


class CannotTellError(click.ClickException):
    """The command cannot know, since Redis does not answer or refuses: exit code 2."""

    exit_code = 2


class WrongSettingError(click.ClickException):
    """A setting or an option is wrong, so nothing was asked: exit code 2, as for a usage error."""

    exit_code = 2


@dataclass(frozen=True)
class Target:
    """One key, and how to reach the Redis that holds its elections and its ledger."""

    key: str
    """``leader_key``."""
    server: str
    """Where it is, without secrets."""
    open_client: Callable[[str], redis.Redis]
    """Makes a client for a Redis key; does no IO, repeats nothing."""
    open_quick: Callable[[str, float], redis.Redis] | None = None
    """The same, with seconds for connecting and for each answer."""
    prefix: str = ""
    """Of all Redis keys: Celery's ``global_keyprefix``."""
    roles: tuple[str, ...] = ROLES
    """The elections that are looked at unless one is named."""
    next_moments: Callable[[], NextMoment] | None = None
    """Reads the app's schedule, if there is an app: then it is known when entries are due."""
    app_findings: Callable[[], Iterable[Finding]] | None = None
    """Looks at the app, its workers and this machine for `check`, if there is an app."""
    ttl: float | None = None
    """Seconds, as the app sets it, if there is one."""
    wait_replicas: int | None = None
    """The same."""
    command: str = "celery -A proj leader"
    """How these commands are called, for advice that can be pasted into a shell."""
    acl_command: str = "celery -A proj leader acl"
    """The same of the one that needs an app: it prints the rights of Redis users."""
    server_setting: str = ""
    """The setting that names the server, as the app spells it, if there is an app."""
    login_setting: str = ""
    """The same for what user name and password come from."""

    def election(self, role: str) -> ElectionKeys:
        """Return the keys of one of the key's elections, by the name that people use for it."""
        return ElectionKeys(self.key, "" if role == LIBRARY else role, self.prefix)

    def told(self, error: StoreError) -> str:
        """Return an error of Redis for people: which key on which server, and what happened."""
        # Without an answer, or a login, it does not matter which command was sent. Else the Redis
        # key may be what is wrong.
        is_ours = error.key != self.key and self.key in error.key
        is_login = is_login_refused(error)
        is_of_key = is_ours and isinstance(error, StoreRefusedError) and not is_login
        what = str(error) if is_of_key else error.detail
        setting = ""
        if is_login or isinstance(error, StoreUnavailableError):
            setting = self.login_setting if is_login else self.server_setting
        named = f" ({setting})" if setting else ""
        return f"{plain(self.key)} at {plain(self.server)}{named}: {what}"

    @property
    def ledger(self) -> LedgerKeys:
        """The keys of the ledger."""
        return LedgerKeys(self.key, self.prefix)

    def connect(self, seconds: float | None = None) -> redis.Redis:
        """Return a client. It connects when it is used.

        Args:
            seconds: For connecting and for each answer, if not as usual.
        """
        if seconds is not None and self.open_quick is not None:
            return self.open_quick(self.ledger.runs, seconds)
        return self.open_client(self.ledger.runs)


def offer_target(context: click.Context, make: Callable[[], Target]) -> None:
    """Let the commands below a group find their target; ``make`` is called by those that do."""
    context.meta[_META] = make


def pass_target(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command its target as the first argument, and end with the exit code it returns.

    Errors of Redis end it with 2. ``make`` of ``offer_target`` raises ``WrongSettingError`` where
    the settings are wrong.
    """

    @functools.wraps(command)
    def with_target(*args: Any, **kwargs: Any) -> None:
        context = click.get_current_context()
        make: Callable[[], Target] = context.meta[_META]
        target = make()
        try:
            code = command(target, *args, **kwargs)
        except StoreError as exc:
            raise CannotTellError(target.told(exc)) from exc
        context.exit(code)

    return with_target


@contextmanager
def as_operator() -> Iterator[None]:
    """Say of rights that are missing in the block that they are an operator's."""
    try:
        yield
    except StoreRefusedError as exc:
        raise for_operator(exc) from exc.__cause__


def require_answer(client: redis.Redis, target: Target) -> None:
    """Make sure that Redis answers, before anything is asked of it that would change something.

    Raises:
        CannotTellError: It does not, and so it is certain that nothing was done.
        StoreRefusedError: It refuses the login.
    """
    try:
        read_time(client)
    except StoreUnavailableError as exc:
        raise CannotTellError(f"{target.told(exc)}. Nothing was done") from exc
    except StoreRefusedError as exc:
        if not exc.is_missing_right:  # what follows needs no clock
            raise


def optional(read: Callable[[], Value]) -> tuple[Value | None, str]:
    """Read something that the Redis user may not have the right to.

    Returns:
        The value and an empty string, or ``None`` and Redis's words.

    Raises:
        StoreError: Anything else than a missing right.
    """
    try:
        return read(), ""
    except StoreRefusedError as exc:
        if not exc.is_missing_right:
            raise
        return None, " ".join(str(exc.__cause__ or exc).split())


def candidates_of(role: str) -> str:
    """Return who takes part in an election: ``beats``, or ``candidates of the library``."""
    return "candidates of the library" if role == LIBRARY else f"{role}s"
