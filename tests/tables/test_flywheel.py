"""The real SDK against a small server that answers as Flywheel does."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from catchment.core.errors import CatchmentError, Invalid, NotFound, Unavailable
from catchment.core.store import open_store
from catchment.tables.datasets import find_datasets
from catchment.tables.model import Center
from catchment.tables.sources import Place

# Read by the SDK when it is first imported, which our module does when it is first used.
os.environ["FLYWHEEL_SDK_TOTAL_RETRIES"] = "1"
from catchment.tables.flywheel import FlywheelSource
from catchment.testing.web import listening

pytest.importorskip("flywheel", reason="the extra 'flywheel' is not installed")

KEY = "sEcReTkEy0123456789"
ALPHA, BETA = Center("alpha", 0, "Alpha"), Center("beta", 1, "Beta")
POINTER = {"bucket": "etl", "prefix": "fw/alpha", "storage_id": "1", "label": "x", "type": "s3"}
S3 = {"region": "us-east-1", "access_key_id": "id", "secret_access_key": "key"}


class Flywheel(ThreadingHTTPServer):
    """Projects by path, each with its custom information; ``faults`` answer before they do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.projects: dict[str, object] = {}
        self.keys = {KEY}
        self.faults: deque[tuple[str, int, bytes]] = deque()
        self.asked: list[tuple[str, str]] = []
        self.stall = threading.Event()

    def answer(self, verb: str, path: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append((verb, path))
        if self.faults and path.startswith(self.faults[0][0]):
            return self.faults.popleft()[1:]
        if authorization.removeprefix("scitran-user ") not in self.keys:
            return refuse(401, "Invalid scitran-user api key")
        if path == "/api/auth/status":
            origin = {"type": "user", "id": "bot@example.org"}
            status = {"origin": origin, "user_is_admin": False, "is_device": False, "roles": []}
            return 200, json.dumps(status).encode()
        if path == "/api/lookup":
            name = "/".join(json.loads(body)["path"])
            if name not in self.projects:
                return refuse(404, f"No project found for path {name}")
            node = {"container_type": "project", "_id": name.encode().hex(), "label": "x"}
            return 200, json.dumps(node).encode()
        name = bytes.fromhex(path.removeprefix("/api/projects/")).decode()
        group, label = name.split("/")
        project = {"_id": "1", "label": label, "group": group, "info": self.projects[name]}
        return 200, json.dumps(project).encode()


def refuse(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"message": message, "status_code": status}).encode()


