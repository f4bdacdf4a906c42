"""Health, readiness, metrics, traces."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.testclient import TestClient

from catchment.cli.serve import METRICS
from catchment.core.errors import Unavailable
from catchment.testing.web import serving
from catchment.web import watching
from catchment.web.app import create_app
from tests.collecting import collecting
from tests.web.serving import make_workspace


def test_the_process_lives_and_is_ready(quiet):
    assert quiet.client.get("/healthz").json()["status"] == "ok"
    assert quiet.client.get("/readyz").json() == {"status": "ok", "ledger": "ok", "store": "ok"}


def test_it_is_not_ready_without_its_store(workspace, quiet, monkeypatch):
    def away(*_):
        raise Unavailable("away", kind="store-down")

    monkeypatch.setattr(type(workspace.store), "head", away)
    answer = quiet.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "ledger": "ok", "store": "store-down"}
    assert quiet.client.get("/healthz").status_code == 200


def test_metrics_are_for_this_machine_unless_there_are_tokens(tmp_path):
    import httpx

    with make_workspace(tmp_path) as workspace:
        workspace.ledger.start_run("tables/nacc", {})
        with serving(create_app(workspace, process=False)) as url:
            text = httpx.get(f"{url}/metrics").text
            proxied = httpx.get(f"{url}/metrics", headers={"X-Forwarded-For": "10.0.0.1"})
            again = httpx.get(f"{url}/metrics").text
    assert 'catchment_run_state{aggregate="tables/nacc",state="running"} 1.0' in text
    assert proxied.status_code == 401
    assert 'catchment_requests_total{method="GET",route="/metrics",status="200"} 1.0' in again
    assert 'catchment_requests_total{method="GET",route="/metrics",status="401"} 1.0' in again


def test_metrics_open_to_a_token(tmp_path):
    digest = hashlib.sha256(b"scraper").hexdigest()
    with make_workspace(tmp_path, serve=f'metrics_tokens = ["{digest}"]') as workspace:
        client = TestClient(create_app(workspace, process=False))
        assert client.get("/metrics").status_code == 401
        wrong = client.get("/metrics", headers={"Authorization": "Bearer other"})
        assert wrong.status_code == 401
        good = client.get("/metrics", headers={"Authorization": "Bearer scraper"})
        assert good.status_code == 200
        assert good.text.count("catchment_request_seconds_bucket") > 5


def test_no_name_of_anybody_is_a_label(workspace, quiet):
    quiet.client.get("/uploads/secret-transaction", auth=("anna", "wrong"))
    from prometheus_client.exposition import generate_latest

    counted = quiet.client.app.state.metrics
    assert b"secret-transaction" not in generate_latest(counted)
    assert b"/uploads/{transaction}" in generate_latest(counted)


@pytest.fixture
def collector():
    with collecting() as server:
        yield server


def test_traces_go_to_the_collector_that_is_named(workspace, collector, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")  # what still waits is told at the end
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with TestClient(create_app(workspace, process=False)) as client:
        parent = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        client.get("/uploads/secret-transaction", headers=parent)
    assert collector.came.wait(20)
    told = ExportTraceServiceRequest.FromString(collector.got[0][1])
    (span,) = told.resource_spans[0].scope_spans[0].spans
    assert span.name == "GET /uploads/{transaction}"
    assert span.trace_id.hex() == trace
    attributes = {a.key: a.value for a in span.attributes}
    assert attributes["http.response.status_code"].int_value == 401
    assert b"secret-transaction" not in collector.got[0][1]


def test_nothing_is_traced_without_a_collector(workspace, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert watching._provider() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.resources", None)
    assert watching._provider() is None


def test_an_aggregate_without_a_run_is_told_of(workspace, monkeypatch):
    from catchment.web.watching import _Workspace

    workspace.ledger.receive("tables/nacc", "boston", "one", "sha256:one", 1)
    told = {one.name: [s.labels for s in one.samples] for one in _Workspace(workspace).collect()}
    assert told["catchment_run_state"] == []
    assert told["catchment_published_timestamp_seconds"] == []
    assert told["catchment_snapshot_number"] == [{"aggregate": "tables/nacc"}]


def test_the_age_of_what_is_published_is_a_metric(workspace):
    from catchment.core.account import Account
    from catchment.core.ledger import Publication
    from catchment.web.watching import _Workspace

    made = workspace.ledger.publish(Publication("tables/nacc", "k", "there/", {}, Account()))
    told = {one.name: [s.value for s in one.samples] for one in _Workspace(workspace).collect()}
    assert told["catchment_published_timestamp_seconds"] == [made.published_at.timestamp()]
    assert told["catchment_snapshot_number"] == [1]


def test_a_fault_is_an_error_of_its_span():
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    span = watching._begin(tracer, {"method": "GET", "headers": []})
    watching._end(span, "GET", "/ui/runs", 503)
    assert not span.status.is_ok
    assert span.name == "GET /ui/runs"


def test_metrics_are_of_the_published_form(workspace):
    """By the reference parser; names and units as Prometheus asks for them."""
    from prometheus_client.parser import text_string_to_metric_families

    workspace.ledger.start_run("tables/nacc", {})
    client = TestClient(create_app(workspace, process=False), client=("127.0.0.1", 1))
    client.get("/healthz")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}
    ours = {name: one for name, one in families.items() if name.startswith("catchment_")}
    assert {one.type for one in ours.values()} == {"counter", "gauge", "histogram"}
    for name, one in ours.items():
        assert one.documentation, name
        assert one.samples or one.type == "gauge", name
        if one.type == "counter":
            kinds = {sample.name.removeprefix(name) for sample in one.samples}
            assert kinds <= {"_total", "_created"}
        if one.type == "histogram":
            assert name.endswith("_seconds")


def test_attributes_of_spans_are_those_of_the_conventions():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.semconv.attributes import http_attributes

    tracer = TracerProvider().get_tracer("test")
    span = watching._begin(tracer, {"method": "GET", "headers": []})
    watching._end(span, "GET", "/ui/runs", 200)
    known = {v for k, v in vars(http_attributes).items() if k.isupper() and isinstance(v, str)}
    assert set(span.attributes) <= known
    assert len(span.attributes) == 3


COUNTING = """
from prometheus_client import Counter
Counter("told", "By a process that has ended.").inc(3)
"""


def test_what_several_processes_counted_is_told_together(tmp_path, monkeypatch):
    """The client of Prometheus keeps counts in files where its variable names a folder."""
    monkeypatch.setenv(METRICS, str(tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNTING], check=True)
    told = generate_latest(watching._of_all(CollectorRegistry())).decode()
    assert "told_total 6.0" in told
    monkeypatch.delenv(METRICS)
    own = CollectorRegistry()
    assert watching._of_all(own) is own
