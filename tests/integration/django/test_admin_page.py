"""The page "Leader election" of Django's admin: who sees what, and who may do what."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from celery import Celery

from tests.integration.django.site import PAGE
from tests.integration.operations.commands import HOSTILE
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.integration.operations.test_page_view import MOMENT, TOKEN, write_claim, write_runs
from tests.support.network.ports import free_port
from tests.support.servers import Server
from tests.support.servers.rights import printed, user_with

User = Callable[..., Any]
PAUSED = "<strong>PAUSED</strong>"


class Text(HTMLParser):
    """What a page says, and of which tags it consists."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def shown(answer: Any) -> str:
    return html.unescape(answer.content.decode())


def look_anew() -> None:
    """Forget what was read within this second, and by whom."""
    from celery_safe_leader._django import admin_page

    admin_page._readers.clear()


@pytest.fixture
def crowd(quick_server: Server, key: str) -> Crowd:
    crowd = Crowd(quick_server, key)
    crowd.write()
    return crowd


def test_all_that_is_known_is_shown(crowd: Crowd, user: User, key: str) -> None:
    write_runs(crowd.client, key, "poll", "report")
    write_claim(crowd.client, key, "poll", MOMENT + 1_000_000)
    crowd.say(HOLDER, token=TOKEN, work={"published": 12}, scheduler="LeaderScheduler")
    crowd.say("b:7:x", ago=2.0, error="no answer from Redis", error_age=4.0)
    crowd.tell("elected", ago=60, token=TOKEN)
    crowd.tell("paused", ago=30, holder="ann", reason="move", token=TOKEN)
    crowd.tell("resumed", ago=20, holder="bob", token=TOKEN)
    answer = user("view_leader").get(PAGE)
    assert answer.status_code == 200
    text = shown(answer)
    for each in ("Leader election", HOLDER, "b:7:x", "no answer from Redis", "poll", "report",
                 "task-of-poll", "ann", "move", "bob", "1 standby"):  # fmt: skip
        assert each in text, each
    assert "<svg" in answer.content.decode(), "the timeline is a picture"
    live = user("view_leader").get(PAGE, {"live": "1"})
    assert (HOLDER in shown(live), "<html" in shown(live)) == (True, False)


def test_who_is_not_logged_in_is_sent_to_the_login(app: Celery) -> None:
    from django.test import Client

    for answer in (Client().get(PAGE), Client().post(PAGE, {"action": "pause"})):
        assert answer.status_code == 302
        assert answer["Location"].startswith("/admin/login/")


def test_staff_without_the_permission_sees_nothing(crowd: Crowd, user: User) -> None:
    for client in (user(), user("act_leader")):
        assert client.get(PAGE).status_code == 403
        assert client.post(PAGE, {"action": "pause"}).status_code == 403
    assert user("view_leader", staff=False).get(PAGE).status_code == 302
    assert PAGE not in shown(user().get("/admin/"))
    assert PAGE in shown(user("view_leader").get("/admin/"))


def test_who_may_only_view_has_no_buttons_and_can_do_nothing(
    crowd: Crowd, user: User, key: str
) -> None:
    write_runs(crowd.client, key, "poll")
    client = user("view_leader")
    assert 'name="action"' not in shown(client.get(PAGE))
    assert client.post(PAGE, {"action": "pause"}).status_code == 403
    assert "PAUSED" not in shown(client.get(PAGE))


def test_who_may_act_pauses_and_resumes_and_is_named(crowd: Crowd, user: User, key: str) -> None:
    write_runs(crowd.client, key, "poll")
    client = user("view_leader", "act_leader")
    page = shown(client.get(PAGE))
    assert [page.count(f'value="{each}"') for each in ("pause", "resume", "resign")] == [1, 1, 1]
    words = {"action": "pause", "for": "15m", "reason": "a move"}
    answer = client.post(PAGE, words, follow=True)
    assert answer.redirect_chain == [(PAGE, 302)]
    text = shown(answer)
    assert "is PAUSED until" in text
    assert f"{client.name} (Django admin)" in text
    assert "a move" in text
    assert PAUSED in text
    text = shown(client.post(PAGE, {"action": "resume"}, follow=True))
    assert PAUSED not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"action": "resign", "role": "beat", "to": "nobody"}, "No candidate nobody takes part"),
        ({"action": "resign", "role": "<b>"}, "allowed are beat and worker"),
        ({"action": "pause", "for": "soon"}, "is not a length of time"),
        ({"action": "pause", "reason": "x" * 999}, "at most 200 fit"),
        ({"action": "drop"}, "allowed are pause, resume, resign"),
        ({}, "allowed are pause, resume, resign"),
    ],
)
def test_what_is_wrong_or_impossible_is_said(
    crowd: Crowd, user: User, key: str, words: dict[str, str], said: str
) -> None:
    write_runs(crowd.client, key, "poll")
    answer = user("view_leader", "act_leader").post(PAGE, words, follow=True)
    assert answer.status_code == 200
    found = re.findall(r'class="(?:success|error)">([^<]*)', answer.content.decode())
    assert said in html.unescape("".join(found))
    assert "<b>" not in answer.content.decode()


