"""A bad line to S3: answers that are lost, late, wrong or cut off, between real client and server."""

import http.client
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from catchment.core import store_s3_config
from catchment.core.doctor_clocks import of_store
from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound, Unavailable
from catchment.core.store import Range, open_store
from catchment.testing.s3 import S3Server, moto  # noqa: F401 - a fixture
from catchment.testing.store import MIB

DATA = bytes(range(256)) * (6 * MIB // 256)


@dataclass
class Fault:
    """What happens to a request of that method whose path and query hold the text.

    ``forward``: the server gets it. ``answer``: a status, with an S3 error's code, in place of the
    server's; None: the connection is cut. ``first``: done before all else.
    """

    method: str
    text: str = ""
    forward: bool = True
    answer: tuple[int, str] | None = None
    first: Callable[[], object] = lambda: None
    half: bool = False  # the server's own answer, cut in the middle
    times: int = 1

    def __call__(self, method, path):
        if self.times and method == self.method and self.text in path:
            self.times -= 1
            return True
        return False


class Line(ThreadingHTTPServer):
    """A reverse proxy that does what the faults say."""

    daemon_threads = True
    block_on_close = False

    off = timedelta(0)  # of the clock that it tells

    def __init__(self, server):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(server.endpoint).netloc
        self.faults = []
        self.seen = deque()
        self.server = S3Server(f"http://127.0.0.1:{self.server_port}", server.bucket)

    def handle_error(self, request, client_address):
        pass  # a client that went away is what it is for


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def serve(self):
        line = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        line.seen.append(f"{self.command} {self.path}")
        fault = next((f for f in line.faults if f(self.command, self.path)), None)
        if fault:
            fault.first()
        if not fault or fault.forward:
            upstream = http.client.HTTPConnection(line.upstream)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            status, headers, content = answer.status, answer.getheaders(), answer.read()
            upstream.close()
        if fault and not fault.half:
            if fault.answer is None:
                self.close_connection = True
                return
            status, code = fault.answer
            content = (
                f"<Error><Code>{code}</Code><AWSAccessKeyId>test</AWSAccessKeyId></Error>".encode()
            )
            headers = [("Content-Length", str(len(content))), ("Content-Type", "application/xml")]
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "server", "date"}:
                self.send_header(name, value)
        if line.off is not None:
            told = (datetime.now(UTC) + line.off).timestamp()
            self.send_header("Date", formatdate(told, usegmt=True))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault and fault.half else content)
        if fault and fault.half:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815 - the base's names

    def log_message(self, *_):
        pass


@pytest.fixture
def line(moto, monkeypatch):  # noqa: F811
    backoff = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=9)}
    monkeypatch.setitem(store_s3_config._RETRY, "backoff", {**backoff, "base": 2})
    monkeypatch.setitem(store_s3_config._RETRY, "max_retries", 2)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with Line(moto) as line:
        threading.Thread(target=line.serve_forever, args=(0.01,), daemon=True).start()
        yield line
        line.shutdown()


@pytest.fixture
def store(line):
    return line.server.store()


@pytest.fixture
def straight(moto, store):  # noqa: F811
    """The same store, past the bad line."""
    return open_store(store.url, **moto.options)


# --- writes of one request ------------------------------------------------------------------------

BAD_ANSWERS = {
    "applied, connection cut": {},
    "not applied, connection cut": {"forward": False},
    "applied, answered 500": {"answer": (500, "InternalError")},
    "not applied, answered 503": {"forward": False, "answer": (503, "SlowDown")},
    "not applied, answered 409": {"forward": False, "answer": (409, "ConditionalRequestConflict")},
}


@pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_create_whose_answer_is_bad_is_recognised(line, store, straight, bad, times):
    line.faults.append(Fault("PUT", "/below/k", times=times, **bad))
    stat = store.put("k", b"mine")
    assert straight.read("k") == b"mine"
    assert stat[:3] == straight.head("k")[:3]
    with pytest.raises(Conflict):
        store.put("k", b"mine")


def test_a_create_that_somebody_else_won_is_a_conflict(line, store, straight):
    theirs = Fault("PUT", "/below/k", forward=False, first=lambda: straight.put("k", b"theirs"))
    line.faults.append(theirs)
    with pytest.raises(Conflict) as caught:
        store.put("k", b"theirs")
    assert caught.value.kind == "key-taken"


def test_a_create_whose_fate_is_unknown_is_unavailable(line, store):
    line.faults.append(Fault("PUT", "/below/k"))
    line.faults.append(Fault("HEAD", "/below/k", times=9))
    with pytest.raises(Unavailable):
        store.put("k", b"mine")


