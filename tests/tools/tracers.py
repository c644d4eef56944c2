"""Tools that trace or monitor runs, each with a receiver that keeps what it is told."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.tools.stage import Messages, Seen, ToolStage, headers_of

__all__ = ["TRACERS"]


def sentry(stage: ToolStage) -> Seen:
    """Cron check-ins of beat and worker, and traces; kept by a transport that sends nothing."""
    import sentry_sdk  # type: ignore[import-not-found]
    from sentry_sdk.integrations.celery import CeleryIntegration  # type: ignore[import-not-found]
    from sentry_sdk.transport import Transport  # type: ignore[import-not-found]

    envelopes: list[Any] = []

    class Keeping(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            envelopes.append(envelope)

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Keeping,
        integrations=[CeleryIntegration(monitor_beat_tasks=True)],
        traces_sample_rate=1.0,
    )

    def seen(messages: Messages) -> dict[str, Any]:
        items = [item for envelope in envelopes for item in envelope.items]
        told = [item.payload.json for item in items if item.type == "check_in"]
        begun = [each for each in told if each["status"] == "in_progress"]
        ended = [each for each in told if each["status"] == "ok"]
        headers = Counter(
            name for each in messages for name in headers_of(each) if name.startswith("sentry-")
        )
        ids = {headers_of(each).get("sentry-monitor-check-in-id") for each in messages}
        traces = {
            item.payload.json["contexts"]["trace"]["trace_id"]
            for item in items
            if item.type == "transaction"
        }
        return {
            "check-ins of beat, one for each message": len(begun) - len(messages),
            "check-ins of the worker, one for each message": len(ended) - len(messages),
            "of other kinds": len(told) - len(begun) - len(ended),
            "of": sorted({each["monitor_slug"] for each in told}),
            "ids of beat in headers": ids == {each["check_in_id"] for each in begun},
            "ids of the worker are beat's": ids == {each["check_in_id"] for each in ended},
            "headers": sorted(name for name, count in headers.items() if count == len(messages)),
            "the worker's traces are those of the messages": traces
            == {headers_of(each)["sentry-trace"].split("-")[0] for each in messages},
        }

    return seen


def opentelemetry(stage: ToolStage) -> Seen:
    """A span and a trace for each run, with the worker's span in it."""
    from opentelemetry import trace  # type: ignore[import-not-found]
    from opentelemetry.instrumentation.celery import CeleryInstrumentor  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace import TracerProvider  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # type: ignore[import-not-found]

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()

    def seen(messages: Messages) -> dict[str, Any]:
        return _spans_of(exporter.get_finished_spans(), messages)

    return seen


def datadog(stage: ToolStage) -> Seen:
    """Spans of ``apply_entry`` and ``apply_async``, and of the worker."""
    os.environ["DD_TRACE_STARTUP_LOGS"] = "false"
    os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = "false"
    os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"
    os.environ["DD_CELERY_DISTRIBUTED_TRACING"] = "true"
    import ddtrace  # type: ignore[import-not-found]
    from ddtrace.trace import TraceFilter, tracer  # type: ignore[import-not-found]

    kept: list[Any] = []

    class Keeping(TraceFilter):
        def process_trace(self, spans: list[Any]) -> None:
            kept.extend(spans)

    tracer.configure(trace_processors=[Keeping()])
    ddtrace.patch(celery=True)

    def seen(messages: Messages) -> dict[str, Any]:
        names = Counter(each.name for each in kept)
        sent = [each for each in kept if each.name == "celery.apply"]
        ran = [each for each in kept if each.name == "celery.run"]
        ids = {headers_of(each)["id"] for each in messages}
        return {
            "apply_entry, one for each message": names["celery.beat.apply_entry"] - len(messages),
            "apply_async, one for each message": len(sent) - len(messages),
            "of the same ids": ids == {each.get_tag("celery.id") for each in sent},
            "spans of the worker, one for each message": len(ran) - len(messages),
            "in the traces of beat": {each.trace_id for each in ran}
            == {each.trace_id for each in sent},
        }

    return seen


