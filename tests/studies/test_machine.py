"""Whatever sites and operators do, and wherever it breaks: the aggregate is the merge of what is valid.

And no file of a site is lost: each is kept, as valid, in the archive, or refused with its reason.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from catchment.core.errors import CatchmentError
from catchment.core.ledger import Ledger
from catchment.studies import actions, layout, library, process, run, scan
from catchment.studies.model import Staged, State
from catchment.testing.faults import Faults, inject
from catchment.testing.studies import parquet
from tests.studies.studying import (
    below,
    model,
    package,
    published,
    read,
    rows_of,
    stage,
    table,
    transaction,
    whole,
    workspace,
)

NAME = "core__count.cube.parquet"
SITES = st.sampled_from(["a", "ab", "a_b", "b"])
CUBES = st.dictionaries(
    st.tuples(st.sampled_from([None, "f", "m"]), st.sampled_from([None, "x"])),
    st.integers(0, 30),
    min_size=1,
).map(lambda rows: table(*((count, *key) for key, count in rows.items())))
BAD = st.sampled_from(
    [
        b"",
        b"PAR1",
        parquet(table((1, "f", None), (2, "f", None))),
        parquet(table((1, "f"), names=("site",))),
    ]
)


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch):
    """What a fault leaves held is free soon."""
    monkeypatch.setattr(run, "LEASE", timedelta(seconds=2))


def broken(space, faults):
    house = library.house(space)
    return replace(house, store=inject(space.store, faults), ledger=inject(space.ledger, faults))


def upload(house, space, site, data) -> None:
    key = stage(space, site, data, name=NAME)
    process.submit(house, Staged(site, "core", 0, NAME, "u", transaction(), key))


def recover(space) -> None:
    """What the next worker does."""
    last = time.monotonic() + 30  # leases are free long before
    while True:
        done = scan.scan(library.house(space))
        if not done.busy:
            assert done.failed == {}
            return
        assert time.monotonic() < last, "the study stays busy"
        time.sleep(0.02)


def seen(space) -> list[tuple]:
    """What readers of the snapshot see, even where a crash left the views behind."""
    one = package(space)
    return rows_of(read(space, one.released.key)) if one else []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "start", [2, *(pytest.param(n, marks=pytest.mark.soak) for n in range(3, 11))]
)
def test_a_fault_at_any_step_leaves_one_state_or_the_next(tmp_path, when, start):
    old, new = table((5, None, None), (2, "f", "x")), table((7, None, None), (7, "m", "x"))
    with workspace(tmp_path / "x") as space:
        upload(library.house(space), space, "b", parquet(old))
        upload(library.house(space), space, "a", parquet(old))
        contents = [old, new]
        for number in range(start, 500, 9):
            contents.reverse()
            faults = Faults(fail_at=number, when=when)
            before = seen(space)
            after = model({"a": contents[0], "b": old})
            try:
                upload(broken(space, faults), space, "a", parquet(contents[0]))
            except CatchmentError as error:
                assert faults.fired, error
            assert seen(space) in (before, after)
            recover(space)
            assert published(space) == after
            if not faults.fired:
                break
        else:
            pytest.fail("the work does not end")
        assert below(space, "upload_staging/") == []
        assert list(process.unfinished(space.ledger)) == []
        whole(space)
        assert space.ledger.unsealed("studies/core") == []


class Studies(RuleBasedStateMachine):
    """Sites upload, again and badly; workers crash; operators withdraw and roll back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="catchment-"))
        self.space = workspace(self.folder)
        self.valid: dict[str, object] = {}
        self.past: dict[int, dict[str, object]] = {}
        self.sent = 0

    @property
    def house(self):
        return library.house(self.space)

    @rule(site=SITES, cube=CUBES)
    def good(self, site, cube):
        upload(self.house, self.space, site, parquet(cube))
        self.take(site, cube)

    @rule(site=SITES, data=BAD)
    def bad(self, site, data):
        upload(self.house, self.space, site, data)
        self.sent += 1

    @rule(sites=st.lists(SITES, min_size=2, max_size=3, unique=True), cube=CUBES)
    def at_once(self, sites, cube):
        def one(site):
            with Ledger.open(f"sqlite:///{self.folder}/ledger.db") as ledger:
                upload(replace(self.house, ledger=ledger), self.space, site, parquet(cube))

        with ThreadPoolExecutor(len(sites)) as pool:
            list(pool.map(one, sites))
        for site in sites:
            self.take(site, cube)

    @rule(site=SITES, cube=CUBES, at=st.integers(1, 90), when=st.sampled_from(["before", "after"]))
    def crash(self, site, cube, at, when):
        faults = Faults(fail_at=at, when=when)
        try:
            upload(broken(self.space, faults), self.space, site, parquet(cube))
        except CatchmentError:
            assert faults.fired
        recover(self.space)
        self.take(site, cube)

    @precondition(lambda self: self.valid)
    @rule(data=st.data())
    def withdraw(self, data):
        site = data.draw(st.sampled_from(sorted(self.valid)))
        actions.withdraw(self.house, "core", site)
        del self.valid[site]
        self.note()

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def rollback(self, data):
        number = data.draw(st.sampled_from(sorted(self.past)))
        actions.rollback(self.house, "core", number)
        self.valid = dict(self.past[number])
        self.note()

    @precondition(lambda self: self.valid)
    @rule()
    def reprocess(self):
        actions.reprocess(self.house, "core")
        self.note()

    def take(self, site, cube):
        self.valid[site] = cube
        self.sent += 1
        self.note()

    def note(self):
        self.past[library.catalog(self.space, "core").snapshot] = dict(self.valid)

    @invariant()
    def what_is_published_is_the_merge_of_what_is_valid(self):
        assert published(self.space) == model(self.valid)
        states = [c.state for c in self.space.ledger.contributions(layout.aggregate("core"))]
        assert states.count(State.LAST_VALID) == len(self.valid)
        assert not {State.RECEIVED, State.LATEST} & set(states)
        assert len(states) >= self.sent
        assert len(below(self.space, "last_valid/")) == len(self.valid)
        assert below(self.space, "upload_staging/") == []

    def teardown(self):
        whole(self.space)
        self.space.close()
        shutil.rmtree(self.folder)


QUICK = settings(
    max_examples=4, stateful_step_count=7, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestStudies(Studies.TestCase):  # type: ignore[name-defined]
    settings = QUICK


@pytest.mark.soak
class TestStudiesLong(Studies.TestCase):  # type: ignore[name-defined]
    settings = settings(QUICK, max_examples=150, stateful_step_count=20)
