"""Which messages a worker drops, by their headers and by the answer. No server."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from celery_safe_leader._ledger.acceptance import Acceptance, AcceptanceOutcome
from celery_safe_leader._publishing.headers import ONCE
from celery_safe_leader._worker.dedup.duplicate_filter import DuplicateFilter

HEADERS = {
    "task": "shop.work", "id": "run-1", "retries": 0, "leader_election": "shop",
    "leader_occurrence": "run-1", "leader_publication": "second",
}  # fmt: skip


class Inquirer:
    """Gives one answer."""

    def __init__(self, answer: Acceptance | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, ...]] = []

    def ask(self, *question: str) -> Acceptance | None:
        self.asked.append(question)
        return self.answer


class Events:
    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


class FilterHarness:
    """A gate, what it asked, and what it acknowledged."""

    def __init__(self, outcome: AcceptanceOutcome | None, events: Events | None = None) -> None:
        answer = None if outcome is None else Acceptance(outcome, "first")
        self.inquirer = Inquirer(answer)
        self.consumer = SimpleNamespace(connection_errors=(OSError,), event_dispatcher=events)
        self.gate = DuplicateFilter(self.consumer, cast(Any, self.inquirer))
        self.acknowledged: list[tuple[Any, ...]] = []

    def drops(self, headers: dict[str, Any], body: Any = None) -> bool:
        message = SimpleNamespace(headers=headers)
        return self.gate.drops(message, body, lambda *given: self.acknowledged.append(given))


def test_another_publication_is_acknowledged_logged_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events(enabled=True)
    stage = FilterHarness(AcceptanceOutcome.OTHER, events)
    assert stage.drops(HEADERS)
    assert stage.inquirer.asked == [("shop", "run-1", "second")]
    assert [given[1] for given in stage.acknowledged] == [(OSError,)]
    assert stage.gate.dropped == 1
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "celery_safe_leader.worker")
    assert record.getMessage() == (
        "Dropped a second publication of periodic run run-1 (task shop.work, election shop): "
        "publication first was accepted before this one, second"
    )
    fields = {
        "uuid": "run-1", "name": "shop.work", "election": "shop", "occurrence": "run-1",
        "publication": "second", "accepted": "first",
    }  # fmt: skip
    assert events.sent == [("leader-duplicate-dropped", fields)]


@pytest.mark.parametrize("events", [None, Events(enabled=False)])
def test_without_events_none_is_sent(events: Events | None) -> None:
    stage = FilterHarness(AcceptanceOutcome.OTHER, events)
    assert stage.drops(HEADERS)
    assert events is None or events.sent == []


@pytest.mark.parametrize("outcome", [AcceptanceOutcome.FIRST, AcceptanceOutcome.SAME])
def test_the_first_publication_passes_however_often_it_comes(outcome: AcceptanceOutcome) -> None:
    stage = FilterHarness(outcome)
    assert not stage.drops(HEADERS)
    assert (stage.gate.passed, stage.gate.dropped, stage.acknowledged) == (1, 0, [])


def test_without_an_answer_it_passes() -> None:
    stage = FilterHarness(None)
    assert not stage.drops(HEADERS)
    assert (stage.gate.unchecked, stage.gate.passed, stage.acknowledged) == (1, 0, [])


@pytest.mark.parametrize("retries", [1, 7])
def test_retries_pass_unasked(retries: int) -> None:
    stage = FilterHarness(AcceptanceOutcome.OTHER)
    assert not stage.drops({**HEADERS, "retries": retries})
    assert not stage.drops(HEADERS, {"task": "shop.work", "retries": retries})
    assert stage.inquirer.asked == []


@pytest.mark.parametrize("outcome", [AcceptanceOutcome.OTHER, None])
def test_the_only_publication_of_a_run_passes_unasked(outcome: AcceptanceOutcome | None) -> None:
    stage = FilterHarness(outcome)
    headers = {**HEADERS, "leader_publication": f"{ONCE}5f3a"}
    assert not stage.drops(headers)
    assert not stage.drops(headers, {"task": "shop.work", "retries": 0})
    assert (stage.inquirer.asked, stage.acknowledged) == ([], [])
    assert (stage.gate.once, stage.gate.passed, stage.gate.unchecked) == (2, 0, 0)


@pytest.mark.parametrize("nonce", ["5f3a", "once", "Once-5f3a", " once-5f3a", "x-once-5f3a"])
def test_every_other_nonce_asks(nonce: str) -> None:
    stage = FilterHarness(AcceptanceOutcome.OTHER)
    assert stage.drops({**HEADERS, "leader_publication": nonce})
    assert stage.inquirer.asked == [("shop", "run-1", nonce)]


def test_what_marks_the_only_publication_is_part_of_the_wire_contract() -> None:
    assert ONCE == "once-"


def test_protocol_1_keeps_task_and_id_in_the_body(caplog: pytest.LogCaptureFixture) -> None:
    events = Events(enabled=True)
    stage = FilterHarness(AcceptanceOutcome.OTHER, events)
    headers = {name: text for name, text in HEADERS.items() if name.startswith("leader_")}
    assert stage.drops(headers, {"task": "shop.work", "id": "run-1", "retries": 0})
    assert "(task shop.work, election shop)" in caplog.text
    assert events.sent[0][1]["uuid"] == "run-1"


@pytest.mark.parametrize("name", ["leader_election", "leader_occurrence", "leader_publication"])
@pytest.mark.parametrize("value", [None, "", 7, b"bytes", ["list"], {}])
def test_headers_that_are_not_ours_are_none_of_our_business(name: str, value: object) -> None:
    stage = FilterHarness(AcceptanceOutcome.OTHER)
    assert not stage.drops({**HEADERS, name: value})
    missing = {each: text for each, text in HEADERS.items() if each != name}
    assert not stage.drops(missing)
    assert stage.inquirer.asked == []
