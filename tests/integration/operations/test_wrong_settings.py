"""Every command with settings that cannot be used names the setting, and asks nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from celery_safe_leader import cli
from tests.support.network.ports import free_port

COMMANDS = (
    *(["status"], ["watch"], ["check"], ["probe", "--ready"], ["history"], ["runs"], ["pause"]),
    *(["resume"], ["resign"], ["ledger", "export"], ["ledger", "rename", "a", "b"]),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "leader_url is not set, and neither the broker (amqp://127.0.0.1:{port}//) nor"),
        ({"leader_url": "redis://127.0.0.1:1", "leader_options": {"foo": 1}}, "leader_options is"),
        (
            {"leader_url": "redis://:hidden@127.0.0.1:1/0?ssl_cert_reqs=x"},
            "ssl_cert_reqs of leader",
        ),
    ],
)
def test_the_setting_is_named(words: list[str], settings: dict[str, Any], named: str) -> None:
    port = free_port()
    app = Celery("shop", broker=f"amqp://guest:hidden@127.0.0.1:{port}//", set_as_current=False)
    app.conf.update(settings)
    done = CliRunner().invoke(cli.leader, words, obj=SimpleNamespace(app=app))
    app.close()
    assert isinstance(done.exception, SystemExit), done.exc_info
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert done.output.startswith(f"Error: {named.format(port=port)}")
    assert "hidden" not in done.output
