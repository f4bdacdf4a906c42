"""Several hosts on one PostgreSQL ledger and one S3 store: leases, fencing, catch-up, load."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from catchment.core.capability import load
from catchment.core.ledger import Ledger
from catchment.core.workspace import Workspace
from catchment.testing.centers import change_center, make_centers
from catchment.testing.hosts import Host, doors
from catchment.testing.postgres import postgres  # noqa: F401 - a fixture
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from catchment.testing.workspaces import AGGREGATES, contents, make_inputs, make_workspace, run

TABLES = "tables/main"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "in"
    make_inputs(folder)
    return folder


@pytest.fixture
def centers(made, tmp_path):
    """The centers, to be changed by one test."""
    return make_centers(
        tmp_path / "own" / "sites", centers=6, columns=12, rows=(100, 200), broken=0
    )


@pytest.fixture
def place(centers, made, tmp_path, moto, postgres):  # noqa: F811
    """A workspace in S3 with a ledger in PostgreSQL: its folder, its ledger's URL, and doors."""
    for name in ("claims", "north", "south", "recordings"):
        (tmp_path / "own" / name).symlink_to(made / name)
    url = postgres.database()
    store = f"s3://{moto.bucket}/{tmp_path.name}"
    lines = "\n".join(f'{name} = "{value}"' for name, value in moto.options.items())
    where = f'store = "{store}"\nledger = "{url}"\n\n[s3]\n' + lines.replace('"true"', "true")
    folder = make_workspace(tmp_path / "w", tmp_path / "own", workspace=where)
    ports = [postgres.port, urlsplit(moto.endpoint).port]
    with (
        tempfile.TemporaryDirectory(prefix="cm-") as short,  # the path of a socket is short
        doors(Path(short), ports) as opened,
    ):
        yield folder, url, opened


@pytest.fixture
def hosts(tmp_path, place):
    return [Host(f"host{n}", tmp_path / "hosts", place[2]) for n in range(8)]


def tables(host, place, *more, code=0):
    got, out = host.run("-w", str(place[0]), "tables", "run", "--json", *more)
    assert got == code, out
    return json.loads(out)


def wanted(tmp_path, name="fresh"):
    """What a workspace comes to that sees the inputs as they are now for the first time."""
    with Workspace.open(make_workspace(tmp_path / name, tmp_path / "own")) as workspace:
        run(workspace, TABLES)
        return contents(workspace, TABLES)


def found(place):
    with Workspace.open(place[0]) as workspace:
        numbers = [s.number for s in workspace.ledger.snapshots(TABLES)]
        assert numbers == list(range(len(numbers), 0, -1))
        assert not workspace.ledger.unsealed(TABLES)
        return contents(workspace, TABLES)


def test_a_host_catches_up_with_what_another_did(hosts, place, centers, tmp_path):
    a, b = hosts[:2]
    assert tables(a, place)["state"] == "published"
    assert tables(b, place)["state"] == "unchanged"
    assert not (b.home / "state").exists()  # nothing that is true is kept on a host
    change_center(centers, centers.ids[1])
    assert tables(b, place)["snapshot"] == 2
    assert tables(a, place)["state"] == "unchanged"
    assert found(place) == wanted(tmp_path)
    code, out = a.run("-w", str(place[0]), "tables", "verify", "--json")
    assert code == 0, out


def test_a_host_that_is_cut_off_says_so_and_goes_on_later(hosts, place):
    place[2].close()
    got, out = hosts[0].run("-w", str(place[0]), "tables", "run", "--json")
    if hosts[0].isolated:
        assert got == 5, out
        assert json.loads(out)["error"]["kind"] == "ledger-down"
    place[2].open()
    assert tables(hosts[0], place)["snapshot"] == 1


