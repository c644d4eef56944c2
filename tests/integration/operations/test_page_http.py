"""The page over HTTP: what is shown, who may act, and what is refused, with a real Redis."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from celery_safe_leader._core.options import Options
from celery_safe_leader._operations.page import page_view
from celery_safe_leader._operations.page.flask_page import make_page
from celery_safe_leader._operations.page.page_actions import act
from celery_safe_leader._operations.page.page_view import PageReader
from celery_safe_leader._schedules.moments import SECOND_US
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader.leader import build_leader
from tests.integration.operations.commands import HOSTILE
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.integration.operations.test_page_view import (
    MOMENT,
    TOKEN,
    target_at,
    write_claim,
    write_runs,
)
from tests.support.network.ports import free_port
from tests.support.processes import wait_until
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import printed, user_with

SECRET = "a-token-of-20-signs-"
HERE = "http://127.0.0.1:8808"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ExternalServer]:
    """One kind of server: what is read there is tested with each."""
    server = Server("valkey").start()
    yield server
    server.close()


@pytest.fixture
def crowd(shared_server: ExternalServer, key: str) -> Crowd:
    crowd = Crowd(shared_server, key)
    crowd.write()
    write_runs(crowd.client, key, "poll")
    return crowd


MakeClient = Callable[..., FlaskClient]


@pytest.fixture
def client_for(shared_server: ExternalServer, key: str) -> MakeClient:
    def make(url: str = shared_server.url, name: str = key, **options: Any) -> FlaskClient:
        return make_page(target_at(url, name), **options).test_client()

    return make


def get(client: FlaskClient, path: str = "/", **more: Any) -> TestResponse:
    return client.get(path, base_url=HERE, buffered=True, **more)


def order(client: FlaskClient, name: str, token: str | None = SECRET, **words: str) -> TestResponse:
    headers = {"X-Leader-Token": token} if token is not None else {}
    return client.post(f"/actions/{name}", base_url=HERE, json=words, headers=headers)


def told(answer: TestResponse) -> str:
    """Return the only thing that an answer to an action says."""
    said: Any = answer.json
    assert set(said) == {"message"}
    return str(said["message"])


class Outline(HTMLParser):
    """The texts and the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (value or "").lower().startswith("javascript:"):
                self.handlers.append(f"{tag} {name}")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_what_is_known(crowd: Crowd, client_for: MakeClient) -> None:
    write_claim(crowd.client, crowd.keys.key, "poll", MOMENT + SECOND_US)
    crowd.say(HOLDER, token=TOKEN, scheduler="LeaderScheduler", work={"published": 12})
    crowd.say("b:7:x", ago=2.0)
    crowd.tell("elected", ago=60, token=TOKEN)
    crowd.tell("resumed", ago=20, holder="ann", reason="moved", token=TOKEN)
    answer = get(client_for())
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    outline = Outline(answer.text)
    assert outline.tags.count("h1") == 1
    assert "svg" in outline.tags
    assert len(outline.ids) == len(set(outline.ids)), "an id stands once"
    text = " ".join(outline.texts)
    for said in (
        f"Beats: {HOLDER}, token {TOKEN}",
        f"led by {HOLDER} (token {TOKEN}, ttl 60 s)",
        "12 runs published",
        "b:7:x",
        "1 standby",
        "poll",
        "2026-09-21 14:13:20",
        "task-of-poll",
        "ann",
        "moved",
    ):
        assert said in text, said
    assert "button" in outline.tags, "of the search"
    assert 'id="act"' not in answer.text


