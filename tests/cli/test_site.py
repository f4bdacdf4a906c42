"""``catchment site``: users, and secrets that are shown once."""

import io
import sys

import pytest

from catchment.core import passwords
from catchment.core.ledger import Ledger
from catchment.core.ledger.access import Access


@pytest.fixture
def site(catchment, tmp_path):
    (tmp_path / "catchment.toml").write_text("")
    return lambda *arguments: catchment("site", *arguments)


def hashes(tmp_path, user):
    with Ledger.open(f"sqlite:///{tmp_path}/.catchment/ledger.db") as ledger:
        return Access(ledger).hashes(user)


def test_a_secret_is_shown_once(site, tmp_path):
    added = site("add", "boston", "--user", "anna@boston", "--json")
    assert added.code == 0
    secret = added.json["secret"]
    assert len(secret) == 64
    belongs, (hashed,) = hashes(tmp_path, "anna@boston")
    assert belongs == "boston"
    assert passwords.match(secret, [hashed])
    listed = site("list")
    assert "anna@boston" in listed.out
    assert secret not in listed.out + site("list", "--json").out
    assert site("list", "chicago", "--json").json == []


def test_a_secret_for_people(site):
    out = site("add", "boston", "--user", "anna").out
    assert "anna may upload for boston" in out
    assert "secret: " in out


def test_a_given_secret_comes_by_standard_input_and_is_not_shown(site, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\n"))
    added = site("add", "boston", "--user", "anna", "--secret-stdin")
    assert added.code == 0
    assert "correct horse" not in added.out + added.err
    assert passwords.match("correct horse battery", hashes(tmp_path, "anna")[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    refused = site("add", "boston", "--user", "ben", "--secret-stdin")
    assert refused.code == 2
    assert "16 to 1024" in refused.err


def test_rotation_and_removal(site, tmp_path):
    old = site("add", "boston", "--user", "anna", "--json").json["secret"]
    new = site("rotate", "anna", "--json").json["secret"]
    both = hashes(tmp_path, "anna")[1]
    assert passwords.match(old, both)
    assert passwords.match(new, both)
    assert len(site("list", "--json").json[0]["secrets"]) == 2
    site("rotate", "anna", "--keep", "0")
    assert not passwords.match(new, hashes(tmp_path, "anna")[1])
    assert site("remove", "anna").out == "removed anna\n"
    assert hashes(tmp_path, "anna") == ("", [])
    gone = site("remove", "anna")
    assert gone.code == 3
    assert "catchment site list" in gone.err


def test_errors_say_what_to_do(site):
    site("add", "boston", "--user", "anna")
    taken = site("add", "chicago", "--user", "anna")
    assert taken.code == 4
    assert "catchment site rotate anna" in taken.err
    assert site("add", "../boston", "--user", "ben").code == 2
    assert site("add", "bos__ton", "--user", "ben").code == 2  # '__' stands between names
    assert site("add", "boston", "--user", "b:en").code == 2
