"""Somebody who looks at the pages, without a browser."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from catchment.core.ledger.access import Access
from catchment.core.ledger.people import People
from tests.web.serving import HASH, SECRET

ROLES = ("viewer", "steward", "operator")


def add_people(workspace):
    """One of each role, by its name."""
    people = People(workspace.ledger)
    for role in ROLES:
        people.add(role, role, HASH)


class Looker:
    """A browser of the poor: keeps cookies, sends forms with their tokens."""

    def __init__(self, app, base="http://testserver"):
        self.client = TestClient(app, base_url=base, follow_redirects=False)

    def get(self, path, **more):
        return self.client.get(path, **more)

    def token(self, path):
        """The form token of a page."""
        found = re.search(r'name="csrf" value="([^"]*)"', self.get(path).text)
        return found[1] if found else ""

    def sign_in(self, user, password=SECRET, to="/ui/", **headers):
        fields = {"user": user, "password": password, "next": to}
        fields["csrf"] = self.token("/ui/sign-in")
        return self.client.post("/ui/sign-in", data=fields, headers=headers)

    def post(self, path, token=None, **fields):
        fields["csrf"] = self.token("/ui/runs") if token is None else token
        return self.client.post(path, data=fields)


def signed_in(app, user, base="http://testserver"):
    """Somebody who is signed in."""
    looker = Looker(app, base)
    answer = looker.sign_in(user)
    assert answer.status_code == 303, answer.text
    assert urlsplit(answer.headers["location"]).path.startswith("/ui/")
    return looker


def add_site_user(workspace, user="dan", site="denver"):
    Access(workspace.ledger).add(site, user, HASH)
