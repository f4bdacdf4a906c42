"""What the world does to a run: full and read-only disks, broken files, services that fail."""

from __future__ import annotations

import json
import os
import random
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest

from catchment.core.errors import Unavailable
from catchment.tables import sources
from catchment.tables.identifiers import IdentifiersOptions, open_identifiers
from catchment.testing.centers import make_centers
from catchment.testing.faults import Faults, inject
from catchment.testing.web import listening
from tests.tables.damage import SAMPLE, Observer, Place, command, undisturbed
from tests.tables.damage_child import AGGREGATE, ALL, work


@pytest.fixture
def made(tmp_path):
    return make_centers(tmp_path / "made", **SAMPLE)


@pytest.fixture
def wanted(tmp_path, made):
    return undisturbed(tmp_path / "calm", made)


@pytest.fixture
def place(tmp_path, made):
    with Place(tmp_path / "place", made) as opened:
        yield opened


# --- disks ---------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder, size):
    """A file system of that many bytes."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("only root can mount a small tmpfs to fill it up")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def program(place, monkeypatch):
    """``catchment tables run``: its exit code and what it said."""
    monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")
    arguments = ("tables", "run", "main", "--freeze-date", "20260206")
    return command(*arguments, "--json", "--quiet", "--workspace", str(place.folder))


@pytest.mark.parametrize("whole", [False, True], ids=["store", "store-and-ledger"])
def test_a_full_disk(tmp_path, made, wanted, monkeypatch, whole):
    """Whatever room is left, the run succeeds or says that the disk is full, and what it did."""
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        settings = {} if whole else {"store": str(disk / "data")}
        with Place(disk / "place" if whole else tmp_path / "place", made, **settings) as place:
            observer = Observer(place)
            observer.look()
            filler, failed, known = disk / "filler", 0, None
            for room in count(0, 48 << 10):
                status = os.statvfs(disk)
                with filler.open("wb") as file, suppress(OSError):
                    left = status.f_bavail * status.f_frsize - room
                    file.write(bytes(max(0, left)))
                code, said = program(place, monkeypatch)
                filler.unlink()
                observer.look()
                if code == 0:
                    break
                assert code == 5, said
                assert "disk-full" in said
                latest = place.ledger.latest(AGGREGATE)
                assert latest == known or "is published" in said
                failed, known = failed + 1, latest
            assert failed > 1
        with Place(disk / "again", made) as again:
            again.mend(wanted)


def test_a_disk_that_is_full_leaves_the_last_snapshot(tmp_path, made, wanted, monkeypatch):
    with (
        small_disk(tmp_path / "disk", 2 << 20) as disk,
        Place(tmp_path / "place", made, store=str(disk / "data")) as place,
    ):
        place.run({"tables.main.transfers": "none"})
        observer = Observer(place)
        observer.look()
        with (disk / "filler").open("wb") as file, suppress(OSError):
            file.write(bytes(4 << 20))
        code, said = program(place, monkeypatch)
        assert code == 5, said
        assert "disk-full" in said
        observer.look()
        (disk / "filler").unlink()
        place.mend(wanted)
        observer.look()


def test_an_output_that_is_read_only(tmp_path, made, wanted, monkeypatch):
    with (
        small_disk(tmp_path / "disk", 8 << 20) as disk,
        Place(tmp_path / "place", made, store=str(disk / "data")) as place,
    ):
        place.run({"tables.main.transfers": "none"})
        observer = Observer(place)
        observer.look()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, said = program(place, monkeypatch)
        assert code == 2, said
        assert "permission-denied" in said
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        observer.look()
        place.mend(wanted)
        observer.look()


# --- files ---------------------------------------------------------------------------------------


def file_of(made, center, version=10):
    return made.sample.store.path(f"{center}/versions/{version}/tables/uds/data.parquet")


def test_files_cut_and_flipped_anywhere(made, wanted, place):
    """A damaged file costs its own center at most; mended, the tables are as they should be."""
    chance = random.Random(11)
    path = file_of(made, "center01")
    whole = path.read_bytes()
    observer = Observer(place)
    states = set()
    for _ in range(12):
        data = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(3)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        plan = place.run().plan
        states |= set(plan.skipped.items())
        assert plan.skipped.keys() <= {"center01"}
        observer.look()
    assert len(states) > 1
    path.write_bytes(whole)
    place.mend(wanted)
    observer.look()


class Meanwhile:
    """A provider of identifiers; while it is asked, something happens at a site."""

    def __init__(self, inner, happens):
        self.inner, self.happens = inner, happens

    def current(self, naccids):
        self.happens()
        return self.inner.current(naccids)


@pytest.mark.parametrize(
    ("happens", "kinds"),
    [
        ("changes", {"file-changed"}),
        ("is-replaced", {"file-changed"}),
        ("is-cut", {"file-changed", "parquet-truncated", "parquet-unreadable"}),
        ("vanishes", {"not-found"}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_file_that_moves_between_listing_and_merge(
    tmp_path, made, wanted, place, happens, kinds, first
):
    """Its center is left out, for what was read of it may be torn; the next run has it again."""
    path = file_of(made, "center01")
    whole, other = path.read_bytes(), file_of(made, "center02").read_bytes()

    def happen():
        if happens == "changes":  # in place: same inode, same size
            path.write_bytes(whole[:-1] + b"X")
        elif happens == "is-replaced":
            (tmp_path / "new").write_bytes(other)
            (tmp_path / "new").rename(path)
        elif happens == "is-cut":
            path.write_bytes(whole[: len(whole) // 3])
        else:
            path.unlink()

    if not first:
        place.run({"tables.main.exclude_centers": ["center01"]})
    change = lambda job: replace(job, identifiers=Meanwhile(job.identifiers, happen))  # noqa: E731
    outcome = work(place.folder, ALL, change=change)
    assert outcome.plan.skipped.keys() == {"center01"}
    assert set(outcome.plan.skipped.values()) <= kinds
    Observer(place).look()
    path.write_bytes(whole)
    place.mend(wanted)
    Observer(place).look()
    assert place.collect() == 0


# --- services ------------------------------------------------------------------------------------


class Failing:
    """A source whose stores fail at an operation."""

    one_bucket = False

    def __init__(self, inner, faults):
        self.inner, self.faults = inner, faults

    def locate(self, center):
        found = self.inner.locate(center)
        return sources.Place(inject(found.store, self.faults), found.prefix)


def test_a_source_that_fails_at_any_operation(made, wanted, place):
    """One center less, or nothing; the next run has all."""
    observer = Observer(place)
    failed = 0
    for number in count(1, 4):
        faults = Faults(fail_at=number)
        change = lambda job: replace(job, source=Failing(job.source, faults))  # noqa: B023, E731
        place.run({"tables.main.transfers": "none"})
        try:
            outcome = work(place.folder, ALL, full=True, change=change)
            assert len(outcome.plan.skipped) == faults.fired
        except Unavailable as error:
            failed += error.kind == "injected"
        observer.look()
        place.mend(wanted)
        observer.look()
        if not faults.fired:
            break
    assert failed
    assert number > 20


@contextmanager
def service(answers):
    """A real HTTP server that answers with one of these, in turn: a status and a body, or none."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = answers(asked)
            if answer is None:  # hangs up
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield f"{url}/"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((500, b""), "identifiers-unavailable"),
        ((429, b"later"), "identifiers-unavailable"),
        ((200, b"<html>"), "identifiers-malformed"),
        ((200, b'{"data": [], "limit": 0}'), "identifiers-malformed"),
        (None, "identifiers-unavailable"),
    ],
)
def test_an_identifiers_service_that_fails(made, wanted, place, answer, kind):
    """After a while or from the start; nothing is published; when it is back, all is well."""
    people = [line.split(",") for line in made.identifiers.read_text().splitlines()[1:]]
    sound = count()

    def answers(asked):
        if next(sound) < good:
            data = [
                {"naccid": n, "adcid": int(a), "active": s == "true"}
                for n, a, s in people
                if n == asked["naccid"]
            ]
            page = {"offset": 0, "limit": asked["limit"], "data": data}
            return 200, json.dumps(page).encode()
        return answer

    with service(answers) as url:
        options = IdentifiersOptions(attempts=2, wait=0.01)
        asks = open_identifiers(url, "prod", options)
        change = lambda job: replace(job, identifiers=asks)  # noqa: E731
        for good in (0, 1):  # noqa: B007 - the server looks at it
            sound = count()
            with pytest.raises(Unavailable) as caught:
                work(place.folder, ALL, change=change)
            assert caught.value.kind == kind
            assert place.ledger.latest(AGGREGATE) is None
            assert place.keys() == set()
        good = 1 << 30
        work(place.folder, ALL, change=change)
        assert place.bytes() == wanted
        Observer(place).look()
