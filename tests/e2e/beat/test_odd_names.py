"""Names with blanks, braces, other scripts and a kilobyte: they work, or are refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import ConfigurationError, conf, create_safe_redis_leader
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.periodic_workers import Workers
from tests.support.processes import Children
from tests.support.servers import Server

NAMES = {
    "blanks": " a shop with  blanks ",
    "braces": "{sh}op}:beat:{",
    "scripts": "läden-商店-🛒",
    "kilobyte": "x" * 1024,
    "globs and quotes": "*?[a]\\\"'%s {0}",
}
REFUSED = ("", "x" * 1025, "é" * 513, "\ud800", "two\nlines", "a\tb", "\x00", "\u202eleft", 7, None)


@pytest.mark.timeout(120)
def test_beats_and_workers_of_any_name_run_what_is_due(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    """One app with all of it in its name; what differs is tried below."""
    name = "".join(value for which, value in NAMES.items() if which != "kilobyte")
    settings = {"leader_url": valkey_server.url, "leader_key": name, "leader_ttl": 0.6}
    workers = Workers(children, tmp_path, valkey_server.url, **settings)
    folder = tmp_path / "beat"
    folder.mkdir()
    schedule = '{"tick": {"task": "shop.work", "schedule": 0.25}}'
    write_app(folder, valkey_server.url, schedule, **workers.settings)
    worker = workers.start("-c", "1")
    beat = Beat(children, folder)
    leader_of(lambda: [beat], 30)
    workers.wait_for_runs(3, timeout=30)
    worker.wait_for_line("Elected leader of", 30)
    beat.terminate()
    for child in (beat.child, worker):
        assert "Traceback" not in child.output
        elected = next(line for line in child.lines if "Elected leader of" in line)
        assert "(token" in elected


@pytest.mark.parametrize("name", NAMES.values(), ids=[*NAMES])
def test_an_election_of_any_name_elects_and_hands_over(valkey_server: Server, name: str) -> None:
    terms: dict[str, Any] = {"redis": valkey_server.url, "key": name, "ttl": 0.5, "wait": 0.1}
    with create_safe_redis_leader(**terms) as one:
        first = one.wait_until_leader(30)
        with create_safe_redis_leader(**terms) as two:
            two.wait(lambda: False, 0.3)
            one.stop()
            assert two.wait_until_leader(30) > first


@pytest.mark.parametrize("name", REFUSED, ids=range(len(REFUSED)))
def test_what_can_be_no_name_is_refused_in_words(valkey_server: Server, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="the name of the election: a string of 1 to 1024"):
        create_safe_redis_leader(redis=valkey_server.url, key=name, ttl=1)
    if name is not None:
        app = Celery("shop", broker="redis://h", set_as_current=False)
        app.conf.leader_key = name
        with pytest.raises(ImproperlyConfigured, match="leader_key"):
            conf.read(app)