def test_an_action_without_the_token_of_its_form_is_refused(
    crowd: Crowd, user: User, key: str
) -> None:
    write_runs(crowd.client, key, "poll")
    client = user("view_leader", "act_leader", enforce_csrf_checks=True)
    page = client.get(PAGE).content.decode()
    assert client.post(PAGE, {"action": "pause"}).status_code == 403
    assert PAUSED not in shown(client.get(PAGE))
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found is not None
    words = {"action": "pause", "csrfmiddlewaretoken": found[1]}
    assert client.post(PAGE, words).status_code == 302
    assert PAUSED in shown(client.get(PAGE))


@pytest.mark.parametrize("text", [*HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7|add:7 }}"])
def test_any_text_is_text(crowd: Crowd, user: User, key: str, text: str) -> None:
    client = user("view_leader", "act_leader")
    usual = set(Text(client.get(PAGE, {"search": "x"}).content.decode()).tags)
    write_runs(crowd.client, key, text)
    write_claim(crowd.client, key, text, MOMENT + 1_000_000)
    crowd.write(holder=text)
    crowd.say(text, token=TOKEN, error=text, error_age=1.0, node=text, host=text)
    crowd.say(f"{text} too", error=text, error_age=1.0, node=text, host=text)
    crowd.tell("elected", ago=60, token=TOKEN, holder=text)
    crowd.tell("paused", ago=30, holder=text, reason=text)
    crowd.tell(text, ago=20, holder=text, reason=text)
    look_anew()
    answer = client.get(PAGE, {"search": text[:150]} if text.isprintable() else {})
    page = Text(answer.content.decode())
    pictures = {"svg", "g", "rect", "line", "path", "text", "title", "defs", "pattern", "circle"}
    tables = {"table", "thead", "tbody", "tr", "th", "td", "details", "summary", "br", "small"}
    assert set(page.tags) - usual <= pictures | tables | {"option", "ul", "li", "h3", "select"}
    assert (
        page.tags.count("script")
        == Text(client.get("/admin/").content.decode()).tags.count("script") + 1
    )
    assert not any(each in answer.content.decode() for each in "\x1b\x07")


def test_a_redis_that_is_away_is_named(
    app: Celery, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    app.conf.leader_url = f"redis://:secret@127.0.0.1:{port}/3"
    client = user("view_leader", "act_leader")
    for answer in (client.get(PAGE), client.get(PAGE, {"live": "1"})):
        assert answer.status_code == 503
        assert "Redis does not answer" in shown(answer)
        assert f"127.0.0.1:{port}/3" in shown(answer)
        assert "secret" not in shown(answer)
    assert "Log out" in shown(client.get(PAGE)), "inside the admin's frame"
    assert 'name="action"' not in shown(client.get(PAGE))
    after = client.post(PAGE, {"action": "resume"}, follow=True)
    assert f"127.0.0.1:{port}/3" in shown(after)


def test_a_right_that_is_missing_is_named(
    app: Celery, user: User, valkey_server: Server, key: str
) -> None:
    crowd = Crowd(valkey_server, key)
    crowd.write()
    write_runs(crowd.client, key, "poll")
    viewer = next(words for words in printed(key) if b"celery-leader-viewer" in words)
    app.conf.leader_url = user_with(valkey_server, viewer)
    client = user("view_leader", "act_leader")
    answer = client.get(PAGE)
    assert (answer.status_code, HOLDER in shown(answer)) == (200, True)
    # A viewer of Redis may not pause, whatever Django permits.
    text = shown(client.post(PAGE, {"action": "pause"}, follow=True))
    assert "leader acl" in text
    assert PAUSED not in text
    app.conf.leader_url = user_with(valkey_server, viewer, without="hmget", name="nearly")
    look_anew()
    answer = client.get(PAGE)
    assert answer.status_code in (200, 503)
    assert "hmget" in shown(answer)
    assert "leader acl" in shown(answer)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("leader_ttl", -1, "leader_ttl is -1"),
        ("leader_tttl", 3, "did you mean leader_ttl"),
    ],
)
def test_a_wrong_setting_is_named(
    app: Celery, user: User, setting: str, value: Any, said: str
) -> None:
    setattr(app.conf, setting, value)
    answer = user("view_leader").get(PAGE)
    assert answer.status_code == 503
    assert "A setting is wrong" in shown(answer)
    assert said in shown(answer)


@pytest.mark.parametrize("path", ["no.such.app", "tests.integration.django.site.PAGE", 7])
def test_an_app_that_is_none_is_named(
    user: User, path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.conf import settings

    client = user("view_leader", "act_leader")
    monkeypatch.setattr(settings, "SAFE_LEADER_APP", path)
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert f"SAFE_LEADER_APP is {path!r}" in shown(answer)
    assert "SAFE_LEADER_APP" in shown(client.post(PAGE, {"action": "pause"}, follow=True))


def test_nothing_is_in_the_database_but_permissions(app: Celery) -> None:
    from django.contrib.auth.models import Permission
    from django.core.management import call_command
    from django.db import connection

    assert "celery_safe_leader_leader" not in connection.introspection.table_names()
    found = Permission.objects.filter(content_type__app_label="celery_safe_leader")
    assert {each.codename for each in found} == {"view_leader", "act_leader"}
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    call_command("dumpdata", "celery_safe_leader", verbosity=0, output="/dev/null")
