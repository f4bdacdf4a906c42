"""For whoever runs the service: health, readiness, metrics for Prometheus, traces."""

from __future__ import annotations

import hmac
import logging
import os
import time
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catchment.core.errors import CatchmentError, NotFound
from catchment.core.ledger.keys import digest
from catchment.core.ledger.views import Views
from catchment.core.workspace import Workspace
from catchment.web.login import Unauthorized

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10)
_PROBE = "catchment-readiness"  # a key that is never there

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

log = logging.getLogger(__name__)


class _TokenNeeded(Unauthorized):
    challenge = 'Bearer realm="catchment"'


class _Workspace:
    """Collects what the ledger says, when it is asked."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def collect(self) -> list[GaugeMetricFamily]:
        views = Views(self._workspace.ledger)
        runs = GaugeMetricFamily(
            "catchment_run_state",
            "1 for the state of the latest run.",
            labels=["aggregate", "state"],
        )
        number = GaugeMetricFamily(
            "catchment_snapshot_number", "Number of the latest snapshot.", labels=["aggregate"]
        )
        at = GaugeMetricFamily(
            "catchment_published_timestamp_seconds", "When it was published.", labels=["aggregate"]
        )
        found = GaugeMetricFamily(
            "catchment_findings",
            "What stands of the latest runs.",
            labels=["aggregate", "severity"],
        )
        for one in views.standings():
            if one.run is not None:
                runs.add_metric([one.aggregate, one.run.state], 1)
            number.add_metric([one.aggregate], one.snapshot)
            if one.published_at is not None:
                at.add_metric([one.aggregate], one.published_at.timestamp())
            found.add_metric([one.aggregate, "error"], one.errors)
            found.add_metric([one.aggregate, "warning"], one.warnings)
        return [runs, number, at, found]


def add(app: FastAPI, workspace: Workspace) -> None:
    """Put the routes into an application, and count what it answers."""
    registry = CollectorRegistry()
    own = CollectorRegistry()
    own.register(_Workspace(workspace))
    requests = Counter(
        "catchment_requests", "Answers.", ["route", "method", "status"], registry=registry
    )
    seconds = Histogram(
        "catchment_request_seconds", "Time of answers.", ["route"], buckets=_BUCKETS,
        registry=registry,
    )  # fmt: skip

    @app.get("/healthz", tags=["service"], summary="Whether the process lives")
    def healthz() -> dict[str, str]:
        return {"status": "ok", "version": version("catchment")}

    @app.get("/readyz", tags=["service"], summary="Whether ledger and store answer")
    def readyz() -> Response:
        parts = {"ledger": _ledger, "store": _store}
        told: dict[str, str] = {}
        for name, ask in parts.items():
            try:
                ask(workspace)
                told[name] = "ok"
            except CatchmentError as error:
                told[name] = error.kind
        ready = set(told.values()) == {"ok"}
        return JSONResponse(
            {"status": "ok" if ready else "unavailable"} | told, 200 if ready else 503
        )

    @app.get("/metrics", tags=["service"], summary="Metrics for Prometheus")
    def metrics(
        request: Request, authorization: Annotated[str, Header(max_length=1000)] = ""
    ) -> Response:
        known = workspace.settings.serve.metrics_tokens
        token = digest(authorization.removeprefix("Bearer ").strip())
        near = request.client is not None and request.client.host in {"127.0.0.1", "::1"}
        proxied = "x-forwarded-for" in request.headers or "forwarded" in request.headers
        allowed = any(hmac.compare_digest(token, one) for one in known)
        if not allowed and (known or not near or proxied):
            raise _TokenNeeded(
                "expected a bearer token for metrics",
                hint="[serve] metrics_tokens holds the SHA-256 of those that are good",
            )
        text = generate_latest(_of_all(registry)) + generate_latest(own)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    app.state.metrics = registry
    app.state.spans = _provider()
    tracer = app.state.spans and app.state.spans.get_tracer("catchment.web")
    app.add_middleware(_Counted, requests=requests, seconds=seconds, tracer=tracer)


def _of_all(registry: CollectorRegistry) -> CollectorRegistry:
    """What this process counted; where several serve, what all of them did."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return registry
    from prometheus_client.multiprocess import MultiProcessCollector

    every = CollectorRegistry()
    MultiProcessCollector(every)  # type: ignore[no-untyped-call]
    return every


def end(app: FastAPI) -> None:
    """Hand over the spans that still wait; a signal ends the process before it would itself."""
    if app.state.spans is not None:
        app.state.spans.shutdown()


def _ledger(workspace: Workspace) -> None:
    workspace.ledger.aggregates()


def _store(workspace: Workspace) -> None:
    try:
        workspace.store.head(_PROBE)
    except NotFound:
        return


class _Counted:
    """Counts answers by route, never by path, which may hold names; and traces them if asked to."""

    def __init__(self, app: ASGIApp, requests: Counter, seconds: Histogram, tracer: Any) -> None:
        self._app = app
        self._requests = requests
        self._seconds = seconds
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span = None if self._tracer is None else _begin(self._tracer, scope)
        try:
            await self._app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests.labels(route, method, str(status)).inc()
            self._seconds.labels(route).observe(time.perf_counter() - began)
            if span is not None:
                _end(span, scope["method"], route, status)


def _provider() -> Any:
    """Who takes spans, where the environment names a collector and the extra is installed."""
    import os

    if not (
        os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("a collector is named, but: pip install 'catchment[telemetry]'")
        return None
    name = os.environ.get("OTEL_SERVICE_NAME", "catchment")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    # In a thread of its own: a collector that is away delays no answer.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _begin(tracer: Any, scope: Scope) -> Any:
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
    return tracer.start_span(scope["method"], extract(headers), kind=SpanKind.SERVER)


def _end(span: Any, method: str, route: str, status: int) -> None:
    """The route, never the path: addresses may hold names."""
    from opentelemetry.trace import StatusCode

    span.update_name(f"{method} {route}")
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    span.end()
