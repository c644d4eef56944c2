"""Parses Redis URLs, and shows them without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypedDict
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from celery_safe_leader.errors import ConfigurationError

__all__ = [
    "BEGINNINGS",
    "SCHEMES",
    "Address",
    "RedisUrl",
    "group_urls",
    "is_redis_url",
    "parse_url",
    "safe_url",
    "scheme_of",
    "show_address",
    "split_urls",
]

SCHEMES = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
    "sentinel": "redis",
    "redis-sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "redis-cluster": "redis",
}
"""Scheme as written -> kind of connection: plain TCP, TLS or unix socket."""

_MODES = {
    "sentinel": "sentinel",
    "redis-sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "redis-cluster": "cluster",
}
"""Scheme -> whom to ask for the server's address. A URL may name several of these."""

*_MOST, _LAST = SCHEMES
BEGINNINGS = f"{', '.join(_MOST)} or {_LAST}, and then ://"
"""What a URL may start with, for error messages."""
_ALLOWED = (
    "the URL of one Redis or Valkey server, of Sentinels or of nodes of a cluster, starting with "
    f"{BEGINNINGS}"
)
_WELL_FORMED = (
    "a URL with a host, a port from 0 to 65535, and credentials in which /, ?, # and @ are "
    "percent-encoded (%2F, %3F, %23, %40)"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}\Z")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+)?(?::[0-9]{1,5})?\Z")
_DEFAULT_PORTS = {"sentinel": 26379}
_PATH = re.compile(r"[\w/.~+-]*\Z")
# Only words that give nothing away if shown: a password may contain ;word:// as well.
_NEXT_URL = re.compile(
    r";(?=(?:redis|rediss|valkey|valkeys|sentinel|unix|amqp|amqps|pyamqp|librabbitmq|qpid|memory"
    r"|filesystem|sqs|kafka|confluentkafka|azureservicebus|azurestoragequeues|gcpubsub|mongodb"
    r"|etcd|consul|zookeeper|pgmq|pyro|slmq|sqla|sqlalchemy)(?:[+-][a-z]+)?://)",
    re.IGNORECASE,
)
_HIDDEN = "***"


Address: TypeAlias = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where a server is, or whom to ask, and how to log in. Its repr shows no secret."""

    kind: str
    """``redis``, ``rediss`` or ``unix``."""
    host: str = "localhost"
    port: int = 6379
    path: str = ""
    """Of the socket file; empty for TCP and TLS."""
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Decoded parameters, without the database number."""
    mode: str = ""
    """Empty if ``host`` is the server; else ``sentinel`` or ``cluster``: ask one of ``nodes``."""
    nodes: tuple[Address, ...] = ()
    """Sentinels, or nodes of the cluster; the first is also ``host`` and ``port``."""
    redbeat: bool = False
    """Whether it is written in RedBeat's form, for which more options are read."""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix://{self.path}?db={self.db}"
        scheme = {"": self.kind, "cluster": f"{self.kind}+cluster"}.get(self.mode, self.mode)
        nodes = self.nodes or ((self.host, self.port),)
        return f"{scheme}://{','.join(map(show_address, nodes))}/{self.db}"


def show_address(address: Address) -> str:
    """Return ``host:port``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def scheme_of(url: object) -> str:
    """Return what stands before ``://`` in lower case; empty if that is not a scheme."""
    head, separator, _ = str(url).partition("://")
    return head.lower() if separator and _SCHEME.match(head) else ""


def is_redis_url(url: object) -> bool:
    """Return whether :func:`parse_url` accepts the scheme."""
    return isinstance(url, str) and scheme_of(url) in SCHEMES


def split_urls(urls: str) -> list[str]:
    """Split what Celery joins with ``;``, but not at a ``;`` within a password."""
    return [part for part in _NEXT_URL.split(urls.rstrip(";")) if part]


def group_urls(urls: Iterable[str]) -> list[str]:
    """Join adjacent URLs that name one server: its Sentinels, or nodes of its cluster."""
    groups: list[str] = []
    for url in urls:
        scheme = scheme_of(url)
        if groups and scheme in _MODES and scheme_of(groups[-1]) == scheme:
            groups[-1] = f"{groups[-1]};{url}"
        else:
            groups.append(url)
    return groups


def safe_url(url: object) -> str:
    """Show a URL, or several joined with ``;``, without credentials and parameters.

    Accepts anything, and hides too much rather than too little: what might be a secret is ``***``.
    """
    if not isinstance(url, str):
        return _HIDDEN
    parts = split_urls(url)
    last_login = max((i for i, part in enumerate(parts) if "@" in part), default=-1)
    shown = [_safe_part(part, cut=i < last_login) for i, part in enumerate(parts)]
    return ";".join(shown) or _HIDDEN


