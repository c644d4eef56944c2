"""Settings: from a Celery app's configuration to one frozen, validated value.

``leader_ttl`` on the app, ``CELERY_LEADER_TTL`` in Django. Nothing is guessed silently: a wrong
value or an unknown ``leader_…`` setting is an ``ImproperlyConfigured`` before anything starts.
Opens no connection.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias, cast, get_args

import celery.app.utils
from celery import Celery
from celery.app.defaults import NAMESPACES
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader._core.options import Options
from celery_safe_leader._runtime.service.http_address import HttpAddress, parse_address
from celery_safe_leader._schedules.policy_options import EXPIRES_FROM
from celery_safe_leader._setting_sources import (
    KNOWN,
    Server,
    find_server,
    is_in_memory,
    refuse_unknown,
    spelling,
    visibility_timeout,
)
from celery_safe_leader._store.connection.pool_settings import Names, check_arguments, read_url
from celery_safe_leader._store.connection.urls import RedisUrl
from celery_safe_leader._store.keys import checked_key
from celery_safe_leader.errors import ConfigurationError

__all__ = [
    "DEFAULT_TTL",
    "LeaderSettings",
    "as_improperly_configured",
    "check_transport",
    "leader_names",
    "read",
    "read_for_worker",
    "register_settings",
]

DEFAULT_TTL = 10.0
"""Seconds."""
DEFAULT_DEDUP_WINDOW = 7200.0
"""Seconds. Twice the visibility timeout of kombu's Redis transport, which is one hour."""
MissedRuns: TypeAlias = Literal["coalesce", "skip", "all"]
"""What a leader does with runs that fell due while nobody led."""
DEFAULT_DRAIN_TIMEOUT = 60.0
"""Seconds."""
_LOGIN = {"username", "password", "credential_provider"}
MAX_QUEUE_NAME = 255
"""Bytes: AMQP's short string."""


@dataclass(frozen=True, slots=True)
class LeaderSettings:
    """The settings of one app. Times are seconds. Its repr shows no secret."""

    url: str = field(repr=False)
    """Of the server; may contain a password. ``server`` is the same without secrets."""
    options: dict[str, Any] = field(repr=False)
    """For the client, with what Celery's own TLS settings say."""
    server: str
    """The same server without secrets: ``redis://host:port/db``."""
    key: str
    """Names the elections and the ledger."""
    ttl: float
    """Length of the lease."""
    wait: float
    """Longest pause of a standby between two requests."""
    wait_replicas: int
    """Replicas that must confirm a lease."""
    allow_long_ttl: bool
    """Whether a ttl above five minutes is allowed."""
    missed_runs: MissedRuns
    """What a leader does with runs that fell due while nobody led."""
    dedup_window: float
    """How long an accepted occurrence is remembered."""
    queue: str
    """Name of the queue of leader-only tasks."""
    candidate: bool = True
    """Whether workers take part in their election."""
    drain_timeout: float = 60.0
    """How long a worker that shuts down lets leader-only tasks finish before it resigns."""
    url_setting: str = "leader_url"
    """Where ``url`` was set, as the user spells it."""
    login_setting: str = "leader_url"
    """Where user name and password were set, or what provides them."""
    options_setting: str = "leader_options"
    """The same for ``options``."""
    prefix: str = ""
    """Of all keys on the server: Celery's ``global_keyprefix``."""
    expires_from: str = "publication"
    """What a number of seconds in an entry's ``expires`` counts from: "publication" or "due"."""

    http: HttpAddress | None = None
    """Where this process answers health checks; ``None``: nowhere."""

    is_alone: bool = False
    """Whether there can be no other worker, and so no election."""
    other_servers: tuple[str, ...] = ()
    """Servers beside ``server`` in the list of brokers, without secrets: the election asks none of
    them, also when Celery moves there."""

    @property
    def place(self) -> str:
        """``server`` for log lines: with the setting that names it."""
        return f"{self.server} ({self.url_setting})"

    @property
    def candidate_options(self) -> Options:
        """The options of a candidate: ttl, wait and replicas, checked."""
        return Options(self.ttl, self.wait, self.wait_replicas, allow_long_ttl=self.allow_long_ttl)

    @property
    def election(self) -> Options:
        """The same as ``candidate_options``, under the name that users may know."""
        return self.candidate_options


def register_settings() -> None:
    """Let ``celery … -- leader.ttl=3`` work; may be called any number of times.

    Celery looks up the part before the first dot in a table. No default is put there, so that a
    setting of the user can still be told from one that is not set.
    """
    NAMESPACES.setdefault("leader", {}).update(KNOWN)
    _hide_url()


def _hide_url() -> None:
    """Keep ``celery report`` and ``celery inspect conf`` from showing a password in ``leader_url``.

    Celery masks settings by their names and leaves URLs of other packages alone. The pattern is a
    private name, read in 5.4 to 5.7; if it is no longer a pattern, nothing is done.
    """
    hidden = getattr(celery.app.utils, "HIDDEN_SETTINGS", None)
    if isinstance(hidden, re.Pattern) and not hidden.search("leader_url"):
        pattern = re.compile(f"{hidden.pattern}|LEADER_URL", hidden.flags)
        celery.app.utils.HIDDEN_SETTINGS = pattern


