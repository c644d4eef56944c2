"""Names and sources of the settings: how the user spells them, and what Celery's own settings say.

Defaults and rules on values are in conf.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from celery.app.defaults import Option
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader._store.connection.arguments import DECIDED
from celery_safe_leader._store.connection.urls import (
    BEGINNINGS,
    group_urls,
    is_redis_url,
    safe_url,
    scheme_of,
    split_urls,
)

__all__ = [
    "KNOWN",
    "Server",
    "check_time_zone",
    "find_server",
    "is_in_memory",
    "refuse_unknown",
    "spelling",
    "visibility_timeout",
]

KNOWN: dict[str, Option] = {
    "url": Option(type="string"),
    "options": Option(type="dict"),
    "key": Option(type="string"),
    "ttl": Option(type="float"),
    "wait": Option(type="float"),
    "wait_replicas": Option(type="int"),
    "allow_long_ttl": Option(type="bool"),
    "missed_runs": Option(type="string"),
    "expires_from": Option(type="string"),
    "dedup_window": Option(type="float"),
    "queue": Option(type="string"),
    "candidate": Option(type="bool"),
    "drain_timeout": Option(type="float"),
    "http": Option(type="string"),
    "ignored_settings": Option(type="tuple"),
}
"""Name after ``leader_`` -> how ``celery … -- leader.name=value`` reads a value."""

# Of kombu's transports that redeliver a message which was not acknowledged for so long.
_VISIBILITY_TIMEOUTS = {
    "redis": 3600.0,
    "rediss": 3600.0,
    "redis+socket": 3600.0,
    "sentinel": 3600.0,
    "valkey": 3600.0,
    "valkeys": 3600.0,
    "sqs": 1800.0,
    "gcpubsub": 1800.0,
}


class Server(NamedTuple):
    """The server of the election, and the setting that named it."""

    url: str
    options: dict[str, Any]
    setting: str
    prefix: str = ""
    """Of all keys, as Celery puts it before its own keys on that server."""
    others: tuple[str, ...] = ()
    """The broker's other servers that are Redis, without secrets: nobody asks them."""


def spelling(conf: Any, name: str) -> str:
    """Return how the user spells a setting: as it is set, or else as it would be in this project.

    Args:
        conf: Configuration of a Celery app.
        name: Lower case, such as ``leader_ttl`` or ``broker_url``.
    """
    forms = _forms(conf, name)
    for source in conf.maps[:-1]:
        for form in forms:
            if form in source:
                return form
    return forms[0]


def refuse_unknown(conf: Any) -> None:
    """Refuse ``leader_…`` settings that do not exist, or whose spelling Celery does not read.

    Those named in ``leader_ignored_settings`` belong to somebody else.

    Raises:
        ImproperlyConfigured: Names the setting and the nearest one that exists.
    """
    foreign = _ignored(conf)
    valid = {form for name in KNOWN for form in _forms(conf, f"leader_{name}")}
    for key in conf.keys():
        if not isinstance(key, str) or key in valid or key in foreign:
            continue
        for prefix in _forms(conf, "leader_"):
            if key.startswith(prefix):
                hint = _nearest(prefix, key.removeprefix(prefix))
                raise ImproperlyConfigured(f"{key} is not a setting of celery-safe-leader; {hint}")
        name = key.lower().removeprefix("celery_")
        if key.isupper() and name in valid:
            # Upper case may belong to other packages: only the exact names count there.
            ignored = spelling(conf, "leader_ignored_settings")
            raise ImproperlyConfigured(
                f"{key} is not read by this app; write {spelling(conf, name)}, or if it is not "
                f"meant for celery-safe-leader, add it to {ignored}"
            )


def _ignored(conf: Any) -> frozenset[str]:
    """Return the settings that are not ours though they are called like it.

    Raises:
        ImproperlyConfigured: The list is not one of strings.
    """
    value = conf.get("leader_ignored_settings")
    if value is None:
        return frozenset()
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = (value,) if isinstance(value, str) else (None,)
    names = list(value)
    if not all(isinstance(name, str) for name in names):
        raise ImproperlyConfigured(
            f"{spelling(conf, 'leader_ignored_settings')} is "
            f"{conf.get('leader_ignored_settings')!r}; it must be a list of names of settings"
        )
    return frozenset(names)


def check_time_zone(app: Any) -> None:
    """Check that the app's ``timezone`` exists, which every crontab needs.

    Raises:
        ImproperlyConfigured: Names the setting.
    """
    try:
        _ = app.timezone
    except Exception as exc:
        raise ImproperlyConfigured(
            f"{spelling(app.conf, 'timezone')} is {app.conf.timezone!r}, which cannot be used as a "
            f"time zone ({type(exc).__name__}); it must be the name of one, such as "
            "'Europe/Berlin'. If the name is right, install the package tzdata"
        ) from exc


def _nearest(prefix: str, rest: str) -> str:
    """Return a hint: which setting was probably meant, or which ones are valid."""
    near = difflib.get_close_matches(rest.lower(), KNOWN, n=1)
    names = [f"{prefix}{name.upper() if prefix.isupper() else name}" for name in near or KNOWN]
    return f"did you mean {names[0]}?" if near else f"valid settings are {', '.join(names)}"