def _safe_part(url: str, *, cut: bool) -> str:
    scheme = scheme_of(url)
    if not scheme:
        return _HIDDEN
    if cut and "@" not in url:
        # It may be the first half of a login whose password holds ;redis://
        return f"{scheme}://{_HIDDEN}"
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if "@" in tail:
        # A password with an unescaped / ? or #: nothing tells where it ends.
        return f"{scheme}://{_HIDDEN}"
    host = authority.rpartition("@")[2]
    path = re.split(r"[?#]", tail, maxsplit=1)[0]
    hosts = host.split(",") if scheme in _MODES else [host]
    if not all(map(_HOST.match, hosts)):
        host = _HIDDEN
    if not _PATH.match(path):
        path = f"/{_HIDDEN}"
    return f"{scheme}://{host}{path}"


def parse_url(url: object, *, setting: str = "redis") -> RedisUrl:
    """Read the URL of one server, or of those who know where it is.

    Of several URLs joined with ``;``, the first one's credentials, database and parameters
    count, as in kombu.

    Args:
        url: With credentials percent-encoded, as in every URL.
        setting: Name of the setting or argument, for errors.

    Raises:
        ConfigurationError: Not such a URL. The text holds no secret.
    """
    kind = SCHEMES.get(scheme_of(url))
    if kind is None or not isinstance(url, str):
        raise ConfigurationError(setting, _describe_refused(url), _ALLOWED)
    shown = safe_url(url)
    if len(group_urls(parts := split_urls(url))) > 1:
        raise ConfigurationError(setting, f"{len(parts)} URLs, {shown}", _ALLOWED)
    try:
        if mode := _MODES.get(scheme_of(url)):
            return _read_nodes(kind, mode, parts)
        split = urlsplit(url)
        _refuse_stray_at(kind, split)
        read = _read_socket if kind == "unix" else _read_address
        return read(kind, split)
    except ValueError as error:
        # The text of a ValueError of urllib quotes what it could not read: maybe a password.
        allowed = str(error) if isinstance(error, _UnreadableError) else _WELL_FORMED
    raise ConfigurationError(setting, shown, allowed)


class _UnreadableError(ValueError):
    """Says what the URL must be, without quoting any of it."""


def _describe_refused(url: object) -> str:
    scheme = scheme_of(url)
    return f"a URL with the scheme {scheme!r}" if scheme else "not a URL (it has no scheme)"


def _refuse_stray_at(kind: str, split: SplitResult) -> None:
    """Refuse an @ after the address: part of a password would be taken for host and port."""
    if kind == "unix" and not split.netloc:
        return
    if "@" in split.path + split.query + split.fragment:
        raise _UnreadableError(_WELL_FORMED)


def _read_socket(kind: str, split: SplitResult) -> RedisUrl:
    query = dict(parse_qsl(split.query))
    path = unquote(split.path)
    if not path.strip("/"):
        raise _UnreadableError("a URL with the path of a socket, such as unix:///run/redis.sock")
    return RedisUrl(kind, "", 0, path, _database("", query), **_login(split, query))


def _read_address(kind: str, split: SplitResult) -> RedisUrl:
    query = dict(parse_qsl(split.query))
    host, port = unquote(split.hostname or "localhost"), split.port or 6379
    return RedisUrl(kind, host, port, "", _database(split.path, query), **_login(split, query))


def _read_nodes(kind: str, mode: str, urls: list[str]) -> RedisUrl:
    """Parse URLs that may each have several hosts: ``sentinel://a:1,b:2;sentinel://c:3``."""
    splits: list[SplitResult] = []
    for url in urls:
        split = urlsplit(url)
        _refuse_stray_at(kind, split)
        login, at, hosts = split.netloc.rpartition("@")
        splits += [split._replace(netloc=f"{login}{at}{host}") for host in hosts.split(",")]
    nodes = [(unquote(one.hostname or "localhost"), _port(one, mode)) for one in splits]
    first = _read_address(kind, splits[0])
    host, port = nodes[0]
    redbeat = scheme_of(urls[0]).startswith("redis-")
    return replace(first, host=host, port=port, mode=mode, nodes=tuple(nodes), redbeat=redbeat)


def _port(split: SplitResult, mode: str) -> int:
    return split.port or _DEFAULT_PORTS.get(mode, 6379)


def _database(path: str, query: dict[str, str]) -> int:
    # If there are several numbers, the parameter wins, as in redis-py.
    for name in ("virtual_host", "db"):
        path = query.pop(name, path)
    text = unquote(path).strip("/")
    if text and not (text.isascii() and text.isdigit()):
        raise _UnreadableError("a URL whose database is a whole number")
    return int(text or 0)


class _Login(TypedDict):
    username: str | None
    password: str | None
    query: tuple[tuple[str, str], ...]


def _login(split: SplitResult, query: dict[str, str]) -> _Login:
    """Return the credentials of the address, else of the parameters, and the other parameters."""
    in_query = query.pop("username", None), query.pop("password", None)
    return {
        "username": unquote(split.username or "") or in_query[0],
        "password": unquote(split.password or "") or in_query[1],
        "query": tuple(query.items()),
    }
