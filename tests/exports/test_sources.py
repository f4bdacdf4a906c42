"""Sources: a FHIR server over real HTTP and TLS, files of every kind, and hostile ones."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import ThreadingHTTPServer

import pytest

from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.core.store import open_store
from catchment.exports.fhir import FhirSource
from catchment.exports.model import Kind
from catchment.exports.ndjson import FileSource
from catchment.exports.sources import issue_type, outcome
from catchment.testing.fhir import FhirServer, bundle

PATIENT = "Patient"


def patients(n):
    # Numbers, escapes and order as no library would write them.
    return [b'{"resourceType":"Patient","id":"%d","x":1.50,"y":"\\u0041"}' % i for i in range(n)]


def read(source, member, pauses=None):
    pauses = [] if pauses is None else pauses
    with source.open(pauses.append) as reader:
        return list(reader(member))


def lines(items):
    return [item.line for item in items if item.kind is Kind.DATA]


def test_every_page_byte_for_byte():
    with FhirServer({"1": patients(25)}, page=10) as server:
        source = FhirSource(server.url, PATIENT, page=4)
        assert lines(read(source, "1")) == patients(25)
        assert server.requests["1"] == 7
        assert lines(read(source, "2")) == []
        assert source.members() is None
        assert source.describe()["fhir"] == server.url


def test_what_passes_is_tried_again_and_the_server_says_when():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with FhirServer({"1": patients(1)}) as server:
        server.plan.extend([
            (429, {"Retry-After": "7"}, b""),
            (503, {"Retry-After": soon}, b""),
            (500, {"Retry-After": "soon"}, b""),
            (429, {"Retry-After": "99999"}, b""),
            (503, {"Retry-After": "\xb2"}, b""),
            (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        ])  # fmt: skip
        pauses = []
        assert lines(read(FhirSource(server.url, PATIENT), "1", pauses)) == patients(1)
    assert pauses[0] == 7
    assert 25 < pauses[1] <= 30
    assert pauses[2:] == [0.004, 120, 0.016, 0.032]


def test_a_server_that_never_recovers():
    with FhirServer({}) as server:
        server.broken["1"] = (500, {}, b"secret of a patient")
        with pytest.raises(Unavailable) as error:
            read(FhirSource(server.url, PATIENT, retries=2), "1")
        assert server.requests["1"] == 3
    assert error.value.kind == "source-down"
    assert "secret" not in error.value.message
    with pytest.raises(Unavailable) as error:
        read(FhirSource(server.url, PATIENT, retries=1, timeout=2), "1")
    assert error.value.kind == "source-down"


@pytest.mark.parametrize(
    ("status", "category", "kind"),
    [
        (401, Invalid, "source-denied"),
        (403, Invalid, "source-denied"),
        (404, NotFound, "source-unknown"),
        (400, Invalid, "source-refused"),
        (302, Invalid, "source-refused"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(status, category, kind):
    with FhirServer({}) as server:
        server.broken["1"] = (status, {"Location": "http://127.0.0.1:9/"}, b"")
        with pytest.raises(category) as error:
            read(FhirSource(server.url, PATIENT), "1")
        assert server.requests["1"] == 1
    assert error.value.kind == kind


def test_the_token_is_sent_and_never_shown():
    with FhirServer({"1": patients(1)}, token="s3cret") as server:
        source = FhirSource(server.url, PATIENT, token="s3cret")
        assert lines(read(source, "1")) == patients(1)
        assert "s3cret" not in repr(source)
        assert "s3cret" not in json.dumps(source.describe())
        with pytest.raises(Invalid):
            read(FhirSource(server.url, PATIENT, token="wrong"), "1")


@pytest.mark.parametrize(
    "link",
    [
        "https://elsewhere.example/fhir/next",
        "{url}/Patient?patient=1&_count=1000",
        "http://[::1",
        "\x00",
        "ftp://127.0.0.1/",
        "",
    ],
)
def test_the_next_page_is_on_the_same_server_and_another_one(link):
    with FhirServer({}) as server:
        page = {
            "resourceType": "Bundle",
            "link": [{"relation": "next", "url": link.format(url=server.url)}],
        }
        server.broken["1"] = (200, {}, json.dumps(page).encode())
        with pytest.raises(Invalid) as error:
            read(FhirSource(server.url, PATIENT), "1")
    assert error.value.kind == "bad-next-page"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b'{"resourceType":"Bundle","entry":3}', b"[" * 100_000]
)
def test_an_answer_that_is_no_bundle(body):
    with FhirServer({}) as server:
        server.broken["1"] = (200, {}, body)
        with pytest.raises(Invalid) as error:
            read(FhirSource(server.url, PATIENT), "1")
    assert error.value.kind == "not-a-bundle"


@pytest.mark.parametrize("resource", [b"3", b"null", b"[]", b'"x"', b'{"resourceType":7}'])
@pytest.mark.parametrize("wanted", [PATIENT, None])
def test_an_entry_that_is_no_resource_hurts_no_other(resource, wanted, folder):
    (folder / "b.json").write_bytes(bundle([resource, *patients(1)], [], ""))
    items = read(source_of(folder, wanted), "b.json")
    assert [item.refused for item in items] == ["not-json", ""]
    assert lines(items) == patients(1)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://127.0.0.1/fhir",
        "http://",
        "http://[::1",
        "",
        "http://h/fhir?x=1",
        "http://h/#x",
    ],
)
def test_the_url_of_a_server_is_checked_at_once(url):
    with pytest.raises(Invalid) as error:
        FhirSource(url, PATIENT)
    assert error.value.kind == "bad-url"


@pytest.mark.parametrize("name", ["patient", "_count"])
def test_what_the_search_says_itself_is_no_parameter(name):
    """All members would have the records of one; a page of another size would be none."""
    with pytest.raises(Invalid) as error:
        FhirSource("http://h/fhir", PATIENT, parameters={name: "1"})
    assert error.value.kind == "bad-parameters"


def test_a_page_has_a_bound(monkeypatch):
    monkeypatch.setattr("catchment.exports.fhir.MAX_TEXT", 1000)
    with FhirServer({"1": patients(100)}) as server, pytest.raises(Invalid) as error:
        read(FhirSource(server.url, PATIENT), "1")
    assert error.value.kind == "too-large"


def test_what_else_a_bundle_holds():
    told = b'{"resourceType":"OperationOutcome"}'
    other = b'{"resourceType":"Group","id":"1"}'
    pretty = b'{\n "resourceType" : "Patient",\r\n "x" : [1.50, "a b"]\n}'
    with FhirServer({}) as server:
        page = bundle([told, other], [], "").replace(
            b"]}", b',{"resource":' + pretty + b'},{"fullUrl":"u"}]}'
        )
        server.broken["1"] = (200, {}, page)
        items = read(FhirSource(server.url, PATIENT), "1")
    assert [(item.kind, item.refused) for item in items] == [
        (Kind.ERROR, ""), (Kind.ERROR, "other-type"), (Kind.DATA, ""),
    ]  # fmt: skip
    assert items[0].line == told
    assert items[2].line == b'{"resourceType":"Patient","x":[1.50,"a b"]}'


def certificate(folder, name, *, issuer=None):
    key, file, request = (folder / f"{name}{end}" for end in (".key", ".pem", ".csr"))
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        key,
    ]
    if issuer is None:
        subprocess.run([*command, "-x509", "-out", file, *subject], check=True, capture_output=True)
    else:
        subprocess.run([*command, "-out", request, *subject], check=True, capture_output=True)
        subprocess.run(
            ["openssl", "x509", "-req", "-in", request, "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key",
             "-CAcreateserial", "-copy_extensions", "copy", "-out", file], check=True, capture_output=True,
        )  # fmt: skip
    return folder / name


def test_mutual_tls(tmp_path):
    authority = certificate(tmp_path, "authority")
    server_cert = certificate(tmp_path, "server", issuer=authority)
    client_cert = certificate(tmp_path, "client", issuer=authority)
    pem = (f"{client_cert}.pem", f"{client_cert}.key")
    with FhirServer({"1": patients(1)}) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{server_cert}.pem", f"{server_cert}.key")
        context.load_verify_locations(f"{authority}.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        inner: ThreadingHTTPServer = server._server
        inner.socket = context.wrap_socket(inner.socket, server_side=True)
        inner.handle_error = lambda *_: None
        url = server.url.replace("http:", "https:")
        trusted = FhirSource(url, PATIENT, certificate=pem, authority=f"{authority}.pem")
        assert lines(read(trusted, "1")) == patients(1)
        for source in (
            FhirSource(url, PATIENT, authority=f"{authority}.pem", retries=0),
            FhirSource(url, PATIENT, certificate=pem, retries=0),
        ):
            with pytest.raises(Unavailable):
                read(source, "1")
    with pytest.raises(Invalid) as error:
        read(FhirSource(url, PATIENT, authority=str(tmp_path / "none.pem")), "1")
    assert error.value.kind == "bad-certificate"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def source_of(folder, resource_type=None):
    return FileSource(open_store(folder.as_uri()), resource_type)


def test_the_samples_as_they_are(shared):
    source = source_of(shared / "data/exports", PATIENT)
    assert source.members() == [
        "Condition.000.ndjson", "EOB-500.ndjson.gz", "Encounter.000.ndjson", "Patient.000.ndjson",
        "Procedure.000.ndjson", "no_final_newline.ndjson", "not_ndjson.ndjson",
    ]  # fmt: skip
    counts = {}
    for member in source.members():
        items = read(source, member)
        counts[member] = len(lines(items)), sum(item.refused == "not-json" for item in items)
        text = (shared / "data/exports" / member).read_bytes()
        if member.endswith(".gz"):
            text = gzip.decompress(text)
        if not counts[member][1]:
            assert lines(items) == text.splitlines()
    assert counts["EOB-500.ndjson.gz"] == (500, 0)
    assert counts["no_final_newline.ndjson"] == (1, 0)
    assert counts["not_ndjson.ndjson"] == (0, 7)


def test_every_hostile_text_is_a_line_or_a_refusal(shared, folder):
    texts = sorted((shared / "data/hostile/json/test_parsing").iterdir())
    for path in texts:
        data = path.read_bytes().replace(b"\n", b" ").replace(b"\r", b" ")
        (folder / "1.ndjson").write_bytes(b'{"v":' + data + b"}\n")
        items = read(source_of(folder), "1.ndjson")
        assert len(items) == 1
        if path.name.startswith("n_") and "unescaped_newline" not in path.name:
            assert items[0].refused == "not-json", path.name
        if path.name.startswith("y_"):
            assert not items[0].refused, path.name


def test_a_bundle_is_a_member(folder):
    (folder / "b.json").write_bytes(bundle(patients(3), [], ""))
    (folder / "sub").mkdir()
    (folder / "sub/c.json").write_bytes(b"[]")
    source = source_of(folder, PATIENT)
    assert source.members() == ["b.json", "sub/c.json"]
    assert lines(read(source, "b.json")) == patients(3)
    with pytest.raises(Invalid):
        read(source, "sub/c.json")
    with pytest.raises(NotFound):
        read(source, "d.json")


@pytest.mark.parametrize(
    "data", [b"no gzip", gzip.compress(b"{}\n" * 99, mtime=0)[:-8]], ids=["none", "cut"]
)
def test_damaged_gzip(folder, data):
    (folder / "1.ndjson.gz").write_bytes(data)
    with pytest.raises(Invalid) as error:
        read(source_of(folder), "1.ndjson.gz")
    assert error.value.kind == "part-unreadable"


def test_lines_and_bundles_have_a_bound(folder, monkeypatch):
    monkeypatch.setattr("catchment.exports.ndjson.MAX_TEXT", 1000)
    text = b"{}\n" + b"x" * 100_000 + b"\n{}\n" + b"x" * 1001
    (folder / "1.ndjson.gz").write_bytes(gzip.compress(text))
    items = read(source_of(folder), "1.ndjson.gz")
    assert [item.refused for item in items] == ["", "too-large", "", "too-large"]
    assert b"line 2 has more than 1000 bytes" in items[1].line
    (folder / "2.json").write_bytes(bundle(patients(99), [], ""))
    with pytest.raises(Invalid) as error:
        read(source_of(folder), "2.json")
    assert error.value.kind == "too-large"


def test_the_description_changes_with_the_files(folder):
    (folder / "1.ndjson").write_bytes(b"{}\n")
    before = source_of(folder).describe()
    assert before == source_of(folder).describe()
    time.sleep(0.01)
    (folder / "1.ndjson").write_bytes(b"[]\n")
    assert before != source_of(folder).describe()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("x"), "not-found"),
        (Conflict("x"), "conflict"),
        (Invalid("x"), "invalid"),
        (Unavailable("x"), "transient"),
        (Corrupt("x"), "exception"),
        (CatchmentError("x"), "exception"),
        (Invalid("x", kind="source-denied"), "security"),
    ],
)
def test_errors_in_the_words_of_fhir(error, code):
    assert issue_type(error) == code
    assert b"\n" not in outcome(code, "a\nb")


def test_a_password_in_the_url_goes_into_no_provenance():
    source = FhirSource("https://user:s3cret@host/fhir", "Patient")
    assert source.describe()["fhir"] == "https://user:***@host/fhir"
    with pytest.raises(Invalid) as refused:
        FhirSource("ftp://user:s3cret@host", "Patient")
    assert "s3cret" not in refused.value.message
