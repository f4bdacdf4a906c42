"""People, sessions and the audit log of the pages, in the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound
from catchment.core.ledger import Ledger
from catchment.core.ledger.access import Access
from catchment.core.ledger.people import LINK, STATE, People
from catchment.core.ledger.schema import audit, people, sessions

DAY = timedelta(days=1)


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", clock=clock) as opened:
        yield opened


@pytest.fixture
def them(ledger):
    return People(ledger)


def test_a_user_has_a_name_a_role_and_a_hash(them):
    made = them.add("vera", "viewer", "hash")
    assert them.add("vera", "viewer", "hash").user == "vera"  # the answer was lost
    assert them.find("vera") == (made, "hash")
    assert them.find("nobody") is None
    assert them.listed() == [made]
    with pytest.raises(Conflict) as error:
        them.add("vera", "viewer", "other")
    assert error.value.kind == "user-taken"


def test_a_name_belongs_to_one_kind_of_user(them, ledger):
    Access(ledger).add("boston", "anna", "hash")
    with pytest.raises(Conflict):
        them.add("anna", "viewer", "hash")


@pytest.mark.parametrize(
    ("role", "site"), [("king", ""), ("viewer", "boston"), ("site", ""), ("site", "../boston")]
)
def test_a_role_is_one_of_four_and_a_site_goes_with_one_of_them(them, role, site):
    with pytest.raises(Invalid) as error:
        them.add("vera", role, "hash", site)
    assert error.value.kind in {"bad-role", "bad-name"}
    assert error.value.hint


def test_a_change_ends_the_sessions_of_the_user_and_of_nobody_else(them):
    them.add("vera", "viewer", "hash")
    them.add("stella", "steward", "hash")
    for user in ("vera", "stella"):
        them.begin(f"token of {user}", "user", user, "viewer", lasts=DAY)
    assert them.session("token of stella").role == "steward"  # as it is now, not as it was
    assert them.change("vera", hashed="new").role == "viewer"
    assert them.session("token of vera") is None
    assert them.session("token of stella") is not None
    assert them.find("vera")[1] == "new"
    them.remove("stella")
    assert them.session("token of stella") is None
    for verb in (lambda: them.remove("stella"), lambda: them.change("stella", role="viewer")):
        with pytest.raises(NotFound) as error:
            verb()
        assert error.value.kind == "no-person"


def test_a_session_ends_and_is_forgotten(them, clock, ledger):
    them.add("vera", "viewer", "hash")
    them.begin("token", "user", "vera", "viewer", lasts=DAY)
    clock.now += DAY - timedelta(seconds=1)
    assert them.session("token").user == "vera"
    clock.now += timedelta(seconds=1)
    assert them.session("token") is None
    them.begin("other", "oidc", "olga", "steward", lasts=DAY)
    assert them.session("other").role == "steward"
    count = ledger._database.read(lambda c: c.scalar(sa.select(sa.func.count(sessions.c.digest))))
    assert count == 1
    them.end("other")
    assert them.session("other") is None


def test_no_token_is_kept(them, ledger):
    token = them.link("viewer")
    rows = ledger._database.read(lambda c: c.execute(sa.select(sessions)).all())
    assert token not in str(rows)


def test_links_and_states_are_no_sessions_and_are_used_once(them, clock):
    link = them.link()
    them.begin("state", STATE, "", "", lasts=DAY, data={"nonce": "n"})
    assert them.session(link) is None
    assert them.session("state") is None
    assert them.peek(link, LINK)
    assert not them.peek(link, STATE)
    assert them.take(link, STATE) is None
    assert them.take(link, LINK).role == "operator"
    assert them.take(link, LINK) is None
    assert them.take("state", STATE).data == {"nonce": "n"}
    late = them.link()
    clock.now += timedelta(hours=1)
    assert them.take(late, LINK) is None
    with pytest.raises(Invalid):
        them.link("site")


def test_the_audit_log_tells_when_it_was_changed(them, ledger):
    for n in range(5):
        them.note("otto", "operator", "export cancelled", f"exports/{n}", {"n": n})
    assert [deed.target for deed in them.deeds(limit=2)] == ["exports/4", "exports/3"]
    assert [deed.id for deed in them.deeds(before=3)] == [2, 1]
    assert them.check_audit().lines == 5
    gone = sa.delete(audit).where(audit.c.id == 3)
    ledger._database.write(lambda c: c.execute(gone))
    with pytest.raises(Corrupt) as error:
        them.check_audit()
    assert error.value.kind == "audit-broken"


def test_the_chain_holds_when_many_write_on_postgres(postgres):
    from concurrent.futures import ThreadPoolExecutor

    with Ledger.open(postgres.database()) as ledger, ThreadPoolExecutor(8) as pool:
        them = People(ledger)
        list(pool.map(lambda n: them.note("a", "viewer", "looked", str(n)), range(40)))
        assert them.check_audit().lines == 40
        them.add("vera", "viewer", "hash")
        them.begin("token", "user", "vera", "viewer", lasts=DAY)
        assert them.session("token").user == "vera"
        names = ledger._database.read(lambda c: c.scalars(sa.select(people.c.user)).all())
        assert names == ["vera"]


def test_sessions_of_a_site_end_with_the_secret_that_began_them(ledger, them, clock):
    access = Access(ledger)
    for user in ("anna", "bert"):
        access.add("boston", user, "h1")
        them.begin(user, "site", user, "site", "boston", lasts=DAY)
    access.rotate("anna", "h2", timedelta(hours=1))
    them.begin("later", "site", "anna", "site", "boston", lasts=DAY)
    assert them.session("anna")
    clock.now += timedelta(hours=1)
    assert them.session("anna") is None
    assert them.session("later")
    access.rotate("anna", "h3", timedelta())
    assert them.session("later") is None
    assert them.session("bert")
