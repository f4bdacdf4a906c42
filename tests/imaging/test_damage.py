"""Broken files, dead readers, kill -9, full disks: each file keeps its one state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from catchment.core.account import Line
from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.executor import open_executor
from catchment.core.ledger import Ledger
from catchment.core.safe import SafePool
from catchment.core.store import open_store
from catchment.imaging.compress import Image, Wanted, compress
from catchment.imaging.job import House
from catchment.imaging.model import Job, Options, Provider, State
from catchment.imaging.profile import Profile
from catchment.imaging.read import Stored, read_files
from catchment.imaging.run import run
from catchment.imaging.scanning import in_children
from catchment.imaging.snapshot import open_snapshot
from catchment.imaging.staging import SETTING
from catchment.testing.dicom import make_file
from catchment.testing.faults import Faults, every_fault, inject
from tests.forking import CONTEXT

sys.path.insert(0, str(Path(__file__).parent))  # children take it over
import killers

PROFILE = Profile("basic", b"0123456789abcdef")
STAGED = Options(previews="first", archive="jpegls", profile=PROFILE)

# Of the derived files: what each kind of damage comes to. `None`: any state, since the bytes that
# were changed may or may not matter.
EXPECTED = {
    "gz": {"gzip"},
    "trunc25": {"header-truncated", "pixels-truncated"},
    "trunc60": {"header-truncated", "pixels-truncated"},
    "trunc97": {"header-truncated", "pixels-truncated"},
    "hdrflip": {"header-truncated", "header-broken", "uid-malformed", "uid-missing"},
}


def states_of(snapshot):
    rows = snapshot["files"].to_pylist()
    return {row["name"].rpartition("/")[2]: (row["state"], row["reason"]) for row in rows}


def test_every_broken_file_has_its_state_and_reason(shared, house, tmp_path):
    """The 76 that were made from sound ones, read in children as they are outside of tests."""
    folder = shared / "data/imaging/derived_corrupt"
    job = Job("ct", (Provider("broken", folder.as_uri()),))
    with open_executor("processes", 2) as executor:
        outcome = run(job, replace(house, executor=executor))
    snapshot = open_snapshot(house.store, house.ledger, "ct")
    states = states_of(snapshot)
    assert len(states) == 76
    for name, (state, reason) in states.items():
        kind = name.rpartition("__")[2].removesuffix(".dcm")
        if kind in EXPECTED:
            assert state == State.QUARANTINED, name
            assert reason in EXPECTED[kind], name
    assert states["empty.dcm"] == (State.QUARANTINED, "empty")
    assert states["readme_as.dcm"] == states["lfs_pointer.dcm"] == (State.QUARANTINED, "not-dicom")
    assert states["zeros128_DICM.dcm"] == (State.QUARANTINED, "header-truncated")
    # What stays claims UIDs that its sound twin claims: nothing of it is published.
    balance = outcome.account[Line("broken", "files", "files")]
    assert balance.received == 76
    assert balance.missing == 0
    assert snapshot.verify(sources=True) == []


@pytest.mark.parametrize(
    ("options", "most"),
    [
        pytest.param(None, 3_000_000, id="plain"),
        pytest.param(STAGED, 150_000, id="staged"),
        pytest.param(None, 1 << 40, marks=pytest.mark.soak, id="plain-all"),
        pytest.param(STAGED, 1 << 40, marks=pytest.mark.soak, id="staged-all"),
    ],
)
def test_every_sample_file_has_a_state(corpus, house, tmp_path, most, options):
    for number, path in enumerate(corpus):
        if path.stat().st_size < most:
            target = tmp_path / "sites" / f"{number:04}.dcm"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    job = Job("ct", (Provider("all", (tmp_path / "sites").as_uri()),), options or Options())
    with open_executor("processes", 2) as executor:
        outcome = run(job, replace(house, executor=executor))
    balance = outcome.account[Line("all", "files", "files")]
    assert balance.received == len(list((tmp_path / "sites").iterdir()))
    assert balance.missing == 0
    assert balance.kept > (60 if options is None else 40)
    assert "unreadable" not in balance.quarantined
    assert open_snapshot(house.store, house.ledger, "ct").verify() == []


def test_a_reader_that_dies_hurts_the_file_that_killed_it_only():
    items = [f"{n}" for n in range(10)] + ["abort"] + [f"{n}" for n in range(10, 20)]
    with SafePool(2) as pool:
        results = list(in_children(pool, killers.read, items, chunk=7))
    assert ("abort", "reader-died") in results
    assert [one for r in results if isinstance(r, list) for one in r] == [f"{n}" for n in range(20)]


def test_a_reader_that_hangs_or_eats_memory_is_ended():
    with SafePool(1, memory=300 << 20, wall=2) as pool:
        results = list(in_children(pool, killers.read, ["a", "hang", "eat", "b"], chunk=2))
    assert results[:2] == [["a"], ("hang", "reader-wall")]
    assert results[2] in [("eat", "reader-memory"), ("eat", "reader-wall")]  # on a busy machine
    assert results[3:] == [["b"]]


def test_what_is_not_the_files_fault_ends_the_run():
    def fail(_):
        raise Invalid("no pydicom", kind="missing-extra")

    with ThreadPoolExecutor(1) as threads, pytest.raises(Invalid, match="no pydicom"):
        list(in_children(threads, fail, ["a", "b"]))


@pytest.mark.parametrize("slow", [False, True])
def test_a_store_that_is_away_says_nothing_of_a_file(tmp_path, slow):
    """Neither that its header is broken, nor that its pixels cannot be decoded."""
    data = make_file("1.2.3.1.1.1")
    data = data[132:] if slow else data  # without a preamble, pydicom reads it
    store = open_store(tmp_path.as_uri())
    store.put("a", data)
    file = Stored("alpha", "a", "d", len(data))
    for work in (partial(read_files, files=[file]), partial(_pictures, file=file)):
        for faults in every_fault():
            ended = ends(work, inject(store, faults))
            assert ended == faults.fired


def _pictures(store, file):
    return compress(store, Wanted("all"), [Image(file, "1.2.3.1.1.1", "ct")])


def ends(work, store):
    """Whether work met a fault: then it ends, whatever it was about to say."""
    try:
        found = work(store)
    except Unavailable:
        return True
    if isinstance(found, list):
        assert [row.get("compress_error") for row in found] == [None]
    else:
        assert found.refused == []
    return False


def files():
    """Two new images, a duplicate, a conflict, and one that is broken."""
    first = make_file("1.2.3.1.1.1")
    return {
        "alpha/1": first,
        "alpha/2": make_file("1.2.3.1.1.2"),
        "alpha/3": first,
        "beta/1": make_file("1.2.3.1.1.2", SeriesDescription="other"),
        "beta/2": first[:-50],
    }


def prepare(folder, options=None):
    for name, data in files().items():
        path = folder / "sites" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # written anew, it would be another file to the provider's listing
            path.write_bytes(data)
    sites = tuple(Provider(s, (folder / "sites" / s).as_uri()) for s in ("alpha", "beta"))
    config = {SETTING: PROFILE.described()} if options else {}
    return Job("ct", sites, options or Options(), config)


def contents(folder):
    """All that a snapshot says, but for the names of its parts."""
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        store = open_store((folder / "store").as_uri())
        snapshot = open_snapshot(store, ledger, "ct")
        assert snapshot.verify(sources=True) == []
        made = {}
        for table in snapshot:
            rows = snapshot[table]
            drop = [n for n in ("modified", "etag", "delivery") if n in rows.column_names]
            made[table] = sorted(map(str, rows.drop_columns(drop).to_pylist()))
        return made


EXPECTED_STATES = {"alpha": {"conflict": 1, "duplicate": 1, "ingested": 1}, "beta": {"conflict": 1, "quarantined (pixels-truncated)": 1}}  # fmt: skip


def house_of(folder, faults, executor):
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    store = inject(open_store((folder / "store").as_uri()), faults)
    return House(
        store,
        ledger,
        executor,
        open_store,
        clock=lambda: datetime(2026, 11, 21, tzinfo=UTC),
        lease=timedelta(seconds=0.2),
    )


def mended(folder, faults, options=None):
    """Meet a fault, then run again; what is there in the end. Whatever is visible is whole."""
    job = prepare(folder, options)
    with ThreadPoolExecutor(1) as threads:
        house = house_of(folder, faults, threads)
        with suppress(CatchmentError):
            run(job, house)
        if house.ledger.latest("imaging/ct") is not None:
            store = open_store((folder / "store").as_uri())
            assert open_snapshot(store, house.ledger, "ct").states() == EXPECTED_STATES
        house.ledger.close()
        again = house_of(folder, Faults(), threads)
        run(job, again)
        again.ledger.close()
    return contents(folder)


def all_faults(tmp_path, when, step, options=None):
    undisturbed = mended(tmp_path / "undisturbed", Faults(), options)
    for at in range(1, 1000, step):
        faults = Faults(fail_at=at, when=when)
        assert mended(tmp_path / f"{at}", faults, options) == undisturbed
        if not faults.fired:
            return at
    raise AssertionError("it never ended")


@pytest.mark.parametrize("options", [None, STAGED], ids=["plain", "staged"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_of_the_store_is_mended_by_the_next_run(tmp_path, when, options):
    assert all_faults(tmp_path, when, 19, options) > 20


@pytest.mark.soak
@pytest.mark.parametrize("options", [None, STAGED], ids=["plain", "staged"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_at_every_operation_of_the_store_is_mended(tmp_path, when, options):
    assert all_faults(tmp_path, when, 1, options) > 20


def killed_run(folder, at, when, options):
    os.fsync = lambda _: None
    faults = Faults(kill_at=at, when=when)
    with ThreadPoolExecutor(1) as threads:
        run(prepare(folder, options), house_of(folder, faults, threads))
    os._exit(7)  # nothing killed it


def killed_everywhere(tmp_path, when, step, options=None):
    undisturbed = None
    for at in range(2, 1000, step):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        child = CONTEXT.Process(target=killed_run, args=(folder, at, when, options))
        child.start()
        child.join()
        assert child.exitcode in (-signal.SIGKILL, 7)
        with ThreadPoolExecutor(1) as threads:
            house = house_of(folder, Faults(), threads)
            run(prepare(folder, options), house)
            house.ledger.close()
        found = contents(folder)
        undisturbed = undisturbed or found
        assert found == undisturbed
        if child.exitcode == 7:
            return at
    raise AssertionError("it never ended")


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_9_loses_nothing_and_counts_nothing_twice(tmp_path, when):
    assert killed_everywhere(tmp_path, when, 37) > 20


def test_kill_9_while_files_are_de_identified(tmp_path):
    assert killed_everywhere(tmp_path, "after", 43, STAGED) > 20


@pytest.mark.soak
@pytest.mark.parametrize("options", [None, STAGED], ids=["plain", "staged"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_9_at_every_operation_loses_nothing(tmp_path, when, options):
    assert killed_everywhere(tmp_path, when, 1, options) > 20


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file system of its own")
def test_a_full_disk_stops_a_run_and_a_larger_one_finishes_it(tmp_path):
    folder = tmp_path / "disk"
    (folder / "store").mkdir(parents=True)
    job = prepare(folder)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder / "store"]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with ThreadPoolExecutor(1) as threads:
            house = house_of(folder, Faults(), threads)
            with pytest.raises(Unavailable):
                run(job, house)
            assert house.ledger.latest("imaging/ct") is None
            subprocess.run(["mount", "-o", "remount,size=64m", folder / "store"], check=True)
            run(job, house)
            house.ledger.close()
        assert contents(folder)["images"]
    finally:
        subprocess.run(["umount", folder / "store"], check=True)
