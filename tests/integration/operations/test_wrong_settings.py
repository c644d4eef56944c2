"""Every command with settings that cannot be used names the setting, and asks nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from celery_safe_leader import cli
from tests.support.network.ports import free_port
from tests.support.processes.child import clean_environment
from tests.support.servers import ExternalServer

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


def celery(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Call Celery's command line where no app is."""
    return subprocess.run(
        [sys.executable, "-m", "celery", *words],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "without_celery"),
    [
        (["leader", "status"], " --url … --key … status`"),
        (["leader", "ledger", "rename", "a", "b"], " --url … --key … ledger`"),
        (["leader", "acl"], ""),  # which is about an app
        # There is a Redis, but the key would be the name of Celery's own app.
        (["--broker", "redis://127.0.0.1:1/0", "leader", "status"], " --url … --key … status`"),
    ],
    ids=["status", "ledger rename", "acl", "with a broker"],
)
def test_without_an_app_the_option_that_names_it_is_asked_for(
    tmp_path: Path, words: list[str], without_celery: str
) -> None:
    done = celery(tmp_path, *words)
    command = words[words.index("leader") + 1]
    told = f"write -A and its module, as in `celery -A proj leader {command}`"
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"Error: no Celery app is named: {told}")
    assert done.stderr.rstrip().endswith(without_celery or told)
    assert done.stdout == ""


def test_a_celeryconfig_that_has_a_key_needs_no_app(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text(
        "broker_url = 'redis://127.0.0.1:1/0'\nleader_key = 'shop'\n"
    )
    done = celery(tmp_path, "leader", "status")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: shop at redis://127.0.0.1:1/0 (broker_url): no answer from Redis"
    )


def test_a_login_that_is_refused_is_told_with_its_setting(
    tmp_path: Path, shared_server: ExternalServer
) -> None:
    (tmp_path / "celeryconfig.py").write_text(
        f"leader_url = {shared_server.url!r}\nleader_key = 'shop'\n"
        "leader_options = {'username': 'nobody', 'password': 'secret'}\n"
    )
    done = celery(tmp_path, "leader", "status")
    assert done.returncode == 2
    assert " (leader_options): Redis refuses the user name or password" in done.stderr
    assert "secret" not in done.stderr