def read(app: Celery) -> LeaderSettings:
    """Read and check the settings of an app.

    Raises:
        ImproperlyConfigured: Names the setting as the user spells it, its value, and what is
            allowed. Contains no secret.
    """
    conf = _loaded(app)
    refuse_unknown(conf)
    server = find_server(conf)
    with as_improperly_configured(app):
        own_options = _client_options(conf)
        client_options = {**server.options, **own_options}
        url = read_url(server.url, client_options, server.setting)
        _refuse_settings_in(conf, url, server.setting)
        if url.kind == "redis" and server.options.get("ssl"):
            url = replace(url, kind="rediss")
        options_setting = spelling(conf, "leader_options")
        check_arguments(server.url, client_options, Names(server.setting, options_setting))
        long_ttl = _flag(conf, "leader_allow_long_ttl")
        options = Options(
            conf.get("leader_ttl", DEFAULT_TTL),
            conf.get("leader_wait"),
            conf.get("leader_wait_replicas", 0),
            allow_long_ttl=long_ttl,
        )
        return LeaderSettings(
            url=server.url,
            options=client_options,
            server=str(url),
            key=(key := _key(app)),
            ttl=options.ttl,
            wait=options.wait,
            wait_replicas=options.wait_replicas,
            allow_long_ttl=long_ttl,
            missed_runs=_missed_runs(conf),
            expires_from=_expires_from(conf),
            dedup_window=_dedup_window(conf),
            queue=_queue(conf, key),
            candidate=_flag(conf, "leader_candidate", default=True),
            drain_timeout=_drain_timeout(conf),
            url_setting=server.setting,
            login_setting=_login_setting(conf, server, own_options),
            options_setting=options_setting,
            prefix=server.prefix,
            http=_http(conf),
            other_servers=server.others,
        )


def _refuse_settings_in(conf: Any, url: RedisUrl, setting: str) -> None:
    """Refuse a URL with a parameter named like a setting, which nobody would read."""
    if setting != spelling(conf, "leader_url"):
        return  # the broker's parameters are kombu's business
    for name, _ in url.query:
        if name in KNOWN:
            own = spelling(conf, f"leader_{name}")
            raise ConfigurationError(
                setting, f"a URL with the parameter {name}", f"one without it: set {own} instead"
            )


def check_transport(app: Celery) -> None:
    """Check that the broker's transport can be loaded. Connects to nothing.

    A module that is missing is a mistake of the installation: to try again would not mend it.

    Raises:
        ImproperlyConfigured: Names the kind of broker, and what is missing.
    """
    try:
        kind = app.connection_for_write().get_transport_cls()
        _check_errors(kind)
    # KeyError: there is none of that name. NameError: kombu's module uses what it did not find.
    except (ImportError, KeyError, NameError) as exc:
        why = exc.args[0] if isinstance(exc, KeyError) and exc.args else exc
        raise ImproperlyConfigured(
            f"the transport of {spelling(_loaded(app), 'broker_url')} cannot be loaded: {why}. "
            "Install what is missing, and start again"
        ) from exc


def _check_errors(transport: Any) -> None:
    """Check the classes of errors that tell an outage of the broker from a fault of an entry.

    Some of kombu's transports load without the package that they need, and have ``None`` there.

    Raises:
        ImportError: One of them is not a class of errors.
    """
    for name in ("connection_errors", "channel_errors"):
        found = getattr(transport, name, ())
        classes = found if isinstance(found, tuple) else ()  # one may be made by each instance
        if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
            raise ImportError(f"a package that {transport.__module__} needs is missing")


def read_for_worker(app: Celery) -> LeaderSettings:
    """Read and check the settings of an app for a worker.

    One whose broker lies in the memory of its process (``memory://``), as in tests, has no other
    worker to compete with, and needs no Redis unless ``leader_url`` is set.

    Raises:
        ImproperlyConfigured: As ``read()``.
    """
    conf = _loaded(app)
    if conf.get("leader_url") is not None or not is_in_memory(conf):
        return read(app)
    refuse_unknown(conf)
    with as_improperly_configured(app):
        key = _key(app)
        return LeaderSettings(
            url="",
            options={},
            server="memory",
            key=key,
            ttl=DEFAULT_TTL,
            wait=DEFAULT_TTL / 5,
            wait_replicas=0,
            allow_long_ttl=False,
            missed_runs="coalesce",
            expires_from=_expires_from(conf),
            dedup_window=DEFAULT_DEDUP_WINDOW,
            queue=_queue(conf, key),
            candidate=_flag(conf, "leader_candidate", default=True),
            drain_timeout=_drain_timeout(conf),
            http=_http(conf),
            is_alone=True,
        )


