"""Every route of the service: without credentials nothing is told, nor is another site's."""

from __future__ import annotations

import base64
import re

import pytest

from catchment.web.app import create_app
from tests.web.looking import Looker, add_people
from tests.web.serving import SECRET, Sites, make_workspace
from tests.web.test_pages_roles import OPEN as OPEN_PAGES
from tests.web.test_pages_roles import filled, routes_of

# Open to all, and why: signs of life without facts, the schema, style sheets, the way in.
OPEN = OPEN_PAGES | {
    "/", "/health", "/healthz", "/readyz", "/openapi.json", "/ui/", "/metrics",
}  # fmt: skip
TOKEN = "a token for exports of the tests"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    import hashlib

    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    serve = f'export_tokens = ["{digest}"]\nmetrics_tokens = ["{digest}"]'
    with make_workspace(tmp_path_factory.mktemp("routes"), serve=serve) as workspace:
        add_people(workspace)
        yield workspace, create_app(workspace, process=False)


def all_routes(app):
    mounted = next(r.app for r in app.routes if getattr(r, "path", "") == "/exports")
    found = {
        (method, prefix + route.path)
        for prefix, of in (("", app), ("/exports", mounted))
        for route in routes_of([r for r in of.routes if getattr(r, "app", None) is not mounted])
        for method in route.methods - {"HEAD", "OPTIONS"}
    }
    assert len(found) > 80
    return sorted(found)


def test_without_credentials_no_route_tells_anything(house):
    _, app = house
    client = Looker(app).client
    for method, path in all_routes(app):
        if path in OPEN and path != "/metrics":
            continue
        if "static" in path:
            continue  # style sheets and scripts of the pages
        answer = client.request(method, filled(path))
        if answer.status_code == 303:
            assert answer.headers["location"].startswith("/ui/sign-in"), path
        else:
            # 400: a form whose policy is its credential, and there was none. 404: any other word
            usual = {404} if (method, path) == ("GET", "/{name}") else {400, 401, 403}
            assert answer.status_code in usual, (method, path, answer.status_code)
            assert "boston" not in answer.text


def test_what_one_site_does_no_other_site_sees(house):
    """Every route of the site API that has a name in it, with another site's credentials."""
    workspace, app = house
    boston, chicago = (Sites(workspace, Looker(app).client) for _ in range(2))
    offer = boston.ask(user="anna")
    transaction = offer.headers["transaction-id"]
    auth = base64.b64encode(f"carl:{SECRET}".encode()).decode()
    client = chicago.client
    client.headers["Authorization"] = f"Basic {auth}"
    looked = 0
    for method, path in all_routes(app):
        if "{" not in path or path.startswith(("/ui", "/api")):
            continue
        answer = client.request(method, re.sub(r"\{[^}]*\}", transaction, path))
        assert answer.status_code >= 400, (method, path)
        assert "boston" not in answer.text
        assert "anna" not in answer.text
        looked += 1
    assert looked >= 3
    assert boston.show(transaction, "anna").status_code == 200
    assert boston.show(transaction, "carl").status_code == 404


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://testserver.evil.example"]
)
def test_no_route_lets_a_page_from_elsewhere_read_or_write(house, origin):
    _, app = house
    client = Looker(app).client
    for method, path in all_routes(app):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        answer = client.request(method, filled(path), headers=headers)
        assert "access-control-allow-origin" not in answer.headers, path
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        if method == "POST":
            assert answer.status_code >= 303, (path, answer.status_code)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-1"},
        {"Content-Length": "99999999999999999999"},
        {"Content-Length": "5"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary="},
        {"Content-Encoding": "gzip"},
        {"Transfer-Encoding": "identity"},
        {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https"},
        {"Authorization": "Basic " + "A" * 8000},
        {"Authorization": "Basic ====", "Cookie": "session=" + "%00" * 99},
        {"Range": "bytes=0-,0-,0-,0-"},
    ],
    ids=str,
)
def test_headers_that_lie_are_refused_and_break_nothing(house, headers):
    _, app = house
    client = Looker(app).client
    for path in ("/", "/uploads", "/dicomweb/ct/studies", "/ui/sign-in", "/metrics"):
        answer = client.post(path, content=b"x" * 70_000, headers=headers)
        assert 400 <= answer.status_code < 500, (path, answer.status_code)
        assert "Traceback" not in answer.text
    assert client.get("/healthz").status_code == 200
