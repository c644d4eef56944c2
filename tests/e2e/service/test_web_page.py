"""``celery leader web`` as a process, with real beats: a takeover, a resignation, and its end."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.network.ports import free_port
from tests.support.processes import Child, Children, wait_until
from tests.support.servers import Server

SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.5}}'
SECRET = "a-token-of-20-signs-"


class Answer(NamedTuple):
    code: int
    text: str


class WebPage:
    """The page of an app, served by a process."""

    def __init__(self, children: Children, folder: Path, *words: str, token: str = "") -> None:
        env = {"PYTHONPATH": str(folder)}
        if token:
            env["CELERY_SAFE_LEADER_WEB_TOKEN"] = token
        program = ["celery", "-A", "app", "leader", "web", "--port", "0", *words]
        self.child = children.module(*program, env=env, cwd=folder, name="web")
        line = self.child.wait_for_line("The page of", 60).text
        self.port = int(line.rpartition(":")[2].strip("/"))

    def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> Answer:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            client.request(method, path, body=body or None, headers=named)
            answer = client.getresponse()
            return Answer(answer.status, answer.read().decode())
        finally:
            client.close()

    def order(self, name: str, token: str = SECRET, **words: str) -> Answer:
        headers = {"X_Leader_Token": token, "Content_Type": "application/json"}
        return self.ask(f"/actions/{name}", "POST", json.dumps(words), **headers)

    def leaders(self) -> str:
        found = re.search(r'<p id="leaders">(.*?)</p>', self.ask("/parts").text)
        return found[1] if found else ""


@pytest.fixture
def folder(tmp_path: Path, valkey_server: Server) -> Path:
    leave_resigned(valkey_server.url, "shop", "beat")
    write_app(tmp_path, valkey_server.url, SCHEDULE, leader_ttl=2.0, leader_wait=0.2)
    return tmp_path


def test_over_a_takeover_and_a_resignation_it_names_who_leads(
    children: Children, folder: Path, valkey_server: Server
) -> None:
    beats = [Beat(children, folder, name=f"beat {number}") for number in (1, 2, 3)]
    page = WebPage(children, folder, "--allow-actions", token=SECRET)
    first = leader_of(lambda: beats)
    for beat in beats:
        beat.child.wait_for_line("Standing by for" if beat is not first else "Elected", 60)
    wait_until(lambda: f":{first.pid}:" in page.leaders(), 30, page.leaders)
    first.kill()
    second = leader_of(lambda: beats, other_than=first)
    wait_until(lambda: f":{second.pid}:" in page.leaders(), 30, page.leaders)
    shown = page.ask("/").text
    assert "fell silent: crashed, hung or was cut off" in shown
    assert re.search(r'class="name">tick</th>\s*<td class="moment">', shown)
    (third,) = (beat for beat in beats if beat not in (first, second))
    answer = page.order("resign", by="ann")
    assert answer.code == 200, answer.text
    assert f":{third.pid}:" in json.loads(answer.text)["message"]
    assert f":{third.pid}:" in page.leaders()
    assert "resigned on request" in page.ask("/").text
    assert page.order("resign", token="another-token-of-some").code == 403
    assert page.ask("/", Host="evil.example.com").code == 400
    valkey_server.kill()
    answer = page.ask("/")
    assert (answer.code, "Redis does not answer" in answer.text) == (503, True), answer.text
    page.child.signal(signal.SIGTERM)
    assert page.child.wait(30) == 0
    assert SECRET not in page.child.output
    assert "Traceback" not in page.child.output


def serve(children: Children, *words: str, script: str = "") -> Child:
    url = f"redis://ann:hunter2@127.0.0.1:{free_port()}/0"
    command = ["--url", url, "--key", "shop", "web", *words]
    if script:
        return children.python(script, *command, name="web")
    return children.module("celery_safe_leader", *command, name="web")


def test_what_is_wrong_is_said_at_once(children: Children, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("too short\n")
    blocked = (
        "import sys; sys.modules['waitress.server'] = None\n"
        "from celery_safe_leader.__main__ import main; main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for child, said in (
            (serve(children, "--port", port), "Address already in use"),
            (serve(children, "--token-file", str(token)), "of no use without --allow-actions"),
            (
                serve(children, "--allow-actions", "--token-file", str(token)),
                "--token-file holds no token: 16 to 512",
            ),
            (
                serve(children, "--allow-actions", "--token-file", str(tmp_path / "none")),
                "No such file",
            ),
            (
                serve(children, script=blocked),
                'pip install ".[web]" in a checkout of celery-safe-leader',
            ),
        ):
            assert child.wait(60) == 2, child.output
            assert said in " ".join(child.output.split())
            assert "Traceback" not in child.output
            assert "hunter2" not in child.output


def test_a_token_is_made_and_said_once(children: Children) -> None:
    child = serve(children, "--port", "0", "--allow-actions", "--host", "0.0.0.0")  # noqa: S104
    line = child.wait_for_line("is not shown again", 60).text
    token = line.rpartition(" ")[2]
    assert re.fullmatch(r"[\w-]{32}", token)
    assert child.output.count(token) == 1
    assert "hunter2" not in child.output
    assert "It has no login" in child.output
    child.signal(signal.SIGINT)
    assert child.wait(30) == 0, child.output
