"""Metrics for Prometheus: counts and views of a process, in the form that Prometheus reads.

The names follow its rules, and ``docs/operations/monitoring.md`` lists them. Only this module uses
``prometheus_client``, and only when it is asked for metrics: with a registry of its own, so that
metrics of the user's own are neither shown nor disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from celery_safe_leader._runtime.service.counts import Distribution, ElectionCounts
from celery_safe_leader._runtime.service.http_server import HttpAnswer
from celery_safe_leader._runtime.service.process_health import ProcessHealth

__all__ = ["Family", "Source", "counter", "distribution", "election_families", "gauge", "page"]

PREFIX = "celery_safe_leader_"
_HOW = 'to have metrics, pip install ".[prometheus]" in a checkout of celery-safe-leader'

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, with its values."""

    kind: str
    """``gauge``, ``counter`` or ``histogram``."""
    name: str
    """Without the prefix, and of counters without ``_total``."""
    help: str
    values: tuple[tuple[Labels, Any], ...]


Source = Callable[[], Iterable[Family]]
"""Returns metrics. Reads what others count: no IO, no lock."""


def gauge(name: str, help: str, value: float | None) -> Family:
    """Return a metric that goes up and down; without a value if it is not known."""
    return Family("gauge", name, help, () if value is None else (((), value),))


def counter(name: str, help: str, value: float | Mapping[str, float], label: str = "") -> Family:
    """Return a metric that only rises, of one value or of one for each value of a label."""
    if not isinstance(value, Mapping):
        return Family("counter", name, help, (((), value),))
    values = tuple((((label, key),), each) for key, each in sorted(dict(value).items()))
    return Family("counter", name, help, values)


def distribution(name: str, help: str, value: Distribution) -> Family:
    """Return a histogram."""
    return Family("histogram", name, help, (((), value),))


def election_families(health: ProcessHealth, counts: ElectionCounts | None) -> Iterator[Family]:
    """Return the metrics of a candidate."""
    held = health.leading()
    yield gauge("is_leader", "Whether this process leads, by its own clock.", held is not None)
    yield gauge(
        "lease_remaining_seconds",
        "Seconds that the lease lasts at least, unless renewed.",
        held.remaining if held else 0.0,
    )
    token = None if held is None else held.token
    yield gauge("fencing_token", "Token of the tenure; absent on standby.", token)
    yield gauge(
        "ready", "Whether this process could take over, or leads.", not health.why_unready()
    )
    counts = counts or ElectionCounts()
    yield counter("tenures", "Times that this process was elected.", counts.tenures)
    yield counter("demotions", "Tenures that ended, by reason.", counts.demotions, "reason")
    yield counter(
        "stood_down", "Tenures given up for inability, by cause.", counts.stood_down, "cause"
    )
    yield counter(
        "redis_errors", "Requests of the election without a usable answer.", counts.redis_errors
    )
    yield distribution("renewal_seconds", "Seconds that a renewal took.", counts.renewals)


def page(health: ProcessHealth, sources: Iterable[Source]) -> Callable[[], HttpAnswer]:
    """Return what answers ``/metrics``."""
    listed = tuple(sources)

    def answer() -> HttpAnswer:
        try:
            import prometheus_client
            from prometheus_client import core
        except ImportError:
            return HttpAnswer(HTTPStatus.NOT_IMPLEMENTED, f"{_HOW}\n".encode(), "text/plain")
        registry = prometheus_client.CollectorRegistry(auto_describe=False)
        registry.register(_Collector(core, health, listed))
        body = prometheus_client.generate_latest(registry)
        return HttpAnswer(HTTPStatus.OK, body, prometheus_client.CONTENT_TYPE_LATEST)

    return answer


class _Collector:
    """Collects once, for one answer."""

    def __init__(self, core: Any, health: ProcessHealth, sources: tuple[Source, ...]) -> None:
        self._core = core
        self._own = (("role", health.role), ("election", health.election))
        self._sources = sources

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        kinds = {
            "gauge": self._core.GaugeMetricFamily,
            "counter": self._core.CounterMetricFamily,
            "histogram": self._core.HistogramMetricFamily,
        }
        for source in self._sources:
            for family in source():
                more = [name for labels, _ in family.values[:1] for name, _ in labels]
                names = [*(name for name, _ in self._own), *more]
                made = kinds[family.kind](PREFIX + family.name, family.help, labels=names)
                for labels, value in family.values:
                    said = [text for _, text in (*self._own, *labels)]
                    if isinstance(value, Distribution):
                        made.add_metric(said, *_buckets(value))
                    else:
                        made.add_metric(said, float(value))
                yield made


def _buckets(value: Distribution) -> tuple[list[tuple[str, int]], float]:
    shown = [
        ("+Inf" if bound == float("inf") else repr(float(bound)), count)
        for bound, count in value.cumulative()
    ]
    return shown, value.sum
