"""``catchment key``: a key is made, listed, used, and taken back."""

import pytest

from catchment.core.ledger import Ledger
from catchment.core.ledger.keys import Keys, Read


@pytest.fixture
def key(catchment, tmp_path):
    (tmp_path / "catchment.toml").write_text("")
    return lambda *arguments: catchment("key", *arguments)


def test_a_key_is_shown_once_and_taken_back(key, tmp_path):
    made = key("add", "charts", "--scope", "study:flu", "--scope", "site:boston", "--json")
    assert made.code == 0
    token = made.json["key"]
    with Ledger.open(f"sqlite:///{tmp_path}/.catchment/ledger.db") as ledger:
        keys = Keys(ledger)
        found = keys.find(token)
        assert (found.name, found.studies, found.sites) == ("charts", ("flu",), ("boston",))
        keys.note([])
        keys.note([Read(keys.now(), "charts", "/studies", 200)])
    assert "charts" in key("list").out
    assert token not in key("list", "--json").out
    assert "/studies" in key("reads").out
    assert key("reads", "nobody", "--json").json == []
    assert "removed charts" in key("remove", "charts").out
    assert key("list", "--json").json == []


def test_a_key_for_people(key):
    out = key("add", "charts", "--scope", "all").out
    assert "charts may read studies: all, sites: all" in out


def test_a_scope_is_needed(key):
    assert key("add", "charts", "--scope", "everything").code == 2
