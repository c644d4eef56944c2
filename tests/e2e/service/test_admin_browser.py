"""The page of Django's admin in a real Chromium: live, with its buttons, in light and dark."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from django import VERSION

from tests.e2e.service.browser import Browser, open_browser
from tests.e2e.service.test_health import SCHEDULE
from tests.integration.django.site import PAGE
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.network.ports import free_port
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

SITE = """
import sys
from wsgiref.simple_server import make_server
from celery import Celery
from tests.integration.django import site

site.set_up()
site.app = Celery("shop", broker=sys.argv[1], set_as_current=False)

from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

User.objects.create_superuser("ann", password="x")
app = StaticFilesHandler(get_wsgi_application())
make_server("127.0.0.1", int(sys.argv[2]), app).serve_forever()
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as found:
        yield found


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_it_is_live_and_its_buttons_act(
    children: Children, tmp_path: Path, valkey_server: Server, browser: Browser
) -> None:
    leave_resigned(valkey_server.url, "shop", "beat")
    write_app(tmp_path, valkey_server.url, SCHEDULE, leader_ttl=2.0, leader_wait=0.2)
    beats = [Beat(children, tmp_path, name=f"beat {number}") for number in (1, 2)]
    first = leader_of(lambda: beats, 60)
    (second,) = (beat for beat in beats if beat is not first)
    second.wait_standing_by()
    port = free_port()
    site = children.python(SITE, valkey_server.url, str(port))
    wait_until(lambda: answers(port), 60, lambda: site.output)
    driver = browser.driver
    driver.get(f"http://127.0.0.1:{port}{PAGE}")
    driver.find_element("name", "username").send_keys("ann")
    driver.find_element("name", "password").send_keys("x")
    driver.find_element("css selector", "input[type=submit]").click()

    def shows(text: str, where: str = "content") -> None:
        wait_until(lambda: text in browser.text(where), 60, lambda: browser.text(where))

    shows(f"led by {_of(first)}")
    browser.run("window.mark = 'the same page'")
    first.kill()
    shows(f"led by {_of(second)}")
    assert browser.run("return window.mark") == "the same page"
    assert _of(second) in browser.run("return document.getElementById('leaders').textContent"), (
        "who cannot see it is told"
    )
    for dark in (False, True):
        for width in (390, 1280):
            browser.look(width=width, dark=dark)
            assert browser.width_needed() <= width
            assert [each for each in browser.accessibility() if not is_django_s(each)] == []

    def press(action: str) -> None:
        # The old page shows what was done too, while the new one is on its way.
        browser.run("window.mark = 'the old page'")
        driver.find_element("css selector", f"button[value={action}]").click()
        wait_until(lambda: browser.run("return window.mark") != "the old page", 60, "a new page")

    driver.find_element("name", "reason").send_keys("a move")
    press("pause")
    wait_until(lambda: "PAUSED" in driver.page_source, 60, lambda: driver.page_source)
    assert "ann (Django admin)" in driver.page_source
    press("resume")
    wait_until(lambda: "is resumed" in driver.page_source, 60, lambda: driver.page_source)
    press("resign")
    wait_until(lambda: "resigned after" in driver.page_source, 60, lambda: driver.page_source)
    assert "Traceback" not in site.output


def is_django_s(finding: str) -> bool:
    """Whether it is of the admin of Django 4.2: its blue for buttons, and its head."""
    return VERSION < (5,) and ("#79aec8" in finding or finding.startswith("meta-viewport"))


def _of(beat: Beat) -> str:
    return f"{socket.gethostname()}:{beat.pid}:"