class Handler(BaseHTTPRequestHandler):
    # HTTP/1.0 ends each connection: the SDK has no word to close those that it keeps.
    protocol_version = "HTTP/1.0"
    server: Flywheel

    def reply(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path, key = self.path.partition("?")[0], self.headers["Authorization"] or ""
        status, data = self.server.answer(self.command, path, key, body)
        if status == 0:
            self.server.stall.wait(10)
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = reply  # noqa: N815 - the names that http.server looks for

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def flywheel():
    server = Flywheel()
    server.projects["alpha/ingest"] = {"dataset": POINTER}
    with listening(server):
        yield server
        server.stall.set()


def connect(server: Flywheel, key: str = KEY, **options) -> FlywheelSource:
    # The SDK's own word for a server without TLS.
    address = f"127.0.0.1:{server.server_port}:__force_insecure:{key}"
    options = {"options": S3, "pauses": (0, 0), "timeout": 5} | options
    return FlywheelSource(address, "ingest", **options)


def refused(source: FlywheelSource, center: Center = ALPHA) -> CatchmentError:
    with pytest.raises(CatchmentError) as error:
        source.locate(center)
    return error.value


def test_a_project_points_to_its_dataset(flywheel):
    source = connect(flywheel)
    place = source.locate(ALPHA)
    assert isinstance(place, Place)
    assert (place.store.url, place.prefix) == ("s3://etl", "fw/alpha/")
    assert source.one_bucket
    assert flywheel.asked == [
        ("GET", "/api/auth/status"),
        ("POST", "/api/lookup"),
        ("GET", "/api/projects/" + b"alpha/ingest".hex()),
    ]


def test_a_missing_project_is_not_found(flywheel):
    error = refused(connect(flywheel), BETA)
    assert isinstance(error, NotFound)
    assert (error.kind, error.message) == ("no-project", "Flywheel has no project beta/ingest")


@pytest.mark.parametrize(
    "info", [{}, None, {"dataset": None}, {"dataset": {}}, {"Dataset": POINTER}]
)
def test_a_missing_pointer_is_not_found(flywheel, info):
    flywheel.projects["alpha/ingest"] = info
    error = refused(connect(flywheel))
    assert isinstance(error, NotFound)
    assert error.kind == "no-dataset-pointer"


@pytest.mark.parametrize(
    "pointer", ["s3://etl/fw", [1], POINTER | {"type": "gs"}, {"bucket": "etl"}]
)
def test_a_malformed_pointer_is_invalid(flywheel, pointer):
    flywheel.projects["alpha/ingest"] = {"dataset": pointer}
    error = refused(connect(flywheel))
    assert isinstance(error, Invalid)
    assert error.kind == "bad-pointer"


def test_a_pointer_out_of_what_is_allowed_is_invalid(flywheel):
    flywheel.projects["beta/ingest"] = {"dataset": POINTER}
    source = connect(flywheel, allow=["s3://etl/fw/{center}"])
    assert source.locate(ALPHA).prefix == "fw/alpha/"
    assert refused(source, BETA).kind == "place-not-allowed"


def test_a_project_that_the_key_may_not_read_is_invalid(flywheel):
    source = connect(flywheel)
    for path in ("/api/lookup", "/api/projects"):
        flywheel.faults.append((path, *refuse(403, "user not authorized")))
        error = refused(source)
        assert isinstance(error, Invalid)
        assert error.kind == "project-forbidden"


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "key", "host:", ":key", "host::key"])
def test_a_malformed_key_is_refused_at_once(key):
    with pytest.raises(Invalid) as error:
        FlywheelSource(key, "ingest")
    assert error.value.kind == "flywheel-key"
    assert "host:key" in error.value.message


@pytest.mark.parametrize("project", ["", "alpha/ingest"])
def test_a_project_is_one_label(project):
    with pytest.raises(Invalid, match="label"):
        FlywheelSource("host:key", project)


def test_a_refused_key_ends_the_run(flywheel):
    with pytest.raises(Invalid) as error:
        connect(flywheel, "another")
    assert error.value.kind == "flywheel-key"
    assert "another" not in str(error.value)


def test_a_key_that_is_withdrawn_on_the_way_ends_the_run(flywheel):
    source = connect(flywheel)
    flywheel.keys.clear()
    error = refused(source)
    assert isinstance(error, Unavailable)
    assert error.kind == "flywheel-key"
    with pytest.raises(Unavailable):
        find_datasets([ALPHA], source)


@pytest.mark.parametrize("fault", [(401, b"{}"), (500, b"oops"), (200, b"<html>"), (0, b"")])
def test_the_key_is_in_no_message_log_or_traceback(flywheel, caplog, capfd, fault):
    caplog.set_level(logging.DEBUG)
    source = connect(flywheel, pauses=(), timeout=1)
    flywheel.faults.append(("/api/lookup", *fault))
    error = refused(source)
    told = [str(error), repr(error), error.hint, repr(source), repr(error.__context__)]
    told += traceback.format_exception(error)
    told += [caplog.text, *capfd.readouterr()]
    assert KEY not in "".join(told)
    assert "127.0.0.1" in caplog.text or fault[0] == 0, "the SDK's library logs its requests"


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_lookup_is_tried_again(flywheel, status):
    source = connect(flywheel)
    flywheel.faults.extend([("/api/lookup", status, b"{}")] * 2)
    assert source.locate(ALPHA).prefix == "fw/alpha/"
    assert [p for _, p in flywheel.asked].count("/api/lookup") == 3


def test_tries_come_to_an_end(flywheel):
    source = connect(flywheel)
    flywheel.faults.extend([("/api/lookup", 503, b"{}")] * 3)
    error = refused(source)
    assert isinstance(error, Unavailable)
    assert (error.kind, error.message) == (
        "flywheel-unavailable",
        "Flywheel answered with status 503",
    )
    assert error.hint
    assert not flywheel.faults


