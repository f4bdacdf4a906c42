"""Decisions: what is kept from the previous snapshot, the account, the fingerprint."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.account import Line
from catchment.core.errors import Invalid
from catchment.core.store import open_store
from catchment.tables.composition import Composition, Entry
from catchment.tables.model import NEXT, Center, Dataset, Fate, Options, Removal, SourceFile, State
from catchment.tables.plan import (
    CENTER_QUARANTINED,
    Input,
    Listed,
    Refused,
    TablePlan,
    balance,
    fingerprint,
    keep,
    whole_centers,
)
from catchment.tables.unify import unify

SCHEMA = pa.schema([("naccid", pa.string()), ("value", pa.int64())])


def made(
    center="alpha", digest="sha256:a", rows=10, schema=SCHEMA, table="uds", name="t/a.parquet"
):
    file = SourceFile(open_store("memory://plan"), f"{center}/{name}", 100, "etag")
    return Input(Listed(Center(center, 1, center), table, name, file), digest, rows, schema)


def entry(item, removals=()):
    file = item.listed.file
    return Entry(
        item.center.id, item.listed.name, file.store.url, file.key, file.size, file.etag,
        item.digest, item.rows, item.schema, removals, b"placed",
    )  # fmt: skip


def planned(*inputs, removals=None):
    unified = unify([(i.center.id, i.schema) for i in inputs])
    return TablePlan("uds", unified, inputs, removals or ((),) * len(inputs), (None,) * len(inputs))


GONE = (Removal((1, 2), Fate.DROPPED, "transferred"), Removal((5,), Fate.QUARANTINED, "why"))


def kept(inputs, previous_inputs, removals=None, previous_removals=None):
    before = planned(*previous_inputs)
    entries = [
        entry(i, r)
        for i, r in zip(previous_inputs, previous_removals or before.removals, strict=True)
    ]
    after = planned(*inputs, removals=removals)
    found = keep(
        after.inputs, after.removals, after.unified,
        Composition(tuple(entries), before.unified.schema, {}),
    )  # fmt: skip
    return [e is not None for e in found]


def test_without_a_previous_snapshot_nothing_is_kept():
    plan = planned(made())
    assert keep(plan.inputs, plan.removals, plan.unified, None) == (None,)


def test_the_same_is_kept_and_what_changed_is_not():
    alpha, beta = made(), made("beta", "sha256:b")
    assert kept([alpha, beta], [alpha, beta]) == [True, True]
    assert kept([alpha, replace(beta, digest="sha256:c")], [alpha, beta]) == [True, False]
    assert kept([beta, alpha], [alpha, beta]) == [True, True]
    assert kept([alpha], [beta]) == [False]


def test_other_removals_are_not_kept():
    alpha = made()
    assert kept([alpha], [alpha], (GONE,), [GONE]) == [True]
    assert kept([alpha], [alpha], (GONE,)) == [False]
    assert kept([alpha], [alpha], None, [GONE]) == [False]


def test_a_type_that_widens_touches_only_those_who_have_the_column():
    alpha = made(schema=pa.schema([("naccid", pa.string())]))
    beta = made("beta", "sha256:b")
    wide = made("beta", "sha256:c", schema=pa.schema([("value", pa.float64())]))
    gamma = made("gamma", "sha256:g")
    assert kept([alpha, wide, gamma], [alpha, beta, gamma]) == [True, False, False]


def test_the_same_bytes_twice_are_kept_twice_and_not_thrice():
    alpha = made()
    assert kept([alpha, alpha, alpha], [alpha, alpha]) == [True, True, False]


def test_a_center_with_a_refused_file_is_left_out_whole():
    alpha, beta = made(), made("beta", "sha256:b")
    bad = Refused(made(name="t/b.parquet").listed, Invalid("x", kind="parquet-unreadable"))
    inputs, refused = whole_centers([alpha, beta], [bad])
    assert inputs == [beta]
    assert [(r.error.kind, r.rows) for r in refused] == [
        ("parquet-unreadable", None),
        (CENTER_QUARANTINED, 10),
    ]
    assert whole_centers(inputs, refused) == (inputs, refused)
    assert bad.finding().code == "parquet-unreadable"


def test_the_account_counts_each_row_once():
    alpha, beta = made(rows=10), made("beta", "sha256:b", rows=7)
    _, refused = whole_centers([beta], [Refused(beta.listed, Invalid("x", kind="bad"))])
    account = balance([planned(alpha, removals=(GONE,))], refused)
    account.check()
    rows = account[Line("alpha", "uds", "rows")]
    assert (rows.received, rows.kept) == (10, 7)
    assert (rows.dropped, rows.quarantined) == ({"transferred": 2}, {"why": 1})
    files = account[Line("beta", "uds", "files")]
    assert (files.received, files.kept, files.quarantined.total()) == (2, 0, 2)
    assert account.total("rows").quarantined == {"why": 1, CENTER_QUARANTINED: 7}


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=6))
def test_every_account_of_accepted_files_balances(files):
    inputs = [made(f"c{n}", f"sha256:{n}", rows) for n, (rows, _) in enumerate(files)]
    removals = tuple(
        (Removal(range(rows // 2), Fate.DROPPED, "r"),) if some else () for rows, some in files
    )
    plan = planned(*inputs, removals=removals)
    account = balance([plan], [])
    account.check()
    assert account.total("rows").kept == plan.rows


DATASET = Dataset(
    Center("alpha", 1, "A"),
    "memory://plan",
    "alpha/v1/",
    "v1",
    datetime(2026, 1, 1, tzinfo=UTC),
    {},
    "",
)


@pytest.mark.parametrize(
    ("options", "dataset", "plan"),
    [
        (Options(freeze_date="20260101"), DATASET, planned(made())),
        (Options(), replace(DATASET, prefix="alpha/v2/"), planned(made())),
        (Options(), DATASET, planned(made(digest="sha256:b"))),
        (Options(), DATASET, planned(made(), removals=(GONE,))),
        (Options(), DATASET, planned(made(schema=pa.schema([("value", pa.int64())])))),
    ],
)
def test_whatever_decides_the_result_is_in_the_fingerprint(options, dataset, plan):
    same = fingerprint(Options(), {"alpha": DATASET}, [planned(made())])
    assert same == fingerprint(Options(mode="dev"), {"alpha": DATASET}, [planned(made())])
    assert fingerprint(options, {"alpha": dataset}, [plan]) != same


def test_every_state_can_be_left_and_none_for_itself():
    assert set(NEXT) == set(State)
    assert all(following and state not in following for state, following in NEXT.items())