def test_it_fetches_nothing_from_elsewhere_and_runs_nothing_of_its_own(
    crowd: Crowd, client_for: MakeClient
) -> None:
    client = client_for(token=SECRET)
    for path in ("/", "/parts", "/nothing", "/static/page.css", "/static/page.js"):
        answer = get(client, path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers
        found = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", answer.text)
        assert [each for each in found if re.match(r"(?:https?:)?//|data:", each)] == []
    page = get(client).text
    outline = Outline(page)
    assert (outline.tags.count("script"), outline.handlers) == (1, [])
    assert re.search(r"<script src=\"/static/page.js\" defer></script>", page)
    assert not re.search(r"<style|\sstyle=", page), "the policy forbids it"
    for file in re.findall(r"/static/[\w.]+", page):
        assert get(client, file).status_code == 200


@pytest.mark.parametrize("text", HOSTILE)
def test_any_name_is_shown_as_text(
    crowd: Crowd, client_for: MakeClient, shared_server: ExternalServer, key: str, text: str
) -> None:
    write_runs(crowd.client, key, text)
    write_claim(crowd.client, key, text, MOMENT + SECOND_US)
    crowd.write(holder=text)
    crowd.say(text, token=TOKEN, error=text, error_age=1.0, node=text, host=text, scheduler=text)
    crowd.tell("elected", ago=60, token=TOKEN, holder=text)
    crowd.tell("paused", ago=30, holder=text, reason=text)
    crowd.tell("resigned", ago=20, holder=text, reason=f"requested by {text}")
    assert act(target_at(shared_server.url, key), "pause", {"reason": text[:200]}, "").is_done
    client = client_for()
    for path in ("/", "/parts"):
        answer = client.get(path, base_url=HERE, query_string={"search": text})
        assert answer.status_code == 200
        outline = Outline(answer.text)
        assert outline.tags.count("script") == (path == "/")
        assert outline.handlers == []
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", answer.text)
        if text.startswith("<"):
            # As often as it would be a tag, and nowhere raw.
            assert " ".join(outline.texts).count("<script>alert(1)</script>") >= 8
            assert answer.text.count("<script>") == 0


def test_after_a_takeover_the_parts_name_the_new_leader(
    client_for: MakeClient, shared_server: ExternalServer, key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(page_view, "_AT_MOST_EVERY", 0.0)
    client = client_for()

    def said() -> str:
        found = re.search(r'<p id="leaders">(.*?)</p>', get(client, "/parts").text)
        assert found is not None
        return found[1]

    options = Options(30.0, 0.1)
    assert "no record" in said()
    with build_leader(shared_server.url, ElectionKeys(key, BEAT), options, {}) as first:
        first.wait_until_leader(60)
        assert said() == f"Beats: {first.candidate_id}, token {first.fencing_token}"
        with build_leader(shared_server.url, ElectionKeys(key, BEAT), options, {}) as second:
            first.shutdown()
            second.wait_until_leader(60)
            assert said() == f"Beats: {second.candidate_id}, token {second.fencing_token}"
            page = " ".join(Outline(get(client).text).texts)
            assert "handed over" in page
    wait_until(lambda: "resigned" in said(), 10, said)


def test_entries_come_in_pages(crowd: Crowd, client_for: MakeClient, key: str) -> None:
    write_runs(crowd.client, key, *(f"e-{number:04}" for number in range(1500)))
    client, path, seen = client_for(), "/?search=e-", set()
    for _ in range(30):
        text = get(client, path).text
        names = re.findall(r'class="name">(e-\d+)<', text)
        assert len(names) < 700
        seen |= set(names)
        link = re.search(r'id="next-page" href="([^"]+)"', text)
        if link is None:
            break
        path = "/" + link[1].replace("&amp;", "&").partition("#")[0]
    assert len(seen) == 1500
    for odd in ("/?search=" + "x" * 5000, "/?cursor=-1", "/?cursor=99999999999999999999999"):
        assert get(client, odd).status_code == 200


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8808", 200),
        ("[::1]:8808", 200),
        ("localhost", 200),
        ("leader.example.com", 200),
        ("LEADER.example.com:443", 200),
        ("evil.example.com", 400),
        ("127.0.0.1.evil.com", 400),
        ("", 400),
    ],
)
def test_a_page_of_another_name_is_refused(
    crowd: Crowd, client_for: MakeClient, host: str, code: int
) -> None:
    client = client_for(token=SECRET, hosts=["leader.example.com"])
    for path in ("/", "/parts", "/static/page.js"):
        assert get(client, path, headers={"Host": host}).status_code == code, path
    headers = {"Host": host, "X-Leader-Token": SECRET}
    answer = client.post("/actions/resume", headers=headers, json={})
    assert answer.status_code == code


def test_actions_need_to_be_allowed_and_the_token(
    crowd: Crowd, client_for: MakeClient, shared_server: ExternalServer, key: str
) -> None:
    closed, open_ = client_for(), client_for(token=SECRET)
    for name in ("pause", "resume", "resign"):
        for client, token, code in (
            (closed, SECRET, 403),
            (closed, None, 403),
            (closed, "", 403),
            (open_, None, 401),
            (open_, "", 401),
            (open_, SECRET[:-1], 403),
            (open_, SECRET + "x", 403),
            (open_, "wröng", 403),
        ):
            answer = order(client, name, token)
            assert (answer.status_code, answer.mimetype) == (code, "application/json"), token
            assert told(answer)
            assert SECRET not in answer.text
            assert ("WWW-Authenticate" in answer.headers) == (code == 401)
    # Neither in the address nor in a cookie.
    assert order(open_, f"pause?X-Leader-Token={SECRET}&token={SECRET}", None).status_code == 401
    open_.set_cookie("X-Leader-Token", SECRET, domain="127.0.0.1")
    assert order(open_, "pause", None).status_code == 401
    assert PageReader(target_at(shared_server.url, key)).read().pause == ""
    assert crowd.client.llen(crowd.keys.ask) == 0


