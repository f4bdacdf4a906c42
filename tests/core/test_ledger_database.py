"""The database below the ledger: how it is opened, what its errors become, what it costs."""

import json
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from catchment.core.errors import Corrupt, Invalid, Unavailable
from catchment.core.ledger import Delivery, Ledger, migrate, schema
from catchment.core.ledger.database import Database
from catchment.testing.ledger_samples import AGGREGATE, publication, refused, step

SECRET = "hunter2"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def url(file):
    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request, url):
    return url if request.param == "sqlite" else request.getfixturevalue("postgres").database()


# Opening


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ledger.db",
        "sqlite://",
        "sqlite:///:memory:",
        f"mysql://me:{SECRET}@host/ledger",
        f"postgresql+asyncpg://me:{SECRET}@host/ledger",
        f"postgresql://me:{SECRET}@host:port/ledger",
    ],
)
def test_other_urls_are_refused_without_repeating_them(bad):
    with pytest.raises(Invalid) as caught:
        Ledger.open(bad)
    assert caught.value.kind == "bad-ledger-url"
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_relative_path_is_resolved_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger.open("sqlite:///ledger.db")
    step(ledger, "a")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(ledger)).latest(AGGREGATE).number == 1
    assert repr(ledger) == f"Ledger('sqlite:///{tmp_path}/ledger.db')"


def test_sqlite_is_durable_and_keeps_references(url):
    with Ledger.open(url) as ledger:
        settings = ["journal_mode", "synchronous", "foreign_keys", "fullfsync"]
        found = ledger._database.read(
            lambda c: [c.exec_driver_sql(f"PRAGMA {s}").scalar() for s in settings]
        )
    assert found == ["wal", 2, 1, 1]


def test_a_file_system_without_a_write_ahead_log_is_refused(url):
    with sqlite3.connect(":memory:") as connection, refused("ledger-no-wal", Invalid):
        Database(url, 1)._connected(connection, None)


def test_a_missing_folder_is_refused(tmp_path):
    with refused("ledger-refused", Invalid, match="SQLITE_CANTOPEN"):
        Ledger.open(f"sqlite:///{tmp_path}/none/ledger.db")


def test_a_database_of_something_else_is_refused(file, url):
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
    with refused("not-a-ledger", Invalid):
        Ledger.open(url)


@pytest.mark.parametrize("version", [f"{int(migrate.HEAD) + 1:04}", "9999"])
def test_a_ledger_of_a_newer_version_is_refused(any_url, version):
    with Ledger.open(any_url) as ledger:
        ledger._database.write(
            lambda c: c.execute(sa.text(f"UPDATE catchment_version SET version_num = '{version}'"))
        )
    with refused("ledger-newer", Invalid, match=version):
        Ledger.open(any_url)


def test_a_lost_version_is_told_as_a_contradiction(url):
    with Ledger.open(url) as ledger:
        ledger._database.write(lambda c: c.execute(sa.text("DELETE FROM catchment_version")))
    with refused("ledger-contradiction", Corrupt):
        Ledger.open(url)


def test_a_ledger_that_another_process_makes_between_two_questions(any_url, monkeypatch):
    def asked_early(c):
        answers = [None]
        known = c.scalar
        monkeypatch.setattr(c, "scalar", lambda *a: answers.pop() if answers else known(*a))
        return migrate._version(c, "it")

    with Ledger.open(any_url) as ledger:
        assert ledger._database.read(asked_early) == migrate.HEAD


def described(c):
    """All tables: columns, keys, constraints, indexes; by names, for their order says nothing."""
    at = sa.inspect(c)
    asked = ("columns", "pk_constraint", "foreign_keys", "unique_constraints", "check_constraints")
    return {
        (table, what): sorted(json.dumps(one, default=str) for one in told)
        for table in at.get_table_names()
        for what in (*asked, "indexes")
        for found in [getattr(at, f"get_{what}")(table)]
        for told in [found if isinstance(found, list) else [found]]
    }


