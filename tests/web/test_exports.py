"""The download API, as a bulk-data client meets it: over HTTP, step by step."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import uvicorn
import zstandard
from starlette.testclient import TestClient

from catchment.core.errors import Unavailable
from catchment.core.workspace import Workspace
from catchment.exports import capability, download, manifest
from catchment.exports.model import Codec, Kind
from catchment.testing.fhir import FhirServer
from catchment.web.exports import app, by_digest

TOKEN = "a-long-random-token"
EOB = "ExplanationOfBenefit"


def serving():
    records = {
        str(m): [
            b'{"resourceType":"ExplanationOfBenefit","id":"%d-%d"}' % (m, i) for i in range(10)
        ]
        for m in range(10)
    }
    server = FhirServer(records)
    server.broken["9"] = (404, {}, b"")
    return server


def open_workspace(folder, server, codec):
    (folder / "members.txt").write_text("\n".join(str(m) for m in range(10)))
    (folder / "catchment.toml").write_text(f"""
[exports.eob]
contract = "Z9000"
fhir = "{server.url}"
members = "members.txt"
threshold = 0.5
batch = 2
max_bytes = 2100
codec = "{codec}"
expires_hours = 1
""")
    return Workspace.open(folder)


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module", params=["none", "gzip", "zstd"])
def workspace(server, tmp_path_factory, request):
    """One with a published job, for all questions about it."""
    with open_workspace(tmp_path_factory.mktemp("workspace"), server, request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def job(workspace):
    return capability.run(workspace, "eob").details["job"]


@pytest.fixture
def clock():
    class Clock:
        ahead = timedelta()

        def __call__(self):
            return datetime.now(UTC) + self.ahead

    return Clock()


@pytest.fixture
def client(workspace, clock):
    allow = by_digest([hashlib.sha256(TOKEN.encode()).hexdigest()])
    with TestClient(app(workspace, allow, clock=clock)) as made:
        made.headers["Authorization"] = f"Bearer {TOKEN}"
        yield made


def test_a_client_follows_the_manifest(client, job, server):
    answer = client.get(f"/jobs/{job}")
    assert answer.status_code == 200
    assert "Expires" in answer.headers
    document = answer.json()
    told = ["transactionTime", "request", "requiresAccessToken", "output", "error"]
    assert list(document) == told
    assert document["request"].endswith(f"/jobs/{job}")
    assert datetime.fromisoformat(document["transactionTime"]).tzinfo
    entries = manifest.read(document)
    assert [entry.type for entry in entries] == [EOB] * 3 + ["OperationOutcome"]
    lines = []
    for entry in entries:
        text = client.get(entry.url)
        assert text.headers["Content-Type"] == "application/fhir+ndjson"
        assert f"sha256:{hashlib.sha256(text.content).hexdigest()}" == entry.digest
        assert len(text.content) == entry.size <= 2100
        assert text.content.count(b"\n") == entry.lines
        if entry.kind is Kind.DATA:
            lines += text.content.splitlines()
    expected = [
        line for member, found in server._resources.items() if member != "9" for line in found
    ]
    assert sorted(lines) == sorted(expected)


def test_the_later_draft(workspace, job):
    with TestClient(app(workspace, lambda *_: True, later_draft=True)) as client:
        document = client.get(f"/jobs/{job}", headers={"Authorization": "Bearer x"}).json()
    assert list(document)[1:] == ["request", "requiresAccessToken", "output", "outcome"]
    assert [e.kind for e in manifest.read(document)] == [Kind.DATA] * 3 + [Kind.ERROR]
    assert document["outcome"][0]["fileSize"] > 0


@pytest.fixture
def fresh(tmp_path):
    """A workspace of one test, its server, and a client."""
    with (
        serving() as server,
        open_workspace(tmp_path, server, "none") as workspace,
        TestClient(app(workspace, lambda *_: True)) as client,
    ):
        client.headers["Authorization"] = "Bearer x"
        yield workspace, server, client


def test_while_it_runs_when_it_fails_and_when_it_is_cancelled(fresh):
    workspace, server, client = fresh
    ledger, config = workspace.ledger, capability.job(workspace, "eob").config()
    running = ledger.start_run("exports/eob", config)
    answer = client.get(f"/jobs/{running.id}")
    assert answer.status_code == 202
    assert answer.headers["X-Progress"] == "0 of 10 members"
    assert int(answer.headers["Retry-After"]) > 0
    assert client.get(f"/jobs/{running.id}/Z9000_0001.ndjson").status_code == 404
    assert client.delete(f"/jobs/{running.id}").status_code == 202
    assert client.get(f"/jobs/{running.id}").status_code == 404
    server.broken |= {str(m): (404, {}, b"") for m in range(10)}
    failed = ledger.start_run("exports/eob", config)
    with pytest.raises(Unavailable):
        capability.run(workspace, "eob")
    answer = client.get(f"/jobs/{failed.id}")
    assert answer.status_code == 500
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_cancelling_does_not_wait_for_the_worker(fresh):
    workspace, _, client = fresh
    config = capability.job(workspace, "eob").config()
    running = workspace.ledger.start_run("exports/eob", config)
    with workspace.ledger.holding("exports/eob"):
        assert client.delete(f"/jobs/{running.id}").status_code == 202
    assert workspace.ledger.run(running.id).state == "cancelled"
    assert client.delete(f"/jobs/{running.id}").status_code == 404


def test_only_the_job_itself_is_cancelled(fresh):
    workspace, _, client = fresh
    done = capability.run(workspace, "eob").details["job"]
    config = capability.job(workspace, "eob").config()
    stopped = workspace.ledger.start_run("exports/eob", config)
    workspace.ledger.finish_run(stopped.id, "cancelled")
    running = workspace.ledger.start_run("exports/eob", config)
    answer = client.delete(f"/jobs/{done}")
    assert answer.status_code == 409
    assert answer.json()["issue"][0]["code"] == "conflict"
    assert client.delete(f"/jobs/{stopped.id}").status_code == 404
    assert workspace.ledger.run(running.id).state == "running"
    assert client.get(f"/jobs/{done}").status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Basic eDp5", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (f"bearer {TOKEN}", 200),
    ],
)
def test_a_bearer_token_is_wanted_everywhere(client, job, header, status):
    del client.headers["Authorization"]
    headers = {"Authorization": header} if header else {}
    for path in (f"/jobs/{job}", f"/jobs/{job}/{client_file(client, job)}"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    if status == 401:
        assert client.delete(f"/jobs/{job}", headers=headers).status_code == 401


def client_file(client, job):
    document = client.get(f"/jobs/{job}", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    return document["output"][0]["url"].rpartition("/")[2]


def test_expiry(client, job, clock):
    name = client_file(client, job)
    clock.ahead = timedelta(minutes=59)
    assert client.get(f"/jobs/{job}/{name}").status_code == 200
    clock.ahead = timedelta(minutes=61)
    assert client.get(f"/jobs/{job}").status_code == 404
    answer = client.get(f"/jobs/{job}/{name}")
    assert answer.status_code == 404
    assert answer.json()["issue"][0]["code"] == "not-found"


@pytest.mark.parametrize(
    "name", ["none.ndjson", "manifest.json", "provenance.json", "..%2f..%2fcatchment.toml"]
)
def test_only_outputs_are_served(client, job, name):
    assert client.get(f"/jobs/{job}/{name}").status_code == 404
    assert client.get(f"/jobs/nonsense/{name}").status_code == 404


def raw(client, url, **headers):
    """The bytes as they are sent, whatever their encoding."""
    with client.stream("GET", url, headers={"Accept-Encoding": "", **headers}) as answer:
        return answer, b"".join(answer.iter_raw())


def test_encodings(client, job):
    url = f"/jobs/{job}/{client_file(client, job)}"
    answer, plain = raw(client, url)
    assert "Content-Encoding" not in answer.headers
    for accepted, decompress in (
        ("gzip", gzip.decompress),
        ("br, gzip;q=0.5", gzip.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ):
        answer, data = raw(client, url, **{"Accept-Encoding": accepted})
        sent = answer.headers.get("Content-Encoding")
        assert sent in (None, accepted.split(";")[0].rpartition(" ")[2])
        assert (decompress(data) if sent else data) == plain
        assert answer.headers["Vary"] == "Accept-Encoding"
        if accepted == "gzip" and ".zst" not in url:
            assert sent == "gzip"
    answer, data = raw(client, url, **{"Accept-Encoding": "gzip;q=0, zstd; q=0.0"})
    assert data == plain


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=5-99999999", 5, None),
        ("bytes=-99999999", 1, None),
        ("bytes=1-1", 1, 2),
    ],
)
def test_ranges(client, job, asked, start, end):
    url = f"/jobs/{job}/{client_file(client, job)}"
    whole, data = raw(client, url)
    assert whole.headers["Accept-Ranges"] == "bytes"
    if asked == "bytes=-99999999":
        start = 0
    expected = data[start:end]
    answer, part = raw(client, url, Range=asked)
    assert part == expected
    assert answer.headers["Content-Length"] == str(len(expected))
    assert answer.headers["ETag"] == whole.headers["ETag"]
    if expected == data:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 206
        first = start % len(data)
        assert (
            answer.headers["Content-Range"]
            == f"bytes {first}-{first + len(expected) - 1}/{len(data)}"
        )
    _, again = raw(client, url, Range=asked, **{"If-Range": whole.headers["ETag"]})
    assert again == part
    changed, again = raw(client, url, Range=asked, **{"If-Range": '"other"'})
    assert (changed.status_code, again) == (200, data)


def test_what_a_client_knows_is_not_sent_again(client, job):
    url = f"/jobs/{job}/{client_file(client, job)}"
    whole, data = raw(client, url)
    etag = whole.headers["ETag"]
    for known, status in ((etag, 304), (f'"x", W/{etag}', 304), ("*", 304), ('"x"', 200)):
        answer, body = raw(client, url, **{"If-None-Match": known})
        assert (answer.status_code, body) == (status, b"" if status == 304 else data)
        assert answer.headers["ETag"] == etag


def test_head(client, job):
    url = f"/jobs/{job}/{client_file(client, job)}"
    for headers in ({}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=1-3"}):
        asked, _ = raw(client, url, **headers)
        told = client.head(url, headers={"Accept-Encoding": "", **headers})
        assert told.status_code == asked.status_code
        assert told.headers == asked.headers
        assert not told.content


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=-0"])
def test_ranges_outside(client, job, asked):
    answer, data = raw(client, f"/jobs/{job}/{client_file(client, job)}", Range=asked)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"].startswith("bytes */")
    assert data == b""


@pytest.mark.parametrize(
    "asked", ["bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=9-3", f"bytes={'9' * 30}-"]
)
def test_ranges_that_are_none(client, job, asked):
    url = f"/jobs/{job}/{client_file(client, job)}"
    assert raw(client, url, Range=asked)[0].status_code == 200


def test_what_is_compressed_on_the_way_may_be_large():
    lines = b"".join(b"%d\n" % (i * i) for i in range(300_000))
    chunks = [lines[i : i + 100_000] for i in range(0, len(lines), 100_000)]
    assert gzip.decompress(b"".join(download._compressed(chunks, Codec.GZIP))) == lines


def test_stored_compressed_files_go_out_in_ranges_of_what_is_stored(client, job, workspace):
    name = client_file(client, job)
    if not name.endswith(".gz"):
        pytest.skip("for gzip only")
    stored = workspace.store.read(f"exports/eob/{job}/{name}")
    answer, part = raw(
        client, f"/jobs/{job}/{name}", **{"Accept-Encoding": "gzip", "Range": "bytes=3-8"}
    )
    assert (answer.status_code, part) == (206, stored[3:9])
    assert answer.headers["Content-Encoding"] == "gzip"


def test_behind_a_real_server(workspace, job, server):
    """The links of the manifest lead where the client came from."""
    config = uvicorn.Config(app(workspace, lambda *_: True), port=0, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        port = running.servers[0].sockets[0].getsockname()[1]
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(headers={"Authorization": "Bearer x"}) as client:
            document = client.get(f"{base}/jobs/{job}").json()
            entries = manifest.read(document)
            assert all(entry.url.startswith(f"{base}/jobs/{job}/") for entry in entries)
            total = sum(client.get(entry.url).text.count("\n") for entry in entries)
            assert total == 91
    finally:
        running.should_exit = True
        thread.join()
    assert json.dumps(document).count("checksum") == 4


def test_units_of_ranges_have_no_case(client, job):
    path = client.get(f"/jobs/{job}").json()["output"][0]["url"]
    answer = client.get(path, headers={"Range": "Bytes=0-3", "Accept-Encoding": "identity"})
    assert (answer.status_code, len(answer.content)) == (206, 4)


def test_a_bad_token_does_not_learn_which_jobs_there_are(client, job):
    for path in (f"/jobs/{job}", "/jobs/none", f"/jobs/{job}/none", "/jobs/none/none"):
        answer = client.get(path, headers={"Authorization": "Bearer guessed"})
        assert answer.status_code == 401
        assert client.get(path).status_code == (200 if path.endswith(job) else 404)


def test_all_that_is_refused_is_an_operation_outcome(client, job):
    for answer, status in (
        (client.post(f"/jobs/{job}"), 405),
        (client.get("/elsewhere"), 404),
        (client.get("/jobs/none"), 404),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("application/fhir+json")
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert "GET" in client.post(f"/jobs/{job}").headers["allow"]