def leader_names(app: Celery) -> tuple[str, str]:
    """Read the key and the name of the leader queue: all that a producer needs.

    Raises:
        ImproperlyConfigured: One of them is wrong.
    """
    conf = _loaded(app)
    with as_improperly_configured(app):
        key = _key(app)
        return key, _queue(conf, key)


@contextmanager
def as_improperly_configured(app: Celery) -> Iterator[None]:
    """Turn a ``ConfigurationError`` into Celery's error, with the setting as the user spells it."""
    try:
        yield
    except ConfigurationError as error:
        conf = _loaded(app)
        setting, allowed = error.setting, error.allowed
        if setting in KNOWN:
            setting = spelling(conf, f"leader_{setting}")
        long_ttl = spelling(conf, "leader_allow_long_ttl")
        allowed = allowed.replace("pass allow_long_ttl=True", f"set {long_ttl} to True")
        translated = type(error)(setting, error.value, allowed)
        raise ImproperlyConfigured(str(translated)) from error


def _loaded(app: Celery) -> Any:
    """Return the configuration itself: until its first use an app has a placeholder."""
    app.conf.get("leader_url")
    return app.conf


def _key(app: Celery) -> str:
    key = app.conf.get("leader_key")
    if key is None:
        key = app.main
        if not key or key == "__main__":
            raise ConfigurationError(
                "key",
                "not set, and the app has no name to use instead",
                "a name that only the processes of this app and environment share, such as "
                "'shop-production'",
            )
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("key", repr(key), "a non-empty string")
    return checked_key(key)


def _client_options(conf: Any) -> dict[str, Any]:
    options = conf.get("leader_options")
    if options is None:
        return {}
    # The values may be secrets.
    if not isinstance(options, Mapping):
        raise ConfigurationError("options", f"of type {type(options).__name__}", "a dict")
    if not all(isinstance(name, str) for name in options):
        raise ConfigurationError(
            "options", "a dict with a name that is not a string", "a dict with strings as names"
        )
    return dict(options)


def _login_setting(conf: Any, server: Server, own_options: Mapping[str, Any]) -> str:
    if _LOGIN & own_options.keys():
        return spelling(conf, "leader_options")
    if "credential_provider" in server.options:
        return spelling(conf, "redis_backend_credential_provider")
    return server.setting


def _flag(conf: Any, name: str, *, default: bool = False) -> bool:
    value = conf.get(name, default)
    if not isinstance(value, bool):
        raise ConfigurationError(name.removeprefix("leader_"), repr(value), "True or False")
    return value


def _missed_runs(conf: Any) -> MissedRuns:
    value = conf.get("leader_missed_runs", "coalesce")
    if value not in get_args(MissedRuns):
        raise ConfigurationError("missed_runs", repr(value), "'coalesce', 'skip' or 'all'")
    return cast(MissedRuns, value)


def _expires_from(conf: Any) -> str:
    value = conf.get("leader_expires_from", "publication")
    if value not in EXPIRES_FROM:
        raise ConfigurationError("expires_from", repr(value), "'publication' or 'due'")
    return str(value)


def _dedup_window(conf: Any) -> float:
    least = 2 * visibility_timeout(conf)
    value = conf.get("leader_dedup_window")
    if value is None:
        return max(DEFAULT_DEDUP_WINDOW, least)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        shown = f"{value!r} (a {type(value).__name__})"
        raise ConfigurationError("dedup_window", shown, "a number of seconds")
    if not 0 < value <= sys.float_info.max:
        raise ConfigurationError("dedup_window", repr(value), "a number of seconds above 0")
    if value < least:
        raise ConfigurationError(
            "dedup_window",
            f"{value!r} s",
            f"at least {least:g} s, twice the broker's visibility timeout: a message that it "
            "redelivers must still be known",
        )
    return float(value)


def _http(conf: Any) -> HttpAddress | None:
    value = conf.get("leader_http")
    return None if value is None else parse_address(value)


def _drain_timeout(conf: Any) -> float:
    value = conf.get("leader_drain_timeout", DEFAULT_DRAIN_TIMEOUT)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not 0 <= value <= sys.float_info.max:
        raise ConfigurationError("drain_timeout", repr(value), "a number of seconds, 0 or more")
    return float(value)


def _queue(conf: Any, key: str) -> str:
    name = conf.get("leader_queue")
    if name is None:
        name = f"leader.{key}"
        if len(name.encode()) > MAX_QUEUE_NAME:
            name = f"leader.{hashlib.sha256(key.encode()).hexdigest()}"
    if not isinstance(name, str) or not 0 < len(name.encode()) <= MAX_QUEUE_NAME:
        raise ConfigurationError("queue", repr(name), f"a string of 1 to {MAX_QUEUE_NAME} bytes")
    if name == conf.task_default_queue:
        raise ConfigurationError(
            "queue",
            f"{name!r}, as is {spelling(conf, 'task_default_queue')}",
            "a queue of its own: only the worker that leads consumes it",
        )
    return name