def test_migrations_make_the_schema_that_a_new_ledger_gets_at_once(request, tmp_path, any_url):
    other = f"sqlite:///{tmp_path / 'other.db'}"
    if any_url.startswith("postgresql"):
        other = request.getfixturevalue("postgres").database()
    with Ledger.open(any_url) as ledger:
        at_once = ledger._database.read(described)
    database = Database(other, 1)
    database.write(migrate.upgrade)
    assert database.read(described) == at_once
    assert database.read(
        lambda c: compare_metadata(
            MigrationContext.configure(c, opts={"version_table": migrate.VERSION_TABLE}),
            schema.metadata,
        )
    ) == []  # fmt: skip
    database.close()
    with Ledger.open(other) as ledger:
        assert ledger.aggregates() == []


def test_head_is_the_last_migration():
    folder = Path(migrate.__file__).with_name("migrations")
    assert ScriptDirectory(str(folder)).get_current_head() == migrate.HEAD


def test_a_ledger_of_the_first_version_is_upgraded_with_all_it_holds(any_url):
    database = Database(any_url, 1)
    database.write(lambda c: migrate.upgrade(c, "0001"))
    assert "uploads" not in database.read(lambda c: sa.inspect(c).get_table_names())
    known = [(schema.aggregates, {"name": AGGREGATE})]
    known += [(schema.contributions, {"aggregate": AGGREGATE, "site": "alpha", "name": "uds/1",
                "digest": "sha256:a", "size": 7, "state": "received", "meta": {},
                "received_at": datetime(2026, 1, 1, tzinfo=UTC)})]  # fmt: skip
    database.write(lambda c: [c.execute(sa.insert(table), row) for table, row in known])
    database.close()
    with Ledger.open(any_url) as ledger:
        assert ledger.counts() == [(AGGREGATE, "alpha", "received", 1)]
        assert [one.name for one in ledger.contributions(AGGREGATE)] == ["uds/1"]
        assert "uploads" in ledger._database.read(lambda c: sa.inspect(c).get_table_names())


def test_alembic_is_imported_for_migrations_only(url):
    code = f"import sys; from catchment.core.ledger import Ledger; Ledger.open({url!r}); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_psycopg_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with refused("postgres-missing", Invalid):
        Ledger.open(f"postgresql://me:{SECRET}@host/ledger")


# Errors of SQLite


def test_a_malformed_file_is_corrupt(file, url):
    file.write_bytes(b"no database " * 1000)
    with refused("ledger-malformed", Corrupt):
        Ledger.open(url)


def test_a_damaged_page_is_corrupt(file, url):
    with Ledger.open(url) as ledger:
        many = [Delivery("alpha", str(i), "sha256:a", 1) for i in range(2000)]
        ledger.receive_many(AGGREGATE, many)
    data = bytearray(file.read_bytes())
    data[80 * 4096 :] = b"\xff" * (len(data) - 80 * 4096)  # behind the schema
    file.write_bytes(data)
    with Ledger.open(url) as ledger, refused("ledger-malformed", Corrupt):
        list(ledger.contributions(AGGREGATE))


def test_a_missing_table_is_a_contradiction(url):
    with Ledger.open(url) as ledger:
        ledger._database.write(lambda c: c.execute(sa.text("DROP TABLE transitions")))
        with refused("ledger-contradiction", Corrupt):
            ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 1)
        assert ledger.aggregates() == []


def test_a_locked_file_is_waited_for_and_then_unavailable(file, url):
    with Ledger.open(url, patience=0.3) as ledger, sqlite3.connect(file) as other:
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with refused("ledger-locked", Unavailable):
            step(ledger, "a")
        assert 0.3 < time.monotonic() - start < 3
        assert ledger.aggregates() == []  # readers do not wait
    with Ledger.open(url) as ledger, sqlite3.connect(file, check_same_thread=False) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.rollback)
        timer.start()
        assert step(ledger, "a").number == 1
        timer.join()