def test_who_has_the_token_pauses_and_resumes(crowd: Crowd, client_for: MakeClient) -> None:
    client = client_for(token=SECRET)
    assert 'id="act"' in get(client).text
    answer = order(client, "pause", by="ann", reason="<b>move</b>", **{"for": "15m"})
    assert answer.status_code == 200, answer.text
    assert "is PAUSED until" in told(answer)
    text = get(client).text
    assert "<strong>PAUSED</strong>" in text
    assert "by ann" in text
    assert "&lt;b&gt;move&lt;/b&gt;" in text
    answer = order(client, "resume", by="ben")
    assert (answer.status_code, "resumed" in told(answer)) == (200, True)
    assert "<strong>PAUSED</strong>" not in get(client).text
    assert ">ben<" in get(client).text
    assert SECRET not in get(client).text


def test_what_cannot_be_done_is_told(crowd: Crowd, client_for: MakeClient) -> None:
    client = client_for(token=SECRET)
    for name, words, code in (
        ("pause", {"for": "soon"}, 409),
        ("pause", {"reason": "x" * 201}, 409),
        ("resign", {"role": "cook"}, 409),
        ("resign", {"role": "worker"}, 409),
        ("resign", {"to": "nobody"}, 409),
        ("dance", {}, 404),
    ):
        answer = order(client, name, **words)
        assert (answer.status_code, bool(told(answer))) == (code, True), name
    headers = {"X-Leader-Token": SECRET, "Content-Type": "application/json"}
    for body in ("", "[]", '{"for": 1}', "{", "null"):
        answer = client.post("/actions/pause", base_url=HERE, headers=headers, data=body)
        assert answer.status_code == 400, body
    big = json.dumps({"reason": "x" * 20_000})
    answer = client.post("/actions/pause", base_url=HERE, headers=headers, data=big)
    assert answer.status_code in (400, 413)
    assert "PAUSED" not in get(client).text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_is_only_to_be_read(crowd: Crowd, client_for: MakeClient, method: str) -> None:
    client = client_for(token=SECRET)
    for path in ("/", "/parts", "/static/page.js"):
        answer = client.open(path, base_url=HERE, method=method, buffered=True)
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]
    if method != "POST":
        assert client.open("/actions/pause", base_url=HERE, method=method).status_code == 405
    assert get(client, "/actions/pause").status_code == 405


def test_a_viewer_of_redis_sees_and_cannot_act(
    valkey_server: Server, client_for: MakeClient
) -> None:
    crowd = Crowd(valkey_server, "shop")
    crowd.write()
    write_runs(crowd.client, "shop", "poll")
    viewer = user_with(valkey_server, printed("shop")[1])
    client = client_for(viewer, "shop", token=SECRET)
    assert HOLDER in get(client).text
    for name in ("pause", "resume", "resign"):
        answer = order(client, name)
        assert answer.status_code == 503, answer.text
        assert "permission" in told(answer), answer.text
        assert "pw" not in answer.text
    operator = client_for(user_with(valkey_server, printed("shop")[2]), "shop", token=SECRET)
    assert order(operator, "pause").status_code == 200
    assert order(operator, "resume").status_code == 200


def test_without_rights_or_redis_a_page_says_which(
    valkey_server: Server, client_for: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = user_with(valkey_server, [*printed("shop")[1], b"-hmget", b"-hgetall"])
    port = free_port()
    away = f"redis://ann:hunter2@127.0.0.1:{port}/0"
    for url, said in ((nobody, "A right is missing"), (away, f"127.0.0.1:{port}")):
        client = client_for(url, "shop", token=SECRET)
        for path in ("/", "/parts"):
            answer = get(client, path)
            assert (answer.status_code, said in answer.text) == (503, True), answer.text
            assert 'id="problem"' in answer.text
            assert not re.search("Traceback|hunter2|:pw@", answer.text + caplog.text)
        answer = order(client, "pause")
        assert (answer.status_code, answer.mimetype) == (503, "application/json")
        assert "hunter2" not in answer.text
