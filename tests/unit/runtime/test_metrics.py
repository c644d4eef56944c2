"""Metrics of a process: what is counted, and the form in which it is shown."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from celery_safe_leader._beat.beat_service import pipeline_families, run_families
from celery_safe_leader._core.events import Demoted, DemotionReason, Elected, StoreFailed
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.run_events import RunEvents
from celery_safe_leader._runtime.embedded.pulse import MOST_COUNTS
from celery_safe_leader._runtime.service import metrics
from celery_safe_leader._runtime.service.counts import Distribution, ElectionCounts
from celery_safe_leader._runtime.service.loop_watch import LoopWatch
from celery_safe_leader._runtime.service.process_health import ProcessHealth
from celery_safe_leader._runtime.service.relayed_metrics import pack_families, unpack_families
from tests.docs.pages import page

NOW = Instant(0.0, 0.0, 0.0)
DOCS = "docs/operations/monitoring.md"
OF_WORKERS = {"duplicates_dropped_total", "publications_unchecked_total"}


def health() -> ProcessHealth:
    return ProcessHealth("beat", "shop:beat", 10.0, LoopWatch(10.0))


def scrape(*sources: metrics.Source) -> dict[str, float]:
    """Return the samples of an answer, without the labels that all have."""
    answer = metrics.page(health(), sources)()
    assert (answer.status, answer.kind.startswith("text/plain")) == (200, True)
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("role"), labels.pop("election")) == ("beat", "shop:beat")
            shown = ",".join(labels.values())
            found[sample.name.removeprefix(metrics.PREFIX) + (f"[{shown}]" * bool(shown))] = (
                sample.value
            )
    return found


def counted() -> ElectionCounts:
    counts = ElectionCounts()
    counts.note(Elected(7, NOW))
    counts.note(Demoted(7, DemotionReason.EXPIRED))
    counts.note(StoreFailed(ConnectionError(), 1))
    counts.resigned("stood_down:broker")
    counts.resigned("shutdown")
    counts.renewals.observe(0.003)
    return counts


def test_an_election() -> None:
    found = scrape(lambda: metrics.election_families(health(), counted()))
    assert found["is_leader"] == found["lease_remaining_seconds"] == found["ready"] == 0
    assert "fencing_token" not in found
    assert found["tenures_total"] == found["redis_errors_total"] == 1
    assert found["demotions_total[expired]"] == found["stood_down_total[broker]"] == 1
    assert (found["renewal_seconds_bucket[0.0025]"], found["renewal_seconds_count"]) == (0, 1)
    assert found["renewal_seconds_bucket[0.005]"] == found["renewal_seconds_bucket[+Inf]"] == 1
    assert found["renewal_seconds_sum"] == 0.003


def leading(
    unsettled: int | None = 2, overdue: float | None = 1.5, is_paused: bool | None = True
) -> Dispatcher:
    views = SimpleNamespace(unsettled=unsettled, overdue=overdue, is_paused=is_paused)
    return cast(Dispatcher, views)


def test_runs() -> None:
    events = RunEvents()
    events.counts.arrived(36, "transactional", 0.004)
    events.counts.arrived(1, "write-ahead", -0.001)
    events.missed("e", 7, 3, "too-late")
    events.counts.loads.observe(0.02)
    found = scrape(
        lambda: run_families(events), lambda: pipeline_families(events, 100_000, leading())
    )
    assert found["runs_published_total[transactional]"] == 36
    assert found["runs_published_total[write-ahead]"] == 1
    assert found["runs_missed_total[too-late]"] == 3
    assert found["run_lateness_seconds_bucket[0.001]"] == 1
    assert found["run_lateness_seconds_count"] == 37
    assert found["batch_runs_count"] == 2
    assert (found["entries"], found["unsettled_runs"], found["paused"]) == (100_000, 2, 1)
    assert found["run_overdue_seconds"] == 1.5
    standbys: tuple[Dispatcher | None, ...] = (None, leading(None, None, None))
    for standby in standbys:
        shown = scrape(partial(pipeline_families, events, 5, standby))
        assert not {"unsettled_runs", "paused", "run_overdue_seconds"} & set(shown)


def test_a_distribution_counts_up_to_and_with_each_bound() -> None:
    values = Distribution(1.0, 2.0)
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        values.observe(value)
    assert values.cumulative() == [(1.0, 2), (2.0, 4), (float("inf"), 5)]


def test_without_the_extra_the_answer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = metrics.page(health(), ())()
    told = b'pip install ".[prometheus]" in a checkout of celery-safe-leader'
    assert (answer.status, told in answer.body) == (501, True)


def test_metrics_come_through_bytes_as_they_are() -> None:
    events = RunEvents()
    events.counts.arrived(36, "transactional", 0.004)
    events.missed("e", 7, 3, "too-late")
    families = [*run_families(events), *pipeline_families(events, 5, leading())]
    packed = pack_families(families)
    assert scrape(lambda: unpack_families(packed)) == scrape(lambda: families)
    assert len(packed) < MOST_COUNTS / 2
    for cut in (
        b"",
        packed[:-1],
        b"7",
        b'[["gauge"]]',
        b'[["gauge","n","h",[[[],{"bounds":[]}]]]]',
    ):
        assert unpack_families(cut) == []


def names() -> set[str]:
    """Return the names of all metrics, as Prometheus shows them."""
    events = RunEvents()
    families: list[Any] = [
        *metrics.election_families(health(), counted()),
        *run_families(events),
        *pipeline_families(events, 1, leading()),
    ]
    found = {each.name + ("_total" * (each.kind == "counter")) for each in families}
    return {metrics.PREFIX + name for name in found | OF_WORKERS}


def test_the_docs_list_all_metrics_and_no_other() -> None:
    rows = page(DOCS).rows("metric")
    assert {row[0].strip("`") for row in rows} == names()
