"""Every route of the pages by every role: nobody sees more than the role allows."""

from __future__ import annotations

import re

import pytest

from catchment.web.app import create_app
from catchment.web.pages.house import API, UI
from catchment.web.pages.route import PLACES
from tests.web.looking import ROLES, Looker, add_people, signed_in
from tests.web.serving import SECRET, make_workspace

VALUES = {
    "series": "a" * 24, "digest": "b" * 64, "number": "1", "old": "1", "frame": "0",
    "transaction": "00000000-0000-4000-8000-000000000000",
}  # fmt: skip
# Where nobody needs to be signed in.
OPEN = {
    "/ui", "/ui/sign-in", "/ui/sign-out", "/ui/link/{token}", "/ui/oidc/start", "/ui/oidc/back",
}  # fmt: skip
ORDER = {"site": -1, "viewer": 0, "steward": 1, "operator": 2}


def filled(path):
    return re.sub(r"\{([a-z]+)[^}]*\}", lambda m: VALUES.get(m[1], "thing"), path)


def allowed(role, needed):
    if "site" in {role, needed}:
        return role == needed
    return ORDER[role] >= ORDER[needed]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roles")
    with make_workspace(folder, serve="preview_rows = 5") as workspace:
        add_people(workspace)
        yield create_app(workspace, process=False)


@pytest.fixture(scope="module")
def lookers(app):
    names = dict.fromkeys(ROLES) | {"site": "anna"}
    return {role: signed_in(app, user or role) for role, user in names.items()}


def test_every_route_of_the_pages_has_a_role(app):
    """A route that was added without one would be found here."""
    known = {(place.method, place.path) for place in PLACES}
    for route in routes_of(app.routes):
        for method in route.methods - {"HEAD"}:
            if route.path.startswith((f"{UI}/", f"{API}/")) and route.path not in OPEN:
                assert (method, route.path) in known
    assert len(known) > 50


def routes_of(routes):
    for route in routes:
        if getattr(route, "methods", None):
            yield route
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if getattr(inner, "routes", None):
            yield from routes_of(inner.routes)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.method} {place.path}")
def test_a_role_opens_what_is_its_own_and_nothing_else(place, app, lookers):
    path = filled(place.path)
    nobody = Looker(app).client.request(place.method, path)
    assert nobody.status_code == (303 if path.startswith(UI) else 401)
    if nobody.status_code == 303:
        assert nobody.headers["location"].startswith("/ui/sign-in?next=")
    for role, looker in lookers.items():
        if place.method == "POST":
            first = "/ui/site" if role == "site" else "/ui/runs"
            answer = looker.post(path, token=looker.token(first))
        else:
            answer = looker.get(path)
        assert (answer.status_code == 403) != allowed(role, place.role), (role, answer.text)
        assert answer.status_code in {200, 303, 400, 403, 404, 409}


@pytest.mark.parametrize("place", [p for p in PLACES if p.method == "POST"], ids=str)
def test_nothing_is_changed_without_the_token_of_a_page(place, lookers):
    path = filled(place.path)
    operator = lookers["operator"]
    others = lookers["steward"].token("/ui/runs")
    for token in ("", "0.0", others):
        answer = operator.post(path, token=token)
        assert answer.status_code == 403
        assert "bad-csrf" in answer.text
    good = operator.token("/ui/runs")
    from_elsewhere = operator.client.post(
        path, data={"csrf": good}, headers={"Origin": "http://evil.example"}
    )
    assert from_elsewhere.status_code == 403


def test_a_page_is_what_its_json_says_and_no_more(app, lookers):
    """The same function gives both, so that a role check cannot be on one of them only."""
    pages = {p.path.removeprefix(UI): p.role for p in PLACES if p.path.startswith(UI)}
    told = {p.path.removeprefix(API): p.role for p in PLACES if p.path.startswith(API)}
    for path, role in pages.items():
        if path in told:
            assert told[path] == role
    assert lookers["viewer"].get("/api/runs").json()["runs"] == []


def test_who_writes_programs_may_give_user_and_password(app):
    client = Looker(app).client
    assert client.get("/api/runs", auth=("viewer", SECRET)).status_code == 200
    assert client.get("/api/runs", auth=("viewer", "wrong")).status_code == 401
    assert client.get("/api/runs", auth=("anna", SECRET)).status_code == 403
    assert client.get("/api/site", auth=("anna", SECRET)).json()["site"] == "boston"
    page = client.get("/ui/runs", auth=("viewer", SECRET))
    assert page.status_code == 303  # pages are for sessions
