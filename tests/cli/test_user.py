"""``catchment user``: people of the pages."""

import io
import re
import sys

import pytest

from catchment.core import passwords
from catchment.core.ledger import Ledger
from catchment.core.ledger.people import People


@pytest.fixture
def user(catchment, tmp_path):
    (tmp_path / "catchment.toml").write_text("")
    return lambda *arguments: catchment("user", *arguments)


def people(tmp_path):
    return Ledger.open(f"sqlite:///{tmp_path}/.catchment/ledger.db")


def test_a_password_is_shown_once_and_only_its_hash_is_kept(user, tmp_path):
    made = user("add", "vera", "--role", "steward", "--json")
    assert made.code == 0
    password = made.json["password"]
    with people(tmp_path) as ledger:
        person, hashed = People(ledger).find("vera")
    assert person.role == "steward"
    assert passwords.match(password, [hashed])
    assert "password" not in user("list", "--json").json[0]
    assert user("add", "vera").code == 4


def test_a_password_may_be_given(user, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\n"))
    told = user("add", "vera", "--password-stdin", "--json")
    assert "password" not in told.json
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert user("password", "vera", "--password-stdin").code == 2
    again = user("password", "vera")
    new = re.search(r"password: (\w+)", again.out)[1]
    with people(tmp_path) as ledger:
        assert passwords.match(new, [People(ledger).find("vera")[1]])


def test_roles_change_and_users_go(user):
    user("add", "vera")
    assert "vera is site of boston" in user("role", "vera", "site", "--site", "boston").out
    assert user("role", "vera", "king").code == 2
    assert user("role", "nobody", "viewer").code == 3
    assert "vera" in user("list").out
    assert user("remove", "vera").out == "removed vera\n"
    assert user("list", "--json").json == []


def test_a_link_lets_somebody_in_once(user, tmp_path):
    url = user("link", "--role", "viewer").out.strip()
    assert url.startswith("http://127.0.0.1:8000/ui/link/")
    with people(tmp_path) as ledger:
        assert People(ledger).take(url.rpartition("/")[2], "link").role == "viewer"


def test_the_audit_log_is_shown_and_checked(user, tmp_path):
    user("list")  # there is a ledger
    with people(tmp_path) as ledger:
        People(ledger).note("otto", "operator", "export cancelled", "exports/claims")
    assert "export cancelled" in user("audit").out
    assert user("audit", "--json").json[0]["user"] == "otto"
    assert user("audit", "--check").out == "1 line: all is well\n"