def test_a_lease_is_kept_through_a_lock(file, url):
    with (
        Ledger.open(url, patience=0.1) as ledger,
        ledger.holding(AGGREGATE, ttl=timedelta(seconds=3)) as lease,
        sqlite3.connect(file) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        time.sleep(1.3)  # a renewal was due, and failed
        other.rollback()
        time.sleep(1.2)
        assert ledger.lease(AGGREGATE).expires_at > lease.expires_at


def test_a_full_disk_changes_nothing(url):
    with Ledger.open(url) as ledger:
        step(ledger, "a")
        ledger.close()

        def small(connection, record):
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")

        sa.event.listen(ledger._database.engine, "connect", small)
        with refused("disk-full", Unavailable):
            ledger.publish(publication("b", provenance={"text": "x" * 100_000}))
        assert ledger.latest(AGGREGATE).number == 1
        assert len(ledger.runs()) == 1


def sqlite_error(code):
    error = sqlite3.OperationalError("secret")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "error", "kind"),
    [
        (sqlite3.SQLITE_LOCKED, Unavailable, "ledger-locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Unavailable, "ledger-locked"),
        (sqlite3.SQLITE_IOERR_FSYNC, Unavailable, "ledger-down"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Unavailable, "disk-full"),
        (sqlite3.SQLITE_READONLY, Invalid, "ledger-refused"),
        (sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY, Corrupt, "ledger-contradiction"),
        (12345678, Corrupt, "ledger-contradiction"),
    ],
)
def test_errors_of_sqlite_have_their_place(url, code, error, kind):
    mapped = Database(url, 1).translate(sa.exc.OperationalError("SELECT", {}, sqlite_error(code)))
    assert (type(mapped), mapped.kind) == (error, kind)
    assert "secret" not in str(mapped)


def test_a_pool_without_a_free_connection_is_locked(url):
    assert Database(url, 1).translate(sa.exc.TimeoutError("pool")).kind == "ledger-locked"


# Costs


@pytest.mark.parametrize(
    ("verb", "plan"),
    [
        (lambda ledger: ledger.counts(), "SCAN contribution_counts"),
        (
            lambda ledger: ledger.counts("a"),
            "contribution_counts USING INDEX sqlite_autoindex_contribution_counts_1 (aggregate=?)",
        ),
        (lambda ledger: list(ledger.contributions("a")), "contributions_aggregate_site_id_ix (agg"),
        (
            lambda ledger: list(ledger.contributions("a", state="x")),
            "contributions_aggregate_state_site_id_ix (aggregate=? AND state=?)",
        ),
        (
            lambda ledger: list(ledger.contributions("a", site="x", name="y")),
            "(aggregate=? AND site=? AND name=?)",
        ),
        (
            lambda ledger: ledger.runs("a", before="b"),
            "runs_aggregate_id_ix (aggregate=? AND id<?)",
        ),
        (lambda ledger: ledger.findings(run="a"), "sqlite_autoindex_findings_1 (run=?)"),
        (lambda ledger: ledger.findings(site="a"), "findings_site_run_id_ix (site=?)"),
        (lambda ledger: ledger.history(1), "transitions_contribution_id_ix (contribution=?)"),
        (lambda ledger: ledger.unsealed("a"), "snapshots_unsealed_ix (aggregate=?)"),
    ],
)
def test_listings_read_an_index(url, verb, plan):
    asked = []
    with Ledger.open(url) as ledger:
        sa.event.listen(
            ledger._database.engine,
            "before_cursor_execute",
            lambda c, cursor, sql, parameters, *_: asked.append((sql, parameters)),
        )
        verb(ledger)
        sql, parameters = asked[-1]
        lines = ledger._database.read(
            lambda c: c.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
        )
    assert plan in " ".join(line[3] for line in lines)


def test_many_threads_share_one_ledger(any_url):
    with Ledger.open(any_url) as ledger, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: step(ledger, str(i)).number, range(40)))
    assert sorted(made) == list(range(1, 41))
