"""Redis URLs: what they are read as, and that no secret is ever shown."""

from __future__ import annotations

import string
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_safe_leader._store.connection.urls import (
    SCHEMES,
    RedisUrl,
    group_urls,
    is_redis_url,
    parse_url,
    safe_url,
    split_urls,
)
from celery_safe_leader.errors import ConfigurationError

SECRET = "Zq9Xv7"
ODD = st.text(alphabet="/?#@;:%[]&=+ \\'\"é\n" + "ab1", max_size=12)
ALLOWED = (
    "the URL of one Redis or Valkey server, of Sentinels or of nodes of a cluster, starting with "
    "redis, valkey, rediss, valkeys, unix, redis+socket, sentinel, redis-sentinel, redis+cluster, "
    "rediss+cluster or redis-cluster, and then ://"
)
DATABASE = "a URL whose database is a whole number"
WELL_FORMED = (
    "a URL with a host, a port from 0 to 65535, and credentials in which /, ?, # and @ are "
    "percent-encoded (%2F, %3F, %23, %40)"
)


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("redis://", RedisUrl("redis"), "redis://localhost:6379/0"),
        ("redis://h", RedisUrl("redis", "h"), "redis://h:6379/0"),
        ("REDIS://h/", RedisUrl("redis", "h"), "redis://h:6379/0"),
        ("valkey://h:1/2", RedisUrl("redis", "h", 1, db=2), "redis://h:1/2"),
        ("rediss://h:1/2?db=3", RedisUrl("rediss", "h", 1, db=3), "rediss://h:1/3"),
        ("valkeys://h", RedisUrl("rediss", "h"), "rediss://h:6379/0"),
        ("redis://[::1]:7/1", RedisUrl("redis", "::1", 7, db=1), "redis://[::1]:7/1"),
        ("unix:///run/r.sock?db=2", RedisUrl("unix", "", 0, "/run/r.sock", 2), None),
        ("unix:///run/r@1.sock", RedisUrl("unix", "", 0, "/run/r@1.sock"), None),
        ("redis+socket:///r?virtual_host=3", RedisUrl("unix", "", 0, "/r", 3), "unix:///r?db=3"),
        ("redis://u:p@h", RedisUrl("redis", "h", username="u", password="p"), None),
        ("redis://:p%2F%40;%25@h", RedisUrl("redis", "h", password="p/@;%"), None),
        (
            "redis://h?username=u&password=p%2B",
            RedisUrl("redis", "h", username="u", password="p+"),
            None,
        ),
        (
            "unix://u:p@/r",
            RedisUrl("unix", "", 0, "/r", username="u", password="p"),
            "unix:///r?db=0",
        ),
        (
            "rediss://h?ssl_cert_reqs=none",
            RedisUrl("rediss", "h", query=(("ssl_cert_reqs", "none"),)),
            None,
        ),
    ],
)
def test_url_is_read(url: str, expected: RedisUrl, shown: str | None) -> None:
    assert parse_url(url) == expected
    if shown:
        assert str(expected) == shown


@pytest.mark.parametrize(
    ("url", "kind", "mode", "nodes", "shown"),
    [
        ("sentinel://a", "redis", "sentinel", [("a", 26379)], "sentinel://a:26379/0"),
        (
            "sentinel://u:p@a:1/2;sentinel://b:2;sentinel://c/7",
            "redis",
            "sentinel",
            [("a", 1), ("b", 2), ("c", 26379)],
            "sentinel://a:1,b:2,c:26379/2",
        ),
        ("redis-sentinel://a,b:3/1", "redis", "sentinel", [("a", 26379), ("b", 3)], None),
        ("redis+cluster://a,[::1]:7", "redis", "cluster", [("a", 6379), ("::1", 7)], None),
        ("redis-cluster://a", "redis", "cluster", [("a", 6379)], "redis+cluster://a:6379/0"),
        (
            "rediss+cluster://a:1;rediss+cluster://b:2",
            "rediss",
            "cluster",
            [("a", 1), ("b", 2)],
            "rediss+cluster://a:1,b:2/0",
        ),
    ],
)
def test_several_nodes_are_read(
    url: str, kind: str, mode: str, nodes: list[tuple[str, int]], shown: str | None
) -> None:
    read = parse_url(url)
    assert (read.kind, read.mode, list(read.nodes)) == (kind, mode, nodes)
    assert (read.host, read.port) == nodes[0]
    assert read.redbeat == url.startswith("redis-")
    if shown:
        assert str(read) == shown
        assert parse_url(shown).nodes == read.nodes


def test_of_several_urls_the_first_ones_login_and_database_count() -> None:
    read = parse_url("sentinel://u:p@a:1/2?ssl_cert_reqs=none;sentinel://v:q@b:2/3")
    assert (read.username, read.password, read.db) == ("u", "p", 2)
    assert read.query == (("ssl_cert_reqs", "none"),)
    assert "p" not in repr(read).replace("port", "").replace("path", "")