def test_one_of_two_publishes(hosts, place, tmp_path):
    started = [h.start("-w", str(place[0]), "tables", "run", "--json") for h in hosts[:3]]
    told = [json.loads(p.communicate(timeout=120)[0]) for p in started]
    states = [one.get("state") or one["error"]["kind"] for one in told]
    assert states.count("published") == 1
    assert set(states) <= {"published", "unchanged", "lease-held"}
    assert found(place) == wanted(tmp_path)


def test_a_host_that_slept_publishes_nothing(hosts, place, centers, tmp_path):
    """Stopped in the middle for longer than its lease; meanwhile another one does the work."""
    slow = hosts[0].start("-w", str(place[0]), "tables", "run", "--json")
    engine = sa.create_engine(place[1].replace("postgresql://", "postgresql+psycopg://"))
    with Ledger.open(place[1]) as ledger:
        end = time.monotonic() + 60
        while (lease := ledger.lease(TABLES)) is None:
            assert time.monotonic() < end
            time.sleep(0.005)
        _signal(slow.pid, signal.SIGSTOP)
        assert lease.holder.startswith("host0" if hosts[0].isolated else "")
        with engine.begin() as connection:  # a minute goes by
            past = "UPDATE aggregates SET expires_at = expires_at - interval '2 minutes'"
            connection.execute(sa.text(past))
        engine.dispose()
    change_center(centers, centers.ids[2])
    assert tables(hosts[1], place)["snapshot"] == 1
    _signal(slow.pid, signal.SIGCONT)
    out, _ = slow.communicate(timeout=120)
    told = json.loads(out)
    if "error" in told:
        assert told["error"]["kind"] in {"lease-lost", "lease-held"}
    else:  # it had done nothing yet when it was stopped
        assert told["state"] in {"published", "unchanged"}
    assert tables(hosts[2], place)["state"] in {"published", "unchanged"}
    assert found(place) == wanted(tmp_path)


def _signal(pid, number):
    import psutil

    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        os.kill(one.pid, number)


def test_a_host_that_is_lost_leaves_nothing_half_done(hosts, place, centers, tmp_path):
    assert tables(hosts[0], place)["snapshot"] == 1
    change_center(centers, centers.ids[0])
    dying = hosts[1].start("-w", str(place[0]), "tables", "run", "--json")
    with Ledger.open(place[1]) as ledger:
        end = time.monotonic() + 60
        while ledger.lease(TABLES) is None:
            assert time.monotonic() < end
            time.sleep(0.005)
    time.sleep(0.1)
    _signal(dying.pid, signal.SIGKILL)
    dying.communicate()
    engine = sa.create_engine(place[1].replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        past = "UPDATE aggregates SET expires_at = expires_at - interval '2 minutes'"
        connection.execute(sa.text(past))
    engine.dispose()
    assert tables(hosts[2], place)["snapshot"] == 2
    assert found(place) == wanted(tmp_path)


def test_eight_hosts_at_once(hosts, place, centers, tmp_path):
    """All four kinds of work, by whoever comes first; the inputs change meanwhile."""
    for round_ in range(2):
        started = [
            host.start("-w", str(place[0]), "run", AGGREGATES[(n + round_) % 4], "--json")
            for n, host in enumerate(hosts)
        ]
        change_center(centers, centers.ids[round_])
        for process in started:
            out, errors = process.communicate(timeout=250)
            told = out + errors
            # Somebody else is at it, or a file changed while it was looked at: once more, later.
            fine = process.returncode == 0 or any(word in told for word in ("lease-held", "moved"))
            assert fine, told
    code, out = hosts[0].run("-w", str(place[0]), "run", "--json")  # all of them
    assert code == 0, out
    assert found(place) == wanted(tmp_path)
    with Workspace.open(place[0]) as workspace:
        for aggregate in AGGREGATES:
            capability, _, name = aggregate.partition("/")
            assert list(load(capability).verify(workspace, name)) == []
            numbers = [s.number for s in workspace.ledger.snapshots(aggregate)]
            assert numbers == list(range(len(numbers), 0, -1))
