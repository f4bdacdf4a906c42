"""Uploads and their locks, on both databases: by example, and by a model."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound
from catchment.core.ledger import Ledger
from catchment.core.ledger import uploads as rows
from catchment.core.ledger.uploads import CLAIM, FileState, Uploads, Wanted
from catchment.testing.ledger_samples import ManualClock, refused

IDLE = timedelta(minutes=5)
HOUR = timedelta(hours=1)
KEY = "upload_staging/flu/boston/000/flu.zip"
WANTED = Wanted(KEY, "flu.zip", 0)


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
def uploads(ledger):
    return Uploads(ledger, IDLE)


def opened(uploads, wanted="t1", study="flu", site="boston"):
    return uploads.open(wanted, site=site, user="anna", study=study, network="net")


def offered(uploads, clock, wanted="t1", form="f1", key=KEY):
    row = opened(uploads, wanted)
    uploads.offer(row.id, Wanted(key, "flu.zip", 3), form, clock() + HOUR)
    return row


def test_an_upload_from_its_request_to_its_end(uploads, clock):
    row = offered(uploads, clock)
    assert (row.site, row.study, row.user, row.network) == ("boston", "flu", "anna", "net")
    assert uploads.holder("boston", "flu") == "t1"
    file = uploads.begin("t1", KEY, "f1", "a1")
    assert (file.state, file.site, file.study, file.key) == ("sending", "boston", "flu", KEY)
    assert (file.filename, file.version, file.user) == ("flu.zip", 3, "anna")
    uploads.touch(file, "a1")
    uploads.arrive(file, "a1", 7, "sha256:x")
    (waiting,) = uploads.files(FileState.ARRIVED)
    assert (waiting.size, waiting.digest) == (7, "sha256:x")
    uploads.finish("t1", KEY)
    assert uploads.holder("boston", "flu") is None
    told, (file,) = uploads.get("t1", "boston")
    assert (told, file.state, file.error) == (row, "processed", None)
    assert uploads.find(KEY) == file
    assert uploads.find("nowhere") is None


def test_one_upload_of_a_study_at_a_time(uploads, clock):
    offered(uploads, clock)
    message = r"Currently processing a previous upload of flu\. Please try again later\."
    with refused("upload-locked", Conflict, match=message):
        opened(uploads, "t2")
    assert opened(uploads, "t1").id == "t1"  # the same id re-enters
    opened(uploads, "t3", study="flu_b")  # another study
    opened(uploads, "t4", site="boston_rdw")  # another site
    opened(uploads, "t5", site="bosto")


def test_an_id_is_of_one_site_and_study(uploads):
    opened(uploads)
    for study, site in (("cold", "boston"), ("flu", "chicago")):
        with refused("upload-taken", Conflict):
            opened(uploads, "t1", study, site)
    with refused("no-upload", NotFound):
        uploads.get("t1", "chicago")
    with refused("no-upload", NotFound):
        uploads.get("t2", "boston")


def test_a_lock_that_nobody_uses_is_taken_over_and_stays_the_later_ones(uploads, clock):
    offered(uploads, clock)
    later(clock, IDLE)
    offered(uploads, clock, "t2", "f2")
    assert uploads.holder("boston", "flu") == "t2"
    with refused("upload-locked", Conflict):
        uploads.begin("t1", KEY, "f1", "a1")
    uploads.finish("t1", KEY)  # whatever ends the first one
    assert uploads.holder("boston", "flu") == "t2"
    with refused("upload-locked", Conflict):
        opened(uploads, "t3")
    uploads.begin("t2", KEY, "f2", "a2")


def test_an_upload_without_a_form_keeps_its_lock_for_a_while_too(uploads, clock):
    opened(uploads)
    later(clock, IDLE - timedelta(seconds=1))
    with refused("upload-locked", Conflict):
        opened(uploads, "t2")
    later(clock, timedelta(seconds=1))
    opened(uploads, "t2")


def test_a_slow_upload_takes_as_long_as_it_takes(uploads, clock):
    offered(uploads, clock)
    file = uploads.begin("t1", KEY, "f1", "a1")
    for _ in range(40):  # two hours; the form was good for one
        later(clock, timedelta(minutes=3))
        uploads.touch(file, "a1")
        with refused("upload-locked", Conflict):
            opened(uploads, "t2")
    uploads.arrive(file, "a1", 7, "sha256:x")
    later(clock, timedelta(days=1))  # what has arrived keeps its lock until it is processed
    with refused("upload-locked", Conflict):
        opened(uploads, "t2")
    uploads.finish("t1", KEY)
    opened(uploads, "t2")


def test_a_form_is_good_once_and_for_one_request(uploads, clock):
    offered(uploads, clock)
    for upload, key, form in (
        ("t1", KEY, "f2"),
        ("t1", KEY, ""),
        ("t1", "k", "f1"),
        ("t", KEY, "f1"),
    ):
        with refused("no-form", NotFound):
            uploads.begin(upload, key, form, "a1")
    file = uploads.begin("t1", KEY, "f1", "a1")
    assert uploads.begin("t1", KEY, "f1", "a1") == file  # its answer was lost
    with refused("upload-busy", Conflict):
        uploads.begin("t1", KEY, "f1", "a2")
    with refused("upload-busy", Conflict):
        uploads.offer("t1", WANTED, "f2", clock() + HOUR)
    with refused("upload-busy", Conflict):
        uploads.touch(file, "a2")
    uploads.give_up(file, "a2")  # none of its business
    uploads.give_up(file, "a1")
    file = uploads.begin("t1", KEY, "f1", "a2")
    with refused("upload-busy", Conflict):
        uploads.arrive(file, "a1", 7, "sha256:x")
    uploads.arrive(file, "a2", 7, "sha256:x")
    uploads.arrive(file, "a2", 7, "sha256:x")
    for state in ("arrived", "processed"):
        with refused("form-used", Conflict):
            uploads.begin("t1", KEY, "f1", "a3")
        assert uploads.files(FileState(state))
        if state == "arrived":
            with refused("upload-busy", Conflict):
                uploads.offer("t1", WANTED, "f2", clock() + HOUR)
        uploads.finish("t1", KEY)


def test_a_form_expires_and_another_one_replaces_it(uploads, clock):
    offered(uploads, clock)
    uploads.offer("t1", WANTED, "f1", clock() + HOUR)  # its answer was lost
    later(clock, HOUR)
    with refused("form-expired", Conflict):
        uploads.begin("t1", KEY, "f1", "a1")
    uploads.offer("t1", WANTED, "f2", clock() + HOUR)
    with refused("no-form", NotFound):
        uploads.begin("t1", KEY, "f1", "a1")
    uploads.begin("t1", KEY, "f2", "a1")


def test_a_request_that_died_without_a_word_is_followed_by_the_next(uploads, clock):
    offered(uploads, clock)
    dead = uploads.begin("t1", KEY, "f1", "a1")
    later(clock, IDLE)
    file = uploads.begin("t1", KEY, "f1", "a2")
    with refused("upload-busy", Conflict):
        uploads.arrive(dead, "a1", 7, "sha256:x")
    uploads.arrive(file, "a2", 7, "sha256:x")


def test_several_files_share_an_upload_and_its_lock(uploads, clock):
    offered(uploads, clock, key="k/1")
    offered(uploads, clock, form="f2", key="k/2")
    for n in (1, 2):
        file = uploads.begin("t1", f"k/{n}", f"f{n}", f"a{n}")
        uploads.arrive(file, f"a{n}", n, "sha256:x")
    uploads.finish("t1", "k/1", Invalid("it cannot be read", kind="unreadable", hint="mend it"))
    assert uploads.holder("boston", "flu") == "t1"
    uploads.finish("t1", "k/2")
    assert uploads.holder("boston", "flu") is None
    _, files = uploads.get("t1", "boston")
    by_key = {file.key: file for file in files}
    assert by_key["k/1"].state is FileState.FAILED
    assert by_key["k/1"].error == {
        "kind": "unreadable",
        "message": "it cannot be read",
        "hint": "mend it",
    }
    uploads.finish("t1", "k/1")
    assert uploads.get("t1", "boston")[1] == files  # said once


def test_a_form_that_was_out_while_the_lock_was_given_back_takes_it_again(uploads, clock):
    offered(uploads, clock, key="k/1")
    later(clock, IDLE)
    offered(uploads, clock, form="f2", key="k/2")
    file = uploads.begin("t1", "k/2", "f2", "a2")
    uploads.arrive(file, "a2", 1, "sha256:x")
    uploads.finish("t1", "k/2")
    assert uploads.holder("boston", "flu") is None
    uploads.begin("t1", "k/1", "f1", "a1")
    assert uploads.holder("boston", "flu") == "t1"


def test_what_the_storage_takes_in_by_itself_arrives_without_a_beginning(uploads, clock):
    row = opened(uploads)
    uploads.offer(row.id, WANTED, "", clock() + HOUR)
    uploads.offer(row.id, WANTED, "", clock() + HOUR)  # each has a form of its own
    (file,) = uploads.files(FileState.REQUESTED)
    with refused("no-form", NotFound):
        uploads.begin(row.id, KEY, "", "a1")
    uploads.arrive(file, "", 7, "etag:x")
    assert uploads.find(KEY).state is FileState.ARRIVED


def test_the_storage_is_asked_for_what_was_asked_for_last(uploads, clock):
    def awaited():
        return [(file.upload, file.digest) for file in uploads.awaited(timedelta(days=1))]

    offered(uploads, clock, "ours", "f1", "k/ours")
    later(clock, IDLE + timedelta(seconds=1))
    first = opened(uploads, "t2")
    uploads.offer(first.id, WANTED, "", clock() + HOUR)
    assert awaited() == [("t2", "")]
    later(clock, IDLE + timedelta(seconds=1))
    uploads.offer(opened(uploads, "t3").id, WANTED, "", clock() + HOUR, "before:x")
    assert awaited() == [("t3", "before:x")]  # what comes now is not the first one's
    uploads.arrive(uploads.find(KEY), "", 7, "etag:x")
    uploads.finish("t3", KEY)
    assert awaited() == [("t3", "etag:x")]  # its form is good still
    later(clock, HOUR)
    assert awaited() == [("t2", "")]
    later(clock, timedelta(days=1))
    assert awaited() == []


def test_one_worker_processes_what_has_arrived(uploads, clock):
    offered(uploads, clock)
    file = uploads.begin("t1", KEY, "f1", "a1")
    assert not uploads.claim(file, "one")  # it has not arrived
    uploads.arrive(file, "a1", 7, "sha256:x")
    assert uploads.claim(file, "one")
    uploads.arrive(file, "a1", 7, "sha256:x")  # its answer was lost, and a worker was quick
    assert not uploads.claim(file, "two")
    later(clock, CLAIM - timedelta(seconds=1))
    assert uploads.claim(file, "one")
    later(clock, CLAIM - timedelta(seconds=1))
    assert not uploads.claim(file, "two")
    later(clock, timedelta(seconds=1))
    assert uploads.claim(file, "two")  # the first one died
    assert not uploads.claim(file, "one")
    uploads.finish("t1", KEY)
    assert not uploads.claim(file, "two")


def test_files_are_listed_by_state(uploads, clock):
    offered(uploads, clock)
    later(clock, timedelta(days=1))
    uploads.open("t2", site="chicago", user="carl", study="flu")
    uploads.offer("t2", Wanted("k/2", "flu.zip", 0), "", clock() + HOUR)
    listed = uploads.files(FileState.REQUESTED)
    assert [(f.upload, f.to_storage) for f in listed] == [("t1", False), ("t2", True)]
    assert uploads.files(FileState.ARRIVED) == []


def test_of_many_at_once_one_gets_the_lock(uploads):
    def take(n):
        try:
            return opened(uploads, f"t{n}").id
        except CatchmentError as error:
            return error.kind

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(take, range(16)))
    assert sorted(told)[1:] == ["upload-locked"] * 15
    assert uploads.holder("boston", "flu") == min(told)


def test_of_many_forms_for_one_file_the_last_is_good(uploads, clock):
    opened(uploads)
    forms = [f"f{n}" for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda f: uploads.offer("t1", WANTED, f, clock() + HOUR), forms))
    good = []
    for form in forms:
        try:
            file = uploads.begin("t1", KEY, form, "a1")
        except NotFound:
            continue
        uploads.give_up(file, "a1")
        good.append(form)
    assert len(good) == 1


@pytest.mark.parametrize("table", ["upload_locks", "upload_files"])
def test_a_row_that_others_made_or_removed_meanwhile_is_looked_for_again(
    uploads, clock, monkeypatch, table
):
    upsert, lost = rows.upsert, []

    class Nothing:
        def on_conflict_do_nothing(self):
            return sa.select(1).where(sa.false())

    def once(c, wanted):
        if wanted.name == table and not lost:
            lost.append(table)
            return Nothing() if table == "upload_locks" else Returning()
        return upsert(c, wanted)

    class Returning:
        def on_conflict_do_nothing(self):
            return self

        def returning(self, _):
            return sa.select(1).where(sa.false())

    monkeypatch.setattr(rows, "upsert", once)
    offered(uploads, clock)
    assert lost == [table]
    assert uploads.holder("boston", "flu") == "t1"
    uploads.begin("t1", KEY, "f1", "a1")


class Locks(RuleBasedStateMachine):
    """Two sites' uploads by a simple model: who holds the lock, and who may send."""

    fresh = itertools.count()

    def __init__(self, ledger, clock):
        super().__init__()
        self.clock = clock
        self.uploads = Uploads(ledger, IDLE)
        self.site = f"site{next(self.fresh)}"
        self.files = {}  # upload -> [state, touched, attempt]
        self.holder = None

    def live(self, upload):
        state, touched, _ = self.files[upload]
        return state == "arrived" or (
            state in ("requested", "sending") and touched > self.clock() - IDLE
        )

    def may_take(self, upload):
        return self.holder in (None, upload) or not self.live(self.holder)

    def name(self, n):
        return f"{self.site}-{n}"

    @rule(minutes=st.sampled_from([1, 4, 5]))
    def time_passes(self, minutes):
        later(self.clock, timedelta(minutes=minutes))

    @rule(n=st.integers(0, 2))
    def ask(self, n):
        upload = self.name(n)
        try:
            self.uploads.open(upload, site=self.site, user="u", study="flu")
        except Conflict as error:
            assert error.kind == "upload-locked"
            assert not self.may_take(upload)
            return
        assert self.may_take(upload)
        self.holder = upload
        state, touched, _ = self.files.get(upload, ("", self.clock(), ""))
        busy = state == "arrived" or (state == "sending" and touched > self.clock() - IDLE)
        try:
            self.uploads.offer(
                upload,
                Wanted(f"k/{upload}", "flu.zip", 0),
                f"form-{next(self.fresh)}",
                self.clock() + HOUR,
            )
        except Conflict as error:
            assert error.kind == "upload-busy"
            assert busy
        else:
            assert not busy
            self.files[upload] = ["requested", self.clock(), ""]

    @rule(n=st.integers(0, 2))
    def send(self, n):
        upload = self.name(n)
        if self.files.get(upload, [""])[0] != "requested":
            return
        file = self.uploads.get(upload, self.site)[1][0]
        attempt = f"a{next(self.fresh)}"
        form = self.uploads._database.read(
            lambda c: c.exec_driver_sql(
                f"SELECT form FROM upload_files WHERE upload = '{upload}'"
            ).scalar()
        )
        try:
            self.uploads.begin(upload, file.key, form, attempt)
        except Conflict as error:
            late = file.expires_at <= self.clock()
            assert error.kind == ("form-expired" if late else "upload-locked")
            assert late or not self.may_take(upload)
        else:
            assert self.may_take(upload)
            self.holder = upload
            self.files[upload] = ["sending", self.clock(), attempt]

    @rule(n=st.integers(0, 2), how=st.sampled_from(["touch", "arrive", "give_up"]))
    def go_on(self, n, how):
        upload = self.name(n)
        state, _, attempt = self.files.get(upload, ["", None, ""])
        if state != "sending":
            return
        file = self.uploads.get(upload, self.site)[1][0]
        now = self.clock()
        if how == "arrive":
            self.uploads.arrive(file, attempt, 1, "sha256:x")
            self.files[upload] = ["arrived", now, attempt]
        elif how == "touch":
            self.uploads.touch(file, attempt)
            self.files[upload][1] = now
        else:
            self.uploads.give_up(file, attempt)
            self.files[upload] = ["requested", now, ""]

    @rule(n=st.integers(0, 2))
    def process(self, n):
        upload = self.name(n)
        if self.files.get(upload, [""])[0] != "arrived":
            return
        self.uploads.finish(upload, f"k/{upload}")
        self.files[upload][0] = "processed"
        if self.holder == upload:
            self.holder = None

    @invariant()
    def the_lock_is_where_the_model_says(self):
        assert self.uploads.holder(self.site, "flu") == self.holder

    @invariant()
    def nothing_that_arrived_is_forgotten(self):
        arrived = {f.upload for f in self.uploads.files(FileState.ARRIVED) if f.site == self.site}
        assert arrived == {u for u, (state, *_) in self.files.items() if state == "arrived"}


def test_locks_by_model(ledger, clock):
    run_state_machine_as_test(
        lambda: Locks(ledger, clock),
        settings=settings(max_examples=10, stateful_step_count=30, deadline=None),
    )


def test_an_upload_is_of_one_version(uploads, clock):
    """What it brings is known by its id, a name and a digest: of two versions one would be lost."""
    uploads.open("t1", site="a", user="u", study="flu")
    uploads.offer("t1", WANTED, "f1", clock() + HOUR)
    with refused("upload-taken", Conflict):
        uploads.offer("t1", Wanted("k/other", "flu.zip", WANTED.version + 1), "f2", clock() + HOUR)
    uploads.offer("t1", Wanted("k/more", "more.zip", WANTED.version), "f3", clock() + HOUR)
