"""Providers and store on S3, workers on a cluster, and providers that change while they are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from catchment.core.account import Line
from catchment.core.executor import open_executor
from catchment.core.store import open_store
from catchment.core.workspace import Workspace
from catchment.imaging import capability, layout
from catchment.imaging.model import Job, Options, Provider
from catchment.imaging.profile import Profile
from catchment.imaging.run import run
from catchment.imaging.snapshot import open_snapshot
from catchment.imaging.staging import SETTING
from catchment.testing.cluster import cluster
from catchment.testing.dicom import make_file
from catchment.testing.s3 import ministack, moto

__all__ = ["ministack", "moto"]

PROFILE = Profile("basic", b"0123456789abcdef")
ALL = Options(key=b"secret", previews="middle", archive="jpegls", profile=PROFILE)
CONFIG = {SETTING: PROFILE.described()}


def image(number, **more):
    return make_file(f"1.2.3.1.1.{number}", InstanceNumber=number, **more)


def tables(snapshot):
    """All that it says, but for what tells one store from another."""
    drop = ("modified", "etag", "delivery")
    return {
        name: sorted(
            str({k: v for k, v in row.items() if k not in drop})
            for row in snapshot[name].to_pylist()
        )
        for name in snapshot
    }


@pytest.fixture
def local(sites, job, house, opened):
    """What a run on this machine makes of the same files."""
    files = {f"{n}.dcm": image(n) for n in range(5)} | {"twice": image(1), "bad": b"no dicom"}
    sites(alpha=files, beta={"other": image(2, SeriesNumber=9)})
    run(replace(job, options=ALL, config=CONFIG), house)
    return files, tables(opened())


def test_on_s3_it_is_the_same(local, house, moto):
    files, expected = local
    theirs, ours = moto.store(), moto.store()
    for name, data in files.items():
        theirs.put(f"feed/{name}", data)
    theirs.put("feed-of-others/x", b"not of this provider")
    other = moto.store()
    other.put("other", image(2, SeriesNumber=9))
    providers = (Provider("alpha", theirs.url, "feed/"), Provider("beta", other.url))
    on_s3 = Job("ct2", providers, ALL, CONFIG)
    remote = replace(house, store=ours, open_store=lambda url: open_store(url, **moto.options))
    with open_executor("processes", 2) as executor:
        outcome = run(on_s3, replace(remote, executor=executor))
        again = run(on_s3, replace(remote, executor=executor))
    assert (outcome.state, again.state) == ("published", "unchanged")
    snapshot = open_snapshot(ours, house.ledger, "ct2")
    assert snapshot.verify(sources=True) == []
    told = tables(snapshot)
    strip = [(row.replace("imaging/ct2/", "imaging/ct/")) for row in told["compressed_images"]]
    assert sorted(strip) == expected["compressed_images"]
    for name in ("devices", "patients", "studies", "series", "images", "raw", "evidence"):
        assert told[name] == expected[name], name
    with snapshot.connect() as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (4,)


def test_a_workspace_on_s3(moto, monkeypatch, tmp_path):
    """Settings name everything; a DuckDB file shows what is in the bucket."""
    provider, store = moto.store(), moto.store()
    provider.put("1", image(1))
    settings = {f"s3.{key}": value for key, value in moto.options.items()} | {
        "workspace.store": store.url,
        "workspace.ledger": f"sqlite:///{tmp_path}/ledger.db",
        "imaging.ct.providers.alpha": provider.url,
        "imaging.ct.warehouse": str(tmp_path / "w.duckdb"),
        "imaging.ct.previews": "first",
    }
    with Workspace.described(settings) as workspace:
        assert capability.run(workspace, "ct").state == "published"
        assert capability.verify(workspace, "ct") == []
        assert capability.sites(workspace, "ct").keys() == {"alpha"}
        volume = capability.open_snapshot(workspace.store, workspace.ledger, "ct")
        assert volume.series("1.2.3.1.1").keys


def test_every_page_of_a_listing_is_read(ministack, house):
    """S3 lists a thousand keys at a time; there are more, and the last one is the image."""
    provider = ministack.store()
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda n: provider.put(f"{n:05}", b"same"), range(2005)))
    provider.put("99999", image(1))
    there = replace(house, open_store=lambda url: open_store(url, **ministack.options))
    job = Job("ct", (Provider("alpha", provider.url),))
    balance = run(job, there).account[Line("alpha", "files", "files")]
    assert (balance.received, balance.kept) == (2006, 1)
    assert balance.dropped == {"duplicate": 2004}
    assert balance.quarantined == {"not-dicom": 1}


class Shifting:
    """A provider's store that changes as it is listed: some files go, some come, some change."""

    def __init__(self, store, gone, come, changed):
        self._store = store
        self.gone, self.come, self.changed = gone, come, changed

    def __getattr__(self, name):
        return getattr(self._store, name)

    def list(self, prefix=""):
        for number, stat in enumerate(self._store.list(prefix)):
            if number == 1:
                for name in self.gone:
                    self._store.delete(name)
                for name, data in self.come.items():
                    self._store.put(name, data)
                for name, data in self.changed.items():
                    self._store.put(name, data, mode="overwrite")
                self.gone, self.come, self.changed = (), {}, {}
            yield stat


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_provider_that_changes_while_it_is_listed(where, request, house, tmp_path):
    """Nothing is lost or counted twice; what a listing missed, the next one finds."""
    if where == "s3":
        theirs = request.getfixturevalue("moto").store()
    else:
        theirs = open_store((tmp_path / "theirs").as_uri())
    for n in range(1, 7):
        theirs.put(f"{n}", image(n))
    changed = {"5": image(50), "2": image(20)}
    shifting = Shifting(theirs, ("3", "1"), {"0": image(100), "9": image(9)}, changed)
    job = Job("ct", (Provider("alpha", theirs.url),))
    there = replace(house, open_store=lambda _: shifting)
    total = 0
    for _ in range(4):
        outcome = run(job, there)
        balance = outcome.account[Line("alpha", "files", "files")]
        assert balance.missing == 0
        total += balance.received
        assert {f.code for f in outcome.findings} <= {"file-vanished", "file-moving"}
    assert outcome.state == "unchanged"
    snapshot = open_snapshot(house.store, house.ledger, "ct")
    assert snapshot.verify(sources=True) == []
    numbers = set(snapshot["images"]["InstanceNumber"].to_pylist())
    assert {4, 6, 9, 20, 50, 100} <= numbers <= {1, 2, 3, 4, 5, 6, 9, 20, 50, 100}
    assert total == snapshot.rows()["files"] == len(numbers)


def test_on_a_cluster_it_is_the_same(local, job, house, tmp_path):
    _, expected = local
    with (
        cluster(tmp_path, 2) as running,
        open_executor(running.address) as executor,
    ):
        on_cluster = replace(job, name="ct2", options=ALL, config=CONFIG)
        run(on_cluster, replace(house, executor=executor))
    snapshot = open_snapshot(house.store, house.ledger, "ct2")
    assert snapshot.verify(sources=True) == []
    told = tables(snapshot)
    strip = [(row.replace("imaging/ct2/", "imaging/ct/")) for row in told["compressed_images"]]
    assert sorted(strip) == expected["compressed_images"]
    for name in ("files", "images", "raw", "evidence"):
        assert told[name] == expected[name], name
    assert len(list(house.store.list(f"{layout.home('ct2')}stage/"))) == len(
        list(house.store.list(f"{layout.home('ct')}stage/"))
    )
