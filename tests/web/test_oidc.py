"""Sign-in by OpenID Connect against a real provider on loopback: code, PKCE, signed identity."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from catchment.core.ledger.people import People
from catchment.core.sections import OidcSettings
from catchment.web.app import create_app
from catchment.web.pages.oidc import role_of
from tests.web.looking import Looker
from tests.web.serving import make_workspace

mock = pytest.importorskip("oidc_provider_mock")
SETTINGS = """
issuer = "{issuer}"
client_id = "catchment"
client_secret = "a secret of the client"
name = "the hospital"
viewers = ["staff"]
operators = ["admins"]
"""
GROUPS = {"olga": ["staff", "admins"], "victor": ["staff"], "nobody": []}


@pytest.fixture(scope="module")
def provider():
    """Its URL; it names itself by the host that it is asked by."""
    users = [
        mock.User(sub=name, claims={"preferred_username": name, "groups": groups})
        for name, groups in GROUPS.items()
    ]
    with mock.run_server_in_thread(user_claims=users) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def app(tmp_path, provider):
    with make_workspace(tmp_path, oidc=SETTINGS.format(issuer=provider)) as workspace:
        yield create_app(workspace, process=False)


def begin(looker, to="/ui/runs"):
    answer = looker.get(f"/ui/oidc/start?next={to}")
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def agree(url, who):
    """What a person does at the provider; the address to come back to."""
    answer = httpx.post(url, data={"sub": who})
    assert answer.status_code in {302, 303}, answer.text
    back = urlsplit(answer.headers["location"])
    return f"{back.path}?{back.query}"


def test_a_group_gives_a_role(app):
    looker = Looker(app)
    assert "Sign in by the hospital" in looker.get("/ui/sign-in").text
    url = begin(looker)
    asked = parse_qs(urlsplit(url).query)
    assert asked["code_challenge_method"] == ["S256"]
    back = looker.get(agree(url, "olga"))
    assert (back.status_code, back.headers["location"]) == (303, "/ui/runs")
    assert looker.get("/ui/audit").status_code == 200
    deed = app.state.pages.people.deeds()[0]
    assert (deed.user, deed.role, deed.action, deed.target) == (
        "olga", "operator", "sign-in", "oidc",
    )  # fmt: skip


def test_a_lesser_group_gives_a_lesser_role(app):
    looker = Looker(app)
    assert looker.get(agree(begin(looker), "victor")).status_code == 303
    assert looker.get("/ui/runs").status_code == 200
    assert looker.get("/ui/audit").status_code == 403


def test_who_is_in_no_group_is_let_in_nowhere(app):
    looker = Looker(app)
    answer = looker.get(agree(begin(looker), "nobody"))
    assert answer.status_code == 403
    assert "oidc-no-role" in answer.text
    assert looker.get("/ui/runs").status_code == 303


def test_the_way_back_is_for_one_browser_once(app):
    looker, thief = Looker(app), Looker(app)
    back = agree(begin(looker), "olga")
    stolen = thief.get(back)
    assert stolen.status_code == 403  # and the state is used up by the attempt
    assert looker.get(back).status_code == 403
    again = agree(begin(looker), "olga")
    assert looker.get(again).status_code == 303
    assert Looker(app).get("/ui/oidc/back?state=none&code=x").status_code == 403


def test_a_code_that_the_provider_does_not_know_opens_nothing(app):
    looker = Looker(app)
    back = agree(begin(looker), "olga")
    forged = re.sub(r"code=[^&]+", "code=forged", back)
    answer = looker.get(forged)
    assert answer.status_code == 403
    assert "oidc-refused" in answer.text
    refused = Looker(app)
    state = parse_qs(urlsplit(begin(refused)).query)["state"][0]
    assert refused.get(f"/ui/oidc/back?state={state}&error=access_denied").status_code == 403


def test_an_identity_for_somebody_else_is_refused(app, monkeypatch):
    """The nonce ties the identity to this sign-in."""
    looker = Looker(app)
    back = agree(begin(looker), "olga")
    found = People.take

    def other(self, token, kind):
        session = found(self, token, kind)
        session.data["nonce"] = "another"
        return session

    monkeypatch.setattr(People, "take", other)
    answer = looker.get(back)
    assert answer.status_code == 403
    assert "not for this sign-in" in answer.text


def test_a_provider_that_is_away_is_said_so(tmp_path):
    with make_workspace(tmp_path, oidc=SETTINGS.format(issuer="http://127.0.0.1:9")) as workspace:
        looker = Looker(create_app(workspace, process=False))
        answer = looker.get("/ui/oidc/start")
        assert answer.status_code == 503
        assert "oidc-down" in answer.text


def test_another_issuer_is_refused(tmp_path, provider, monkeypatch):
    from catchment.web.pages import oidc

    asked = oidc._ask
    monkeypatch.setattr(oidc, "_ask", lambda url: asked(url) | {"issuer": "http://evil.example"})
    with make_workspace(tmp_path, oidc=SETTINGS.format(issuer=provider)) as workspace:
        answer = Looker(create_app(workspace, process=False)).get("/ui/oidc/start")
        assert answer.status_code == 403
        assert "another issuer" in answer.text


def test_an_identity_that_another_key_signed_is_refused(app, monkeypatch):
    from joserfc.jwk import KeySet, RSAKey

    from catchment.web.pages import oidc

    looker = Looker(app)
    back = agree(begin(looker), "olga")
    asked = oidc._ask
    other = KeySet([RSAKey.generate_key(2048)]).as_dict(private=False)
    monkeypatch.setattr(oidc, "_ask", lambda url: other if "jwks" in url else asked(url))
    answer = looker.get(back)
    assert answer.status_code == 403
    assert "cannot be verified" in answer.text
    assert looker.get("/ui/runs").status_code == 303


def test_without_settings_there_is_none(quiet):
    looker = Looker(quiet.client.app)
    assert looker.get("/ui/oidc/start").status_code == 404
    assert "oidc" not in looker.get("/ui/sign-in").text


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["admins", "staff"]}, "operator"),
        ({"groups": "staff"}, "viewer"),
        ({"groups": ["stuff", 3, None]}, ""),
        ({"groups": None}, ""),
        ({}, ""),
    ],
)
def test_the_greatest_role_counts(claims, role):
    settings = OidcSettings(viewers=("staff",), operators=("admins",))
    assert role_of(settings, claims) == role


def test_a_provider_that_goes_away_on_the_way_back(app, monkeypatch):
    from catchment.core.errors import Unavailable
    from catchment.web.pages import oidc

    looker = Looker(app)
    back = agree(begin(looker), "olga")
    asked = oidc._ask

    def away(url):
        if "jwks" in url:
            raise Unavailable("away", kind="oidc-down")
        return asked(url)

    monkeypatch.setattr(oidc, "_ask", away)
    assert looker.get(back).status_code == 503


def test_authlib_is_an_extra(app, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "authlib.integrations.httpx_client", None)
    answer = Looker(app).get("/ui/oidc/start")
    assert answer.status_code == 400
    assert "catchment[oidc]" in answer.text
