"""Signing in and out: passwords, links, cookies, limits, what the audit log keeps."""

from __future__ import annotations

import re

import pytest

from catchment.core.ledger.people import People
from catchment.web import login
from catchment.web.app import create_app
from tests.web.looking import Looker, add_people, signed_in
from tests.web.serving import SECRET


@pytest.fixture
def people(workspace):
    add_people(workspace)
    return People(workspace.ledger)


@pytest.fixture
def app(workspace, people):
    return create_app(workspace, process=False)


def test_who_is_not_signed_in_is_asked_to_and_comes_back(app):
    looker = Looker(app)
    asked = looker.get("/ui/runs?state=failed")
    assert asked.status_code == 303
    assert asked.headers["location"] == "/ui/sign-in?next=%2Fui%2Fruns%3Fstate%3Dfailed"
    back = looker.sign_in("viewer", to="/ui/runs?state=failed")
    assert (back.status_code, back.headers["location"]) == (303, "/ui/runs?state=failed")
    assert looker.get("/ui/runs?state=failed").status_code == 200
    assert looker.get("/ui/sign-in").headers["location"] == "/ui/"
    part = Looker(app).get("/ui/runs", headers={"HX-Request": "true"})
    assert part.headers["HX-Redirect"] == "/ui/sign-in?next=%2Fui%2Fruns"


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/elsewhere", "/ui/\\evil", "/ui/a\nb", ""]
)
def test_a_sign_in_leads_to_pages_of_ours_only(app, to):
    assert Looker(app).sign_in("viewer", to=to).headers["location"] == "/ui/"


def test_the_cookie_is_out_of_reach(app):
    plain = Looker(app).sign_in("viewer").headers["set-cookie"]
    assert re.search(r"catchment-session=[\w-]{43}; HttpOnly; Max-Age=43200; Path=/", plain)
    assert "samesite=lax" in plain.lower()
    secure = Looker(app, "https://testserver").sign_in("viewer").headers["set-cookie"]
    assert "__Host-catchment-session=" in secure
    assert "Secure" in secure


def test_a_wrong_password_and_an_unknown_user_are_answered_alike(app, people):
    looker = Looker(app)
    texts = set()
    for user, password in (("viewer", "wrong"), ("nobody", SECRET), ("viewer", "x" * 5000)):
        answer = looker.sign_in(user, password)
        assert answer.status_code == 401
        texts.add(re.search(r'role="alert">([^<]*)<', answer.text)[1])
    assert len(texts) == 1
    assert [deed.action for deed in people.deeds()] == ["sign-in refused"] * 3


def test_guessing_is_stopped(app, people, monkeypatch):
    looker = Looker(app)
    for _ in range(login.FAILURES):
        assert looker.sign_in("viewer", "wrong").status_code == 401
    assert looker.sign_in("viewer", SECRET).status_code == 429
    assert looker.sign_in("steward", SECRET).status_code == 303  # another one may


