"""Users of sites, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound
from catchment.core.ledger import Ledger
from catchment.core.ledger.access import Access
from catchment.testing.ledger_samples import ManualClock, refused

HOUR = timedelta(hours=1)


def later(clock, by):
    clock.advance(seconds=by.total_seconds())


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request, tmp_path, clock):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/ledger.db"
    else:
        url = request.getfixturevalue("emptied_ledgers")[0]
    with Ledger.open(url, clock=clock) as opened:
        yield opened


@pytest.fixture
def access(ledger):
    return Access(ledger)


def test_a_user_belongs_to_one_site(access, clock):
    added = access.add("boston", "anna@boston.org", "h1")
    assert (added.user, added.site, len(added.secrets)) == ("anna@boston.org", "boston", 1)
    assert added.created_at == clock()
    assert access.hashes("anna@boston.org") == ("boston", ["h1"])
    for site, hashed in (("boston", "h2"), ("chicago", "h1")):
        if hashed == "h1":  # what a lost answer looks like: the same call again
            continue
        with refused("user-taken", Conflict, match="anna@boston.org"):
            access.add(site, "anna@boston.org", hashed)
    assert access.add("boston", "anna@boston.org", "h1") == added
    access.add("boston", "bert", "h3")
    access.add("aachen", "carl", "h4")
    assert [(u.site, u.user) for u in access.users()] == [
        ("aachen", "carl"), ("boston", "anna@boston.org"), ("boston", "bert"),
    ]  # fmt: skip
    assert [u.user for u in access.users("boston")] == ["anna@boston.org", "bert"]
    assert access.users("nowhere") == []


def test_names_are_matched_whole(access):
    for user in ("", "a:b", "ä", "a b", "-a", "a\n", "x" * 64, "a/b"):
        with refused("bad-name", Invalid):
            access.add("boston", user, "h")
        assert access.hashes(user) == ("", [])


def test_sites_are_names(access):
    with refused("bad-name", Invalid):
        access.add("../boston", "anna", "h")


def test_an_unknown_user_has_nothing(access):
    assert access.hashes("nobody") == ("", [])
    for verb in (lambda: access.rotate("nobody", "h", HOUR), lambda: access.remove("nobody")):
        with refused("no-user", NotFound, match="nobody"):
            verb()


def test_two_secrets_are_good_while_they_are_exchanged(access, clock):
    access.add("boston", "anna", "h1")
    access.rotate("anna", "h2", HOUR)
    assert access.hashes("anna") == ("boston", ["h2", "h1"])
    assert access.rotate("anna", "h2", HOUR) == access.users()[0]  # the same call again
    later(clock, timedelta(minutes=59))
    assert len(access.hashes("anna")[1]) == 2
    later(clock, timedelta(minutes=1))
    assert access.hashes("anna") == ("boston", ["h2"])
    rotated = access.rotate("anna", "h3", HOUR)
    assert access.hashes("anna") == ("boston", ["h3", "h2"])
    assert [s.ends_at for s in rotated.secrets] == [clock() + HOUR, None]
    access.rotate("anna", "h4", HOUR)
    assert access.hashes("anna") == ("boston", ["h4", "h3"])  # never three
    access.rotate("anna", "h5", timedelta())
    assert access.hashes("anna") == ("boston", ["h5"])


def test_who_is_removed_is_gone_with_all_secrets(access, ledger):
    access.add("boston", "anna", "h1")
    access.rotate("anna", "h2", HOUR)
    access.remove("anna")
    assert access.hashes("anna") == ("", [])
    assert access.users() == []
    count = ledger._database.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM site_secrets")))
    assert count == 0
    access.add("chicago", "anna", "h3")
    assert access.hashes("anna") == ("chicago", ["h3"])


def test_a_removal_whose_answer_was_lost_is_made_once(access, ledger, monkeypatch):
    access.add("boston", "anna", "h1")
    write, answers = ledger._database.write, []

    def lost(work):
        answers.append(write(work))
        return write(work)

    monkeypatch.setattr(ledger._database, "write", lost)
    access.remove("anna")
    assert access.users() == []


def test_of_many_at_once_one_gets_the_name(access):
    def add(n):
        try:
            return access.add(f"site{n}", "anna", f"h{n}").site
        except CatchmentError as error:
            return error.kind

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(add, range(8)))
    assert sorted(told)[1:] == ["user-taken"] * 7
    assert access.hashes("anna")[0] == min(told)


def test_nothing_shows_a_hash(access):
    assert "h1" not in repr(access.add("boston", "anna", "h1"))