@pytest.mark.parametrize(
    ("url", "value", "allowed"),
    [
        ("amqp://u:pw@h//", "a URL with the scheme 'amqp'", ALLOWED),
        ("sentinel://a:1;redis://:pw@b:2", "2 URLs, sentinel://***;redis://b:2", ALLOWED),
        ("sentinel://a:1;redis+cluster://b", "2 URLs, sentinel://a:1;redis+cluster://b", ALLOWED),
        ("sentinel://a:1;b:2", "sentinel://***", WELL_FORMED),
        ("redis+cluster://a:1,b:x", "redis+cluster://***", WELL_FORMED),
        ("redis://a:1,b:2", "redis://***", WELL_FORMED),
        ("sentinel://h/mymaster", "sentinel://h/mymaster", DATABASE),
        ("sentinel://a;sentinel://:a/pw@h", "sentinel://***;sentinel://***", WELL_FORMED),
        ("localhost:6379", "not a URL (it has no scheme)", ALLOWED),
        (":pw@localhost", "not a URL (it has no scheme)", ALLOWED),
        ("", "not a URL (it has no scheme)", ALLOWED),
        (None, "not a URL (it has no scheme)", ALLOWED),
        ("redis://a:1;redis://b:2", "2 URLs, redis://a:1;redis://b:2", ALLOWED),
        ("redis://h:70000", "redis://h:70000", WELL_FORMED),
        ("redis://:a/pw@h", "redis://***", WELL_FORMED),
        ("redis://u:123?pw@h", "redis://***", WELL_FORMED),
        ("redis://:pw@[h", "redis://***", WELL_FORMED),
        ("redis://h/one", "redis://h/one", DATABASE),
        ("redis://h/-1", "redis://h/-1", DATABASE),
        ("unix://", "unix://", "a URL with the path of a socket, such as unix:///run/redis.sock"),
    ],
)
def test_bad_url_is_refused_with_a_readable_message(url: object, value: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_url(url, setting="leader_url")
    assert str(refused.value) == f"leader_url is {value}; it must be {allowed}"
    assert "pw" not in repr(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:pw@h:1/2?password=pw", "redis://h:1/2"),
        ("redis+socket:///a/b?virtual_host=3", "redis+socket:///a/b"),
        ("amqp://u:pw@h:5672//", "amqp://h:5672//"),
        ("sentinel://:pw@a:1/0;sentinel://b:2", "sentinel://a:1/0;sentinel://b:2"),
        ("amqp://h;redis://:pw@r/3", "amqp://***;redis://r/3"),
        ("redis://h/pw$", "redis://h/***"),
        ("redis://h?password=p@w", "redis://***"),
        ("pw", "***"),
        ("", "***"),
        (None, "***"),
        (b"redis://:pw@h", "***"),
    ],
)
def test_safe_url(url: object, shown: str) -> None:
    assert safe_url(url) == shown


@given(
    scheme=st.sampled_from([*SCHEMES, "sentinel", "amqp"]),
    before=ODD,
    after=ODD,
    user=st.sampled_from(["", "user", "u:1"]),
    rest=st.sampled_from(["h:1/0", "", "/sock?db=1", "h?ssl_cert_reqs=none", "h;redis://i"]),
)
@example("redis", "1;", "://", "user", "h:1/0")
@example("redis", "1;redis://", "", "user", "h:1/0")
def test_no_password_is_shown_however_it_is_written(
    scheme: str, before: str, after: str, user: str, rest: str
) -> None:
    url = f"{scheme}://{user}:{before}{SECRET}{after}@{rest}"
    assert SECRET not in safe_url(url)
    assert SECRET.lower() not in safe_url(url).lower()
    try:
        outcome: object = parse_url(url)
    except ConfigurationError as error:
        outcome = error
    assert SECRET.lower() not in f"{outcome} {outcome!r}".lower()


@given(password=st.text(alphabet="/?#@;:% é" + string.ascii_letters, min_size=1))
def test_an_encoded_password_arrives_as_it_was(password: str) -> None:
    url = parse_url(f"redis://u:{quote(password, safe='')}@h:7/2")
    assert (url.password, url.host, url.port, url.db) == (password, "h", 7, 2)


@given(st.text())
def test_any_text_is_shown_or_refused_and_nothing_else(text: str) -> None:
    assert isinstance(safe_url(text), str)
    with suppress(ConfigurationError):
        assert parse_url(text).kind in ("redis", "rediss", "unix")


def test_urls_of_one_server_are_joined() -> None:
    urls = ["sentinel://a", "sentinel://b", "redis://c", "redis://d", "sentinel://e"]
    grouped = ["sentinel://a;sentinel://b", "redis://c", "redis://d", "sentinel://e"]
    assert group_urls(urls) == grouped


def test_lists_are_split_between_urls_only() -> None:
    assert split_urls("redis://:a;b@h;amqp://i;") == ["redis://:a;b@h", "amqp://i"]
    assert split_urls("") == []


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h", "valkeys://h", "unix:///x", "sentinel://h"]
)
def test_redis_urls_are_told(url: str) -> None:
    assert is_redis_url(url)


@pytest.mark.parametrize("url", ["amqp://h", "redis", None, 3])
def test_other_urls_are_told(url: object) -> None:
    assert not is_redis_url(url)