def test_a_create_that_never_arrives_is_unavailable(line, store, straight):
    line.faults.append(Fault("PUT", "/below/k", forward=False, times=99))
    with pytest.raises(Unavailable):
        store.put("k", b"mine")
    assert list(straight.list()) == []


@pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_overwrite_is_repeated(line, store, straight, bad):
    straight.put("k", b"before")
    line.faults.append(Fault("PUT", "/below/k", **bad))
    store.put("k", b"after", mode="overwrite")
    assert straight.read("k") == b"after"


# --- uploads in parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [BAD_ANSWERS[n] for n in BAD_ANSWERS if "409" not in n], ids=str)
@pytest.mark.parametrize("request_", ["POST uploadId", "POST uploads", "PUT partNumber=2"])
def test_an_upload_survives_a_bad_answer(line, store, straight, request_, bad):
    method, text = request_.split()
    line.faults.append(Fault(method, text, **bad))
    stat = store.put("k", DATA)
    assert straight.read("k") == DATA
    assert stat[:3] == straight.head("k")[:3]


def test_an_upload_that_is_refused_its_own_object_is_recognised(line, store, straight):
    """AWS answers so when it is asked again to complete: the first answer was lost."""
    line.faults.append(Fault("POST", "uploadId"))
    refused = (412, "PreconditionFailed")
    line.faults.append(Fault("POST", "uploadId", forward=False, answer=refused))
    stat = store.put("k", DATA)
    assert stat[:3] == straight.head("k")[:3]
    assert straight.read("k") == DATA


def test_an_upload_that_somebody_else_won_is_a_conflict(line, store, straight):
    line.faults.append(Fault("POST", "uploadId", first=lambda: straight.put("k", b"theirs")))
    with pytest.raises(Conflict) as caught:
        store.compose("k", [DATA, b"x"])
    assert caught.value.kind == "key-taken"
    assert straight.read("k") == b"theirs"
    assert straight.sweep(timedelta(0)) == 0


@pytest.mark.parametrize("answer", [None, (403, "AccessDenied"), (503, "SlowDown")])
@pytest.mark.parametrize("request_", ["POST uploadId", "POST uploads", "PUT partNumber=2"])
def test_an_upload_that_fails_for_good_leaves_nothing(line, store, straight, request_, answer):
    method, text = request_.split()
    straight.put("source", DATA)
    line.faults.append(Fault(method, text, forward=False, answer=answer, times=99))
    with pytest.raises(Invalid if answer and answer[0] == 403 else Unavailable):
        store.compose("k", [Range(store, "source", 0, len(DATA)), b"x" * len(DATA)])
    assert [stat.key for stat in straight.list()] == ["source"]
    if "uploads" not in request_:
        assert straight.sweep(timedelta(0)) == 0


def test_an_upload_that_is_swept_away_is_no_missing_object(line, store, straight):
    line.faults.append(Fault("PUT", "partNumber", forward=False, answer=(404, "NoSuchUpload")))
    with pytest.raises(Unavailable) as caught:
        store.put("k", DATA)
    assert caught.value.kind == "draft-removed"
    assert list(straight.list()) == []


def test_an_abort_that_fails_hides_nothing(line, store, straight):
    line.faults.append(Fault("POST", "uploadId", forward=False, answer=(403, "X"), times=9))
    line.faults.append(Fault("DELETE", "uploadId", forward=False, answer=(403, "X"), times=9))
    with pytest.raises(Invalid):
        store.put("k", DATA)
    assert list(straight.list()) == []
    assert straight.sweep(timedelta(0)) == 1


def test_a_source_that_changes_is_told(line, store, straight):
    straight.put("source", DATA)
    source = Range(store, "source", 0, len(DATA))
    change = Fault("PUT", "partNumber=1", forward=False, answer=(412, "PreconditionFailed"))
    line.faults.append(change)
    with pytest.raises(Conflict) as caught:
        store.compose("k", [source])
    assert caught.value.kind == "source-changed"
    assert [stat.key for stat in straight.list()] == ["source"]


def test_a_source_that_changes_while_it_is_hashed_is_told(line, store, straight):
    straight.put("source", DATA)
    change = Fault(
        "GET",
        "/below/source",
        first=lambda: straight.put("source", DATA[::-1], mode="overwrite"),
        half=False,
    )
    line.faults.append(change)
    with pytest.raises(Conflict) as caught:
        store.compose("k", [Range(store, "source", 0, len(DATA))], digest=True)
    assert caught.value.kind == "source-changed"
    assert [stat.key for stat in straight.list()] == ["source"]