def _forms(conf: Any, name: str) -> list[str]:
    """Return the spellings that Celery reads, in its order: with a namespace both forms."""
    return [f"{conf.prefix}{name.upper()}", name] if conf.prefix else [name]


def find_server(conf: Any) -> Server:
    """Return the server: ``leader_url``, else the broker's, else the result backend's, if Redis.

    Raises:
        ImproperlyConfigured: None of them is Redis; names their kinds, without secrets.
    """
    broker = group_urls(_flat(conf.broker_write_url))
    backend = group_urls(_flat(conf.result_backend))
    setting, own = spelling(conf, "leader_url"), conf.get("leader_url")
    if own is not None:
        if not isinstance(own, str):
            raise ImproperlyConfigured(
                f"{setting} is of type {type(own).__name__}; it must be a URL string"
            )
        found = own
    else:
        redis_urls = [url for url in broker + backend if is_redis_url(url)]
        if not redis_urls:
            raise ImproperlyConfigured(_no_server(setting, broker, backend))
        found = redis_urls[0]
        setting = spelling(conf, _broker_setting(conf) if found in broker else "result_backend")
    options, prefix = {}, ""
    if found in broker:
        options = {**_tls(conf, "broker_use_ssl"), **_sentinel(conf, "broker", found)}
        prefix = _prefix(conf, "broker")
    elif found in backend:
        options = _tls(conf, "redis_backend_use_ssl")
        prefix = _prefix(conf, "result_backend")
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"  # as Celery does
        options.update(_sentinel(conf, "result_backend", found))
        if provider := conf.get("redis_backend_credential_provider"):
            options["credential_provider"] = provider
    others = [url for url in broker if url != found and is_redis_url(url)] if own is None else []
    return Server(found, options, setting, prefix, tuple(map(safe_url, others)))


def is_in_memory(conf: Any) -> bool:
    """Return whether the broker lies in the memory of the process: no other one shares it."""
    schemes = {scheme_of(url) for url in _flat(conf.broker_read_url or conf.broker_url)}
    return schemes == {"memory"}


def _broker_setting(conf: Any) -> str:
    return "broker_write_url" if conf.get("broker_write_url") else "broker_url"


def _no_server(setting: str, broker: list[str], backend: list[str]) -> str:
    brokers = ", ".join(safe_url(url) for url in broker) or "not set"
    backends = ", ".join(scheme_of(url) or "another kind" for url in backend) or "not set"
    return (
        f"{setting} is not set, and neither the broker ({brokers}) nor the result backend "
        f"({backends}) is Redis or Valkey; set {setting} to the URL of one, starting with "
        f"{BEGINNINGS}"
    )


def _flat(urls: object) -> Iterator[str]:
    """Yield each URL of what Celery accepts: a string, with ``;`` between several, or a list."""
    if isinstance(urls, str):
        yield from split_urls(urls)
    elif isinstance(urls, (list, tuple)):
        for url in urls:
            yield from _flat(url)


def _tls(conf: Any, name: str) -> dict[str, Any]:
    """Return redis-py's ``ssl_…`` arguments from ``broker_use_ssl`` or the like."""
    value = conf.get(name)
    if isinstance(value, Mapping):
        return {"ssl": True, **{k: v for k, v in value.items() if str(k).startswith("ssl_")}}
    if value:
        raise ImproperlyConfigured(
            f"{spelling(conf, name)} is {value!r}; for Redis it must be a dict, such as "
            "{'ssl_cert_reqs': 'required'}: with anything else Celery itself uses no TLS, or fails"
        )
    return {}


def _prefix(conf: Any, side: str) -> str:
    name = f"{side}_transport_options"
    given = conf.get(name) or {}
    prefix = given.get("global_keyprefix") if isinstance(given, Mapping) else None
    if not isinstance(prefix or "", str):
        raise ImproperlyConfigured(
            f"global_keyprefix of {spelling(conf, name)} is {prefix!r}; it must be a string"
        )
    return prefix or ""


def _sentinel(conf: Any, side: str, url: str) -> dict[str, Any]:
    """Return what the transport options say about Sentinels, without time limits for a broker."""
    given = conf.get(f"{side}_transport_options") or {}
    if scheme_of(url) != "sentinel" or not isinstance(given, Mapping):
        return {}
    options = {k: given[k] for k in ("master_name", "min_other_sentinels") if k in given}
    kwargs = given.get("sentinel_kwargs")
    if isinstance(kwargs, Mapping):
        options["sentinel_kwargs"] = {k: v for k, v in kwargs.items() if k not in DECIDED}
    return options


def visibility_timeout(conf: Any) -> float:
    """Return after how many seconds the broker redelivers an unacknowledged message.

    0 for brokers that do so only when the connection ends.
    """
    options = conf.get("broker_transport_options") or {}
    value = options.get("visibility_timeout")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    schemes = [scheme_of(url) for url in _flat(conf.broker_write_url)]
    return max((_VISIBILITY_TIMEOUTS.get(scheme, 0.0) for scheme in schemes), default=0.0)
