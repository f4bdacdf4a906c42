"""Requests that no client of ours sends: each has an answer, and none is a fault of the program."""

from __future__ import annotations

import re
import socket
import time

import pytest
from starlette.testclient import TestClient

from catchment.core.errors import Invalid
from catchment.testing.web import serving
from catchment.web import guard
from catchment.web.app import create_app
from catchment.web.multipart import MAX_AFTER, MAX_FIELD_BYTES, Form
from catchment.web.pages import render
from tests.web.looking import Looker, add_people, add_site_user, signed_in

BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}


@pytest.fixture
def app(workspace):
    add_people(workspace)
    add_site_user(workspace)
    return create_app(workspace, process=False)


@pytest.mark.parametrize("path", ["//[", "http://[", "//[::1", "/ui/\\[", "javascript:[", "[", ""])
def test_nobody_is_sent_elsewhere_after_signing_in(app, path):
    looker = Looker(app)
    page = looker.get("/ui/sign-in", params={"next": path})
    assert page.status_code == 200
    assert 'name="next" value="/ui/"' in page.text


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "http://elsewhere", "x"])
def test_a_form_from_elsewhere_is_refused_however_elsewhere_is_spelt(app, origin):
    assert Looker(app).sign_in("viewer", origin=origin).status_code == 403


def test_a_form_from_here_is_taken(app):
    assert Looker(app).sign_in("viewer", origin="http://testserver").status_code == 303


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-1", "x"])
def test_a_length_that_is_none(app, length):
    answer = TestClient(app).post("/", content=b"{}", headers={"content-length": length})
    assert (answer.status_code, answer.json()["kind"]) == (413, "body-too-large")


def test_only_static_files_are_served_and_each_is_held_once(app):
    client = TestClient(app)
    name = "catchment.css"
    assert client.get(f"/static/0/{name}").status_code == 200
    before = render._content.cache_info().currsize
    strange = ["%00", f"./{name}", f"vendor/../{name}", f"{name}/", "vendor", f"{name}%00", "..."]
    for path in strange:
        answer = client.get(f"/static/0/{path.replace('..', '%2e%2e').replace('./', '%2e/')}")
        assert (answer.status_code, answer.json()["kind"]) == (404, "no-file"), path
    assert render._content.cache_info().currsize == before


@pytest.mark.parametrize("path", ["/health", "/readyz", "/ui/sign-in", "/api/", "/data-packages"])
def test_head_is_get_without_a_body(app, path):
    client = TestClient(app, follow_redirects=False)
    got, asked = client.get(path), client.head(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    assert asked.headers["content-type"] == got.headers["content-type"]


def test_head_of_what_never_ends_ends(app):
    async def endless(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    assert TestClient(guard.Guard(endless)).head("/").status_code == 200


def test_a_path_that_is_none_is_404_and_a_method_that_is_wrong_is_405(app):
    client = TestClient(app)
    for path in ("/favicon.ico", "/robots.txt", "/docs", "/%ff"):
        assert client.get(path).status_code == 404
    for path in ("/ui/runs", "/api/runs"):
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert client.post("/some-network", json={}).status_code == 401  # a site's own way in


def test_what_no_route_answers_is_a_page_to_a_browser(app, monkeypatch, caplog):
    client = TestClient(app, raise_server_exceptions=False)
    large = client.post("/ui/sign-in", content=b"x" * (guard.MAX_BODY + 1))
    monkeypatch.setattr("catchment.web.pages.signin.form", lambda *_, **__: 1 // 0)
    broken = client.get("/ui/sign-in")
    for answer, status in ((large, 413), (broken, 500)):
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")
        assert "style-src 'self'" in answer.headers["content-security-policy"]
        assert "Traceback" not in answer.text
    assert "too large" in large.text
    assert "ZeroDivisionError" in caplog.text  # its kind and place, in the log
    assert client.post("/", content=b"x" * (guard.MAX_BODY + 1)).json()["kind"] == "body-too-large"


def test_from_a_page_that_says_no_one_can_go_on(app, workspace):
    operator, site = signed_in(app, "operator"), signed_in(app, "dan")
    for looker, path, home in ((operator, "/ui/nothing", "/ui/"), (site, "/ui/runs", "/ui/site")):
        page = looker.get(path)
        assert page.status_code in {403, 404}
        assert f'href="{home}">To the first page' in page.text
        assert workspace.settings.workspace.name in page.text
        assert "as JSON" not in page.text
        token = re.search(r'name="csrf" value="([^"]*)"', page.text)[1]
        assert looker.post("/ui/sign-out", token).status_code == 303
        assert looker.get(home).headers["location"].startswith("/ui/sign-in")


def test_each_door_says_how_to_open_it(app):
    client = TestClient(app)
    for path, scheme in (("/api/runs", "Basic"), ("/uploads/1", "Basic"), ("/metadata", "ApiKey"),
                         ("/metrics", "Bearer")):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].split()[0] == scheme
    # A browser would put a dialog of its own over the page whose script asked.
    answer = client.get("/api/throughput", headers={"sec-fetch-dest": "empty"})
    assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, "Session")


def test_who_goes_away_in_the_middle_is_no_fault_of_the_program(app, caplog):
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as one:
            one.sendall(
                b"POST /uploads/form HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            time.sleep(0.2)
        time.sleep(0.5)
    assert "fault of the program" not in caplog.text


def test_methods_of_somebody_are_no_names_of_metrics(app):
    client = TestClient(app)
    for n in range(3):
        client.request(f"METHOD{n}", "/health")
    samples = [s for metric in app.state.metrics.collect() for s in metric.samples]
    assert {s.labels["method"] for s in samples if "method" in s.labels} == {"other"}


def part(name, value=b""):
    return b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, value)


@pytest.mark.parametrize(
    "body",
    [
        b"".join(part(b"f%d" % n) for n in range(40)),
        b"".join(part(b"f") for _ in range(40)),
        part(b"f", b"x" * (MAX_FIELD_BYTES + 1)),
        b"--b\r\nX: " + b"x" * (MAX_FIELD_BYTES + 1),
        b"--b\r\n" + b"X" * (MAX_FIELD_BYTES + 1) + b": x",
        part(b"file", b"x") + part(b"more", b"x" * (MAX_AFTER + 1)),
    ],
    ids=["many", "the same", "long", "header", "name of a header", "behind"],
)
def test_a_form_holds_little_memory_whatever_it_holds(body):
    async def chunks():
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async def read():
        form = Form(BOUNDARY["content-type"], chunks())
        await form.read_fields()
        while await form.read_chunk():
            pass

    import anyio

    with pytest.raises(Invalid, match=r"too many or too long|behind the file|malformed"):
        anyio.run(read)