# --- reads ----------------------------------------------------------------------------------------


def test_a_read_that_is_cut_is_resumed_or_refused(line, store, straight):
    straight.put("k", DATA)
    for read in (lambda: store.read("k"), lambda: b"".join(store.stream("k"))):
        line.faults[:] = [Fault("GET", "/below/k", half=True)]
        assert read() == DATA
        line.faults[:] = [Fault("GET", "/below/k", half=True, times=99)]
        with pytest.raises(Unavailable):
            read()


# --- every bad answer becomes one of ours, without a credential ------------------------------------

ANSWERS = [
    ((403, "AccessDenied"), Invalid, "permission-denied"),
    ((403, "InvalidAccessKeyId"), Invalid, "permission-denied"),
    ((401, "Unauthorized"), Invalid, "permission-denied"),
    ((400, "EntityTooBig"), Invalid, "refused"),
    ((301, "PermanentRedirect"), Invalid, "bad-store-option"),
    ((404, "NoSuchBucket"), NotFound, "no-bucket"),
    ((500, "InternalError"), Unavailable, "unavailable"),
    ((503, "SlowDown"), Unavailable, "unavailable"),
    ((429, "TooManyRequests"), Unavailable, "unavailable"),
    (None, Unavailable, "unavailable"),
]


@pytest.mark.parametrize(("answer", "error", "kind"), ANSWERS, ids=str)
def test_bad_answers_become_our_errors(line, store, answer, error, kind):
    for method in ("GET", "PUT", "POST", "DELETE"):
        line.faults.append(Fault(method, forward=False, answer=answer, times=999))
    for call in (
        lambda: store.read("k"),
        lambda: store.put("k", b"1", mode="overwrite"),
        lambda: store.put("k", DATA, mode="overwrite"),
        lambda: store.delete("k"),
        lambda: list(store.list()),
        lambda: list(store.folders()),
        lambda: store.sweep(timedelta(0)),
    ):
        with pytest.raises(CatchmentError) as caught:
            call()
        assert (type(caught.value), caught.value.kind) == (error, kind)
        assert caught.value.__cause__ is None
        told = f"{caught.value!r} {caught.value.hint}"
        assert "test" not in told, "the key id and the secret are 'test'"
        assert "AWSAccessKeyId" not in told


@pytest.mark.parametrize(
    ("off", "answer", "found"),
    [
        (timedelta(seconds=30), None, "it agrees with this machine's"),
        (timedelta(minutes=5), None, " s ahead of this machine's: links and forms"),
        (timedelta(minutes=-5), None, " s behind this machine's: links and forms"),
        (timedelta(hours=-1), (403, "RequestTimeTooSkewed"), "S3 refuses all that is signed here"),
        (None, None, None),
    ],
)
def test_the_clock_of_the_storage(line, store, off, answer, found):
    line.off = off
    if answer:
        for method in ("GET", "HEAD", "PUT"):
            line.faults.append(Fault(method, forward=False, answer=answer, times=999))
        with pytest.raises(Invalid) as caught:
            store.read("k")
        assert caught.value.kind == "clock-skew"
    checks = list(of_store(store))
    if found is None:
        assert checks == []
        return
    (check,) = checks
    assert found in check.found
    assert check.well == (off == timedelta(seconds=30))


def test_the_clock_of_a_storage_that_is_away(line, store):
    line.faults.append(Fault("GET", forward=False, times=999))
    (check,) = of_store(store)
    assert check.well
    assert check.found.startswith("it cannot be asked: ")


def test_nobody_there(monkeypatch, moto):  # noqa: F811
    monkeypatch.setitem(store_s3_config._RETRY, "max_retries", 1)
    store = open_store("s3://bucket", **{**moto.options, "endpoint": "http://127.0.0.1:9"})
    for call in (
        lambda: store.head("k"),
        lambda: store.put("k", b"1"),
        lambda: store.put("k", DATA),
    ):
        with pytest.raises(Unavailable):
            call()


def test_no_credentials(monkeypatch, moto):  # noqa: F811
    monkeypatch.setitem(store_s3_config._RETRY, "max_retries", 0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    options = {k: v for k, v in moto.options.items() if "key" not in k}
    store = open_store(f"s3://{moto.bucket}", **options)
    with pytest.raises(Invalid) as caught:
        store.sweep(timedelta(0))
    assert caught.value.kind == "bad-store-option"