def test_a_form_from_elsewhere_signs_nobody_in(app):
    looker = Looker(app)
    fields = {"user": "viewer", "password": SECRET, "next": "/ui/", "csrf": "0.0"}
    assert looker.client.post("/ui/sign-in", data=fields).status_code == 403
    assert looker.sign_in("viewer", Origin="http://evil.example").status_code == 403
    assert looker.sign_in("viewer", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_signing_out_ends_the_session_everywhere(app, people):
    looker = signed_in(app, "viewer")
    token = looker.client.cookies["catchment-session"]
    assert looker.client.post("/ui/sign-out", data={"csrf": "0.0"}).status_code == 403
    assert looker.post("/ui/sign-out").status_code == 303
    again = Looker(app)
    again.client.cookies.set("catchment-session", token)
    assert again.get("/ui/runs").status_code == 303
    assert again.client.post("/ui/sign-out").status_code == 303  # nobody: nothing to end
    assert [deed.action for deed in people.deeds()] == ["sign-out", "sign-in"]


def test_rights_are_those_of_now(app, people):
    looker = signed_in(app, "operator")
    assert looker.get("/ui/audit").status_code == 200
    people.change("operator", role="viewer")  # ends the session
    assert looker.get("/ui/audit").status_code == 303
    looker.sign_in("operator")
    assert looker.get("/ui/audit").status_code == 403
    people.remove("operator")
    assert looker.get("/ui/runs").status_code == 303
    assert looker.sign_in("operator").status_code == 401


def test_a_link_lets_one_browser_in_once(app, people):
    link = f"/ui/link/{people.link()}"
    looker, late = Looker(app), Looker(app)
    asked = looker.token(link)
    late_token = late.token(link)
    assert asked
    assert looker.post(link, token=asked).status_code == 303
    assert looker.get("/ui/audit").status_code == 200
    assert late.post(link, token=late_token).status_code == 401
    assert late.get(link).status_code == 401
    assert "link-used" in late.get(link).text


def test_a_link_is_not_logged(app, people, caplog):
    token = people.link()
    looker = Looker(app)
    with caplog.at_level("INFO", "catchment"):
        assert (
            looker.post(f"/ui/link/{token}", looker.token(f"/ui/link/{token}")).status_code == 303
        )
    assert "POST /ui/link/... 303" in caplog.text
    assert token not in caplog.text


def test_a_site_sees_only_itself(app, workspace):
    ledger = workspace.ledger
    for site in ("boston", "chicago"):
        ledger.receive("studies/flu", site, f"{site}.parquet", f"sha256:{site}", 3)
    looker = Looker(app)
    first = looker.sign_in("anna")
    assert first.headers["location"] == "/ui/site"
    page = looker.get("/ui/site")
    assert page.status_code == 200
    assert "boston" in page.text
    assert "chicago" not in page.text
    for path in ("/ui/sites/chicago", "/ui/sites/boston", "/ui/", "/ui/findings", "/api/runs"):
        assert looker.get(path).status_code == 403
    strange = looker.get("/ui/site/uploads/00000000-0000-4000-8000-000000000000")
    assert strange.status_code == 404


def test_a_user_of_a_site_that_is_removed_is_out(app, workspace):
    from catchment.core.ledger.access import Access

    looker = Looker(app)
    looker.sign_in("anna")
    assert looker.get("/ui/site").status_code == 200
    Access(workspace.ledger).remove("anna")
    assert looker.get("/ui/site").status_code == 303


def test_pages_may_load_nothing_from_elsewhere_and_run_nothing_inline(app):
    looker = signed_in(app, "operator")
    page = looker.get("/ui/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "https:" not in policy
    assert re.findall(r"<script(?![^>]*\bsrc=)", page.text) == []
    assert re.findall(r"\sstyle=|<style|\son[a-z]+=", page.text) == []
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"


def test_static_files_are_kept_by_browsers_for_ever(app):
    looker = Looker(app)
    path = re.search(r'href="(/static/[^"]*catchment.css)"', looker.get("/ui/sign-in").text)[1]
    answer = looker.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    old = looker.get(path.replace(path.split("/")[2], "0" * 16), headers={"Accept-Encoding": ""})
    assert "content-encoding" not in old.headers
    assert old.headers["cache-control"] == "no-cache"
    for strange in ("/static/0/..%2f..%2f__init__.py", "/static/0/none.js"):
        assert looker.get(strange).status_code == 404


def test_the_first_address_leads_to_the_pages(app):
    assert Looker(app).get("/").headers["location"] == "/ui/"
    assert Looker(app).get("/ui").headers["location"] == "/ui/"
    nothing = signed_in(app, "viewer").get("/ui/nothing")
    assert nothing.status_code == 404
    assert "There is nothing here" in nothing.text


def test_an_error_page_is_shown_even_without_a_ledger(app, monkeypatch):
    from catchment.core.errors import Unavailable

    def away(*_):
        raise Unavailable("the ledger does not answer", kind="ledger-down", hint="try again")

    looker = signed_in(app, "viewer")
    monkeypatch.setattr(People, "session", away)
    answer = looker.get("/ui/runs")
    assert answer.status_code == 503
    assert "ledger-down" in answer.text


def test_an_upload_is_told_with_what_changed_and_what_waits(app, monkeypatch):
    from catchment.studies import arrivals

    file = {"name": "flu__a.cube.parquet", "accepted": None, "rows": None, "findings": []}
    quality = {"rows": {"before": 2, "now": 2}, "total": {"before": 9, "now": 1200}, "columns": {}}
    files = [file | {"quality": {}}, file | {"accepted": True, "quality": quality}]
    part = {"filename": "flu.zip", "state": "processing", "accepted": None, "error": None}
    told = {"transaction": "t", "study": "flu", "state": "processing"}
    answer = told | {"uploads": [part | {"files": files}]}
    monkeypatch.setattr(arrivals, "show", lambda *_: answer)
    text = signed_in(app, "anna").get("/ui/site/uploads/t").text
    assert "waits" in text
    assert "refused" not in text
    assert "total 1,200, before 9" in text