def test_the_sdk_tries_other_requests_again(flywheel):
    source = connect(flywheel)
    flywheel.faults.append(("/api/projects", 502, b"{}"))
    assert source.locate(ALPHA).prefix == "fw/alpha/"


@pytest.mark.parametrize(
    "answer", [b"", b"<html>a proxy</html>", b"[]", b"5", b'{"_id": "1"}', b"null"]
)
@pytest.mark.parametrize("path", ["/api/lookup", "/api/projects"])
def test_an_answer_that_is_none_is_unavailable(flywheel, answer, path):
    source = connect(flywheel, pauses=())
    flywheel.faults.append((path, 200, answer))
    assert refused(source).kind in {"flywheel-unavailable", "no-dataset-pointer"}


def test_a_server_that_does_not_answer_in_time_is_unavailable(flywheel):
    source = connect(flywheel, pauses=(), timeout=1)
    flywheel.faults.append(("/api/lookup", 0, b""))
    error = refused(source)
    assert isinstance(error, Unavailable)
    assert "Timeout" in error.message


def test_an_odd_refusal_is_unavailable(flywheel):
    source = connect(flywheel)
    flywheel.faults.append(("/api/lookup", 418, b"{}"))
    assert "418" in refused(source).message


def test_a_server_that_is_not_there_is_unavailable(flywheel):
    flywheel.server_close()
    with pytest.raises(Unavailable):
        connect(flywheel)


def test_a_server_that_is_not_flywheel_is_unavailable(flywheel):
    flywheel.faults.append(("/api/auth", 404, b"<html>"))
    with pytest.raises(Unavailable, match="404"):
        connect(flywheel)


def test_without_the_sdk_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flywheel", None)
    with pytest.raises(Invalid) as error:
        FlywheelSource("host:key", "ingest")
    assert error.value.kind == "missing-extra"
    assert "catchment[flywheel]" in error.value.hint


# --- all together -------------------------------------------------------------------------------


def test_centers_are_skipped_and_reported_each_with_its_reason(flywheel):
    centers = [Center(name, n, name) for n, name in enumerate(["alpha", "beta", "gamma", "delta"])]
    flywheel.projects = {
        "beta/ingest": {},
        "gamma/ingest": {"dataset": {"type": "gs"}},
        "delta/other": {"dataset": POINTER},
    }
    found = find_datasets(centers, connect(flywheel))
    assert found.datasets == ()
    assert {id_: f.code for id_, f in found.skipped.items()} == {
        "alpha": "no-project",
        "beta": "no-dataset-pointer",
        "gamma": "bad-pointer",
        "delta": "no-project",
    }


def test_pointers_to_two_buckets_end_the_run(flywheel):
    flywheel.projects["beta/ingest"] = {"dataset": POINTER | {"bucket": "other"}}
    with pytest.raises(Invalid) as error:
        find_datasets([ALPHA, BETA], connect(flywheel))
    assert error.value.kind == "many-buckets"


@pytest.fixture
def bucket():
    """Options of a real S3 service, by HTTP, that has the bucket ``etl``."""
    boto3 = pytest.importorskip("boto3", reason="the extra 's3' is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="key",
    )
    client.create_bucket(Bucket="etl")
    client.close()
    yield S3 | {"endpoint": endpoint, "allow_http": "true"}
    server.stop()


def test_from_a_project_to_the_files_of_its_dataset(flywheel, bucket):
    store = open_store("s3://etl/fw/alpha", **bucket)
    store.put("versions/1/tables/uds/a.parquet", b"PAR1")
    described = b'{"created": "2026-01-05T10:00:00Z"}'
    store.put("versions/1/provenance/dataset_description.json", described)
    store.put("versions/2/provenance/dataset_description.json", b"")
    found = find_datasets([ALPHA], connect(flywheel, options=bucket))
    (dataset,) = found.datasets
    assert [f.code for f in found.findings] == ["description-unreadable"]
    assert (dataset.url, dataset.prefix) == ("s3://etl", "fw/alpha/versions/1/")
    (file,) = dataset.tables["uds"]
    assert file.store.read(file.key) == b"PAR1"
