"""``leader history``: tenures, gaps and pauses, as a table, as JSON and as a picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader import DemotionReason, create_safe_redis_leader
from celery_safe_leader._operations.tenure_history import Ended, PastTenure
from celery_safe_leader._operations.timeline import Timeline, draw
from tests.integration.operations.commands import HOSTILE, Found, Keeper, invoke
from tests.support.network.ports import free_port
from tests.support.servers import ExternalServer

T = 1_790_000_000_000
"""A token."""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def keeper(shared_server: ExternalServer, key: str) -> Keeper:
    return Keeper(shared_server, key)


@pytest.fixture
def history(shared_server: ExternalServer, key: str) -> Callable[..., Found]:
    return lambda *words: invoke(shared_server.url, key, "history", *words)


def tell_a_day(keeper: Keeper) -> None:
    """A crash, a handover, somebody who stood down, and a pause; the last one leads."""
    now = keeper.now_us()

    def tell(event: str, ago: float, token: int, holder: str, reason: str = "") -> None:
        at = now // 1000 - round(ago * 1000)
        keeper.tell(event, token=token, holder=holder, reason=reason, at=at)

    tell("elected", 5000, T, "web-1:1:a")
    tell("elected", 3490, T + 1, "web-2:2:b", f"silent:{now - 3_500_000_000}")
    tell("resigned", 2000, T + 1, "web-2:2:b", "shutdown")
    tell("elected", 1999.5, T + 2, "web-1:3:c")
    tell("paused", 1500, T + 2, "ann@desk", "upgrade")
    tell("resumed", 1200, T + 2, "ann@desk")
    tell("resigned", 600, T + 2, "web-1:3:c", "stood_down:broker")
    tell("elected", 590, T + 3, "web-2:4:d")
    tell("restored", 300, T + 3, "web-2:4:d")
    keeper.write(holder="web-2:4:d", token=T + 3)


def test_each_tenure_says_why_it_ended_and_how_long_nobody_led(
    keeper: Keeper, history: Callable[..., Found]
) -> None:
    tell_a_day(keeper)
    found = history("--json")
    assert found.code == 0
    (election,) = found.json["elections"]
    tenures = election["tenures"]
    assert [each["token"] - T for each in tenures] == [0, 1, 2, 3]
    assert [each["ended"] for each in tenures] == ["silence", "handover", "stood-down", "not"]
    assert [each["reason"] for each in tenures] == [None, "shutdown", "broker", None]
    gaps = [each["gap"] for each in tenures]
    assert gaps == [pytest.approx(10, abs=0.002), 0.5, 10.0, None]
    assert tenures[-1]["to"] is None
    (pause,) = election["pauses"]
    assert (pause["by"], pause["reason"]) == ("ann@desk", "upgrade")
    assert pause["from"] < pause["to"]
    shown = history().output
    assert "fell silent: crashed, hung or was cut off" in shown
    assert "stood down (broker)" in shown
    assert "leads, as far as is known" in shown
    assert re.search(r"paused from .* to .* UTC by ann@desk: upgrade", shown)


def test_an_older_release_tells_less(keeper: Keeper, history: Callable[..., Found]) -> None:
    """It does not say when the one before fell silent."""
    keeper.tell("elected", ago=50, token=T)
    keeper.tell("elected", ago=40, token=T + 1)
    (election,) = history("--json").json["elections"]
    first, last = election["tenures"]
    assert (first["ended"], first["to"], first["gap"]) == ("silence", None, None)
    assert (last["ended"], last["to"], last["gap"]) == ("unknown", None, None)


@pytest.mark.parametrize(
    ("fields", "silent_for", "ended", "has_end"),
    [
        ({}, 0.0, "not", False),
        ({}, 100.0, "silence", True),
        ({}, 40.0, "unknown", False),
        ({"token": T + 1}, 0.0, "unknown", False),
    ],
)
def test_how_the_last_one_ended_is_in_the_record(
    keeper: Keeper, history: Callable[..., Found],
    fields: dict[str, Any], silent_for: float, ended: str, has_end: bool,
) -> None:  # fmt: skip
    keeper.tell("elected", ago=200, token=T)
    keeper.write(silent_for=silent_for, **{"token": T, **fields})
    (election,) = history("--json").json["elections"]
    (tenure,) = election["tenures"]
    assert (tenure["ended"], tenure["to"] is not None) == (ended, has_end)


def test_what_was_cut_off_begins_with_nobody_knows_when(
    keeper: Keeper, history: Callable[..., Found]
) -> None:
    keeper.tell("resigned", ago=20, token=T)
    keeper.tell("restored", ago=10, token=T + 1)
    (election,) = history("--json").json["elections"]
    assert [each["from"] for each in election["tenures"]] == [None, None]
    assert history().code == 0


def test_since_keeps_whatever_lasted_until_then(
    keeper: Keeper, history: Callable[..., Found]
) -> None:
    tell_a_day(keeper)
    for since, count in (("2h", 4), ("50m", 3), ("15m", 2), ("1s", 1)):
        (election,) = history("--json", "--since", since).json["elections"]
        assert len(election["tenures"]) == count, since


def test_nobody_has_led(history: Callable[..., Found], tmp_path: Path) -> None:
    found = history("--svg", str(tmp_path / "a.svg"))
    assert (found.code, "Nobody has led" in found.output) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_and_a_file_that_cannot_be_written(
    keeper: Keeper, history: Callable[..., Found], tmp_path: Path
) -> None:
    assert invoke(f"redis://127.0.0.1:{free_port()}/0", "shop", "history").code == 2
    tell_a_day(keeper)
    found = history("--svg", str(tmp_path / "none" / "a.svg"))
    assert found.code == 1
    assert "cannot be written: No such file or directory" in found.output


def test_the_picture_tells_endings_apart_by_shape(
    keeper: Keeper, history: Callable[..., Found], tmp_path: Path
) -> None:
    tell_a_day(keeper)
    svg, page = tmp_path / "a.svg", tmp_path / "a.html"
    assert history("--svg", str(svg), "--html", str(page)).code == 0
    root = ElementTree.parse(svg).getroot()  # noqa: S314
    groups = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}rect[@class='bar']") is not None]
    marks = {g.find(f"{SVG}path").get("class"): g.find(f"{SVG}path").get("d") for g in groups}  # type: ignore[union-attr]
    assert set(marks) == {"silence", "handover", "stood-down", "not"}
    assert len(set(marks.values())) == 4
    # Each gap that can be seen, over all lanes: after the crash, and after who stood down.
    gaps = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}rect[@class='gap']") is not None]
    titled = [g.findtext(f"{SVG}title") for g in gaps if g.find(f"{SVG}title") is not None]
    assert titled == ["nobody led for 10.0 s", "nobody led for 10.0 s"]
    text = page.read_text()
    assert "<svg" in text
    assert "stood down (broker)" in text
    assert not re.search(r"(?:src|href)=|@import|url\((?!#)", text), "it fetches nothing"


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_shown_as_text(
    keeper: Keeper, history: Callable[..., Found], tmp_path: Path, text: str
) -> None:
    keeper.tell("elected", ago=9, token=T, holder=text)
    keeper.tell("paused", ago=8, token=T, holder=text, reason=text, until="x" * 40)
    keeper.tell("resigned", ago=7, token=T, holder=text, reason=text)
    keeper.tell(text, ago=6, token=text, at=text)
    svg, page = tmp_path / "a.svg", tmp_path / "a.html"
    for words in ((), ("--json",), ("--svg", str(svg), "--html", str(page))):
        found = history(*words)
        assert found.code == 0
        assert "\x1b" not in found.output
    assert len(history().lines) == 3
    ElementTree.parse(svg)  # noqa: S314
    for file in (svg, page):
        assert "\x1b" not in file.read_text()
        assert "<script" not in file.read_text()


def test_real_tenures(shared_server: ExternalServer, key: str) -> None:
    """A handover and a takeover after a silence, by candidates of the library."""
    terms: dict[str, Any] = {"redis": shared_server.url, "key": key, "ttl": 1.0, "wait": 0.1}
    with create_safe_redis_leader(**terms) as one:
        first = one.wait_until_leader(60)
    silent = create_safe_redis_leader(**terms)
    silent.elect()
    second = silent.wait_until_leader(60)
    # As after a crash: it renews no more, and resigns nothing.
    silent._candidate.abandon(DemotionReason.SHUTDOWN)
    with create_safe_redis_leader(**terms) as three:
        third = three.wait_until_leader(60)
        (election,) = invoke(shared_server.url, key, "history", "--json").json["elections"]
    tenures = election["tenures"]
    assert [each["token"] for each in tenures] == [first, second, third]
    assert [each["ended"] for each in tenures] == ["handover", "silence", "not"]
    assert tenures[1]["to"] >= tenures[1]["from"]
    assert tenures[1]["gap"] >= 1.0, "nobody takes over before the lease is over"
    silent.shutdown()


def test_ids_that_begin_alike_and_the_last_tick_can_be_read() -> None:
    pods = [f"orders-beat-in-production-7f9c5d8b6-x2x9{n}:1:0123abcd" for n in "kz"]
    led = [PastTenure(pod, 1, 0, 40_000_000, Ended.HANDOVER, "", 40_000_000) for pod in pods]
    root = ElementTree.fromstring(draw(Timeline("who", led, [], 0, 40_000_000)))  # noqa: S314
    texts = [each for each in root.iter(f"{SVG}text") if each.text or len(each)]
    labels = ["".join(each.itertext()) for each in texts if each.find(f"{SVG}title") is not None]
    shown = [label.removeprefix(pod) for label, pod in zip(labels, pods, strict=True)]
    assert shown[0] != shown[1]
    assert max(map(len, shown)) <= 26
    ticks = [each for each in texts if each.text and re.fullmatch(r"\d\d:\d\d:\d\d", each.text)]
    assert [each.get("text-anchor") for each in ticks] == [*["middle"] * (len(ticks) - 1), "end"]