def logfire(stage: ToolStage) -> Seen:
    """Pydantic's Logfire: the same as OpenTelemetry, set up by itself; nothing is sent."""
    import logfire  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        inspect_arguments=False,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
    )
    logfire.instrument_celery()

    def seen(messages: Messages) -> dict[str, Any]:
        return _spans_of(exporter.get_finished_spans(), messages)

    return seen


def _spans_of(spans: Sequence[Any], messages: Messages) -> dict[str, Any]:
    sent = [each for each in spans if each.kind.name == "PRODUCER"]
    ran = [each for each in spans if each.kind.name == "CONSUMER"]
    traces = {f"{each.context.trace_id:032x}" for each in sent}
    told = {headers_of(each)["traceparent"].split("-")[1] for each in messages}
    of_sent = {each.context.span_id: each.context.trace_id for each in sent}
    parents = [each.parent for each in ran if each.parent is not None]
    return {
        "spans, one for each message": len(sent) - len(messages),
        "a trace for each": len(traces) == len(sent),
        "without parent": all(each.parent is None for each in sent),
        "messages carry them": told == traces,
        "kinds": sorted({each.attributes["celery.action"] for each in sent}),
        "spans of the worker, one for each message": len(ran) - len(messages),
        "each below the span of its message": len({each.span_id for each in parents}) == len(ran)
        and all(of_sent.get(each.span_id) == each.trace_id for each in parents),
    }


def elastic(stage: ToolStage) -> Seen:
    """Elastic APM: transactions of the worker; beat has none that a message could carry on."""
    import elasticapm  # type: ignore[import-not-found]
    from elasticapm.contrib.celery import register_instrumentation  # type: ignore[import-not-found]

    kept: list[tuple[str, dict[str, Any]]] = []
    client = elasticapm.Client(
        service_name="shop",
        disable_send=True,
        central_config=False,
        metrics_interval="0s",
        cloud_provider="none",
    )
    client.tracer.queue_func = lambda kind, data, flush=False: kept.append((kind, data))
    register_instrumentation(client)

    def seen(messages: Messages) -> dict[str, Any]:
        transactions = [data for kind, data in kept if kind == "transaction"]
        return {
            "transactions of the worker, one for each message": len(transactions) - len(messages),
            "names": sorted({each["name"] for each in transactions}),
            "outcomes": sorted({each["outcome"] for each in transactions}),
            "a trace for each": len({each["trace_id"] for each in transactions}) == len(messages),
            "headers": sorted(
                {name for each in messages for name in headers_of(each)} & {"elasticapm"}
            ),
        }

    return seen


def new_relic(stage: ToolStage) -> Seen:
    """New Relic in developer mode, which sends nothing: the worker's transactions."""
    os.environ["NEW_RELIC_DEVELOPER_MODE"] = "true"
    os.environ["NEW_RELIC_LICENSE_KEY"] = "0" * 40
    os.environ["NEW_RELIC_APP_NAME"] = "shop"
    os.environ["NEW_RELIC_LOG_LEVEL"] = "error"
    import newrelic.agent  # type: ignore[import-not-found]
    from newrelic.core.application import Application  # type: ignore[import-not-found]

    newrelic.agent.initialize()
    newrelic.agent.register_application(timeout=30)
    kept: list[Any] = []
    record = Application.record_transaction

    def keeping(self: Any, data: Any) -> Any:
        kept.append(data)
        return record(self, data)

    Application.record_transaction = keeping

    def seen(messages: Messages) -> dict[str, Any]:
        return {
            "transactions of the worker, one for each message": len(kept) - len(messages),
            "names": sorted({each.path for each in kept}),
            "a trace for each": len({each.trace_id for each in kept}) == len(messages),
        }

    return seen


TRACERS = {
    "sentry": sentry,
    "opentelemetry": opentelemetry,
    "logfire": logfire,
    "datadog": datadog,
    "elastic": elastic,
    "newrelic": new_relic,
}
