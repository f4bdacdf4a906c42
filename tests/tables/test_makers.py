from __future__ import annotations

import csv
import hashlib
import pickle
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.store import open_store
from catchment.tables.centers import read_centers
from catchment.tables.datasets import find_datasets
from catchment.tables.model import Dataset
from catchment.tables.sources import TemplateSource
from catchment.testing.centers import KEYS, Made, change_center, make_centers

SMALL = {"centers": 6, "columns": 40, "rows": (60, 90), "transfers": 0.05}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def datasets(made: Made) -> tuple[Dataset, ...]:
    centers, findings = read_centers(made.centers.read_bytes(), "centers.json")
    assert findings == []
    assert tuple(c.id for c in centers) == made.ids
    found = find_datasets(centers, TemplateSource(made.datasets))
    assert found.findings == ()
    return found.datasets


def table(dataset: Dataset, name: str = "uds") -> pa.Table:
    (file,) = dataset.tables[name]
    return pq.read_table(pa.BufferReader(file.store.read(file.key)))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make_centers(tmp_path_factory.mktemp("sample"), **SMALL)


def test_the_same_seed_makes_the_same_bytes(tmp_path, made):
    make_centers(tmp_path / "again", **SMALL)
    make_centers(tmp_path / "other", **SMALL, seed=1)
    first = digests(made.centers.parent)
    assert digests(tmp_path / "again") == first
    assert digests(tmp_path / "other").keys() == first.keys()
    assert digests(tmp_path / "other") != first


def test_making_over_what_is_there_changes_nothing(tmp_path):
    make_centers(tmp_path, **SMALL)
    first = digests(tmp_path)
    times = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.parquet")}
    make_centers(tmp_path, **SMALL)
    assert digests(tmp_path) == first
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.parquet")} == times  # no other etag


def test_the_newest_versions_win(made):
    for dataset in datasets(made):
        assert dataset.version == "10"
        if dataset.center.id not in made.broken:
            assert table(dataset).num_rows == made.rows[dataset.center.id]


def test_rows_are_within_the_limits(made):
    assert len(made.rows) == 6
    assert all(60 <= n <= 90 for n in made.rows.values())
    assert len(set(made.rows.values())) > 1


def test_adcid_zero_is_among_them_or_not(tmp_path, made):
    first, *others = datasets(made)
    assert first.center.adcid == 0
    assert set(table(first)["adcid"].to_pylist()) == {0}
    assert [o.center.adcid for o in others] == [11, 12, 13, 14, 15]
    without = make_centers(tmp_path, **SMALL, adcid_zero=False)
    assert datasets(without)[0].center.adcid == 10


def test_the_broken_file_is_truncated(made):
    assert made.broken == ("center05",)
    *sound, broken = datasets(made)
    for dataset in sound:
        table(dataset)
    with pytest.raises(pa.ArrowInvalid):
        table(broken)


def test_identifiers_name_one_current_center_for_every_participant(made):
    current, former = {}, defaultdict(set)
    with made.identifiers.open() as file:
        for row in csv.DictReader(file):
            if row["active"] == "true":
                assert row["naccid"] not in current
                current[row["naccid"]] = int(row["adcid"])
            else:
                former[row["naccid"]].add(int(row["adcid"]))
    seen, visits = defaultdict(set), defaultdict(list)
    for dataset in datasets(made):
        if dataset.center.id not in made.broken:
            rows = table(dataset).select(KEYS).to_pylist()
            for row in rows:
                seen[row["naccid"]].add(row["adcid"])
                visits[row["naccid"], row["visitdate"]].append(row["adcid"])
    assert seen.keys() <= current.keys()
    for participant, adcids in seen.items():
        assert adcids <= {current[participant]} | former[participant]
    moved = [p for p, adcids in seen.items() if len(adcids) > 1]
    assert 1 < len(moved) <= made.transferred == sum(map(len, former.values()))
    # One visit is at both centers, each of them has others: a rule by visits keeps those.
    both = [k for k, adcids in visits.items() if len(adcids) > 1]
    assert sorted(p for p, _ in both) == sorted(moved)
    assert all(len(set(visits[k])) == len(visits[k]) == 2 for k in both)
    assert not set(current).difference(f"NACC{n:06d}" for n in range(1_000_000))


def test_transfers_are_spread_over_all_centers(tmp_path):
    many = make_centers(tmp_path, centers=5, columns=3, rows=(3000, 3000), broken=0)
    assert many.transferred == 5 * 5
    for dataset in datasets(many):
        keys = table(dataset)
        home = keys["naccid"].to_pylist()
        assert keys.num_rows == 3000
        assert home == sorted(home)


def test_without_transfers_nobody_is_twice(tmp_path):
    made = make_centers(tmp_path, **SMALL | {"transfers": 0})
    assert made.transferred == 0
    participants = [set(table(d)["naccid"].to_pylist()) for d in datasets(made)[:-1]]
    assert len(set.union(*participants)) == sum(map(len, participants))


def test_schemas_are_equal_without_drift(tmp_path):
    made = make_centers(tmp_path, **SMALL | {"drift_columns": 0, "broken": 0})
    schemas = [table(d).schema for d in datasets(made)]
    assert all(s.equals(schemas[0], check_metadata=True) for s in schemas)
    assert schemas[0].names[:3] == list(KEYS)
    assert len(schemas[0]) == 40
    assert {str(t) for t in schemas[0].types} == {"int32", "double", "string"}


def test_drift_of_every_kind(made):
    usual, drifted, ordered, extra = (table(d).schema for d in datasets(made)[:4])
    assert ordered.names == usual.names[::-1]
    assert set(extra.names) - set(usual.names) == {"site_note"}
    missing = set(usual.names) - set(drifted.names)
    assert len(missing) == 1
    changed = {
        str(drifted.field(n).type)
        for n in drifted.names
        if drifted.field(n).type != usual.field(n).type
    }
    assert changed == {"int64", "double", "null", "string"}


def test_columns_are_mostly_one_value_or_null(made):
    data = table(datasets(made)[0])
    nulls = [data[name].null_count / data.num_rows for name in data.column_names]
    assert sum(n == 1 for n in nulls) == 2
    assert sum(0.9 < n < 1 for n in nulls) >= 2
    codes = [
        n for n in data.column_names[3:] if data[n].type == pa.int32() and not data[n].null_count
    ]
    shares = [max(data[n].value_counts().field(1).to_pylist()) / data.num_rows for n in codes]
    assert min(shares) > 0.4
    assert max(shares) > 0.9


def test_several_tables_and_row_groups(tmp_path):
    made = make_centers(
        tmp_path,
        centers=2,
        columns=9,
        rows=(50, 50),
        tables=("uds", "mds"),
        row_group_rows=20,
        broken=1,
    )
    one, two = datasets(made)
    assert list(one.tables) == ["mds", "uds"]
    assert set(table(one, "mds").column_names) & set(table(one).column_names) == set(KEYS)
    assert table(two, "mds").num_rows == 50
    (file,) = one.tables["uds"]
    groups = pq.ParquetFile(pa.BufferReader(file.store.read(file.key))).metadata
    assert groups.num_row_groups == 3


def test_a_center_can_change(tmp_path):
    made = make_centers(tmp_path, **SMALL)
    before = datasets(made)
    for version in ("11", "12"):
        assert change_center(made, "center02") == version
        after = datasets(made)
        assert after[2].version == version
        assert [d.digest for d in after if d.center.id != "center02"] == [
            d.digest for d in before if d.center.id != "center02"
        ]
    old, new = table(before[2]), table(after[2])
    assert new.num_rows == old.num_rows + 14
    assert new.schema == old.schema
    assert not new.slice(0, 50).equals(old.slice(0, 50))


def test_datasets_may_lie_elsewhere(tmp_path):
    url = (tmp_path / "elsewhere").as_uri()
    made = make_centers(tmp_path / "home", **SMALL, datasets=url)
    assert made.datasets == f"{url}/{{center}}"
    assert {f.name for f in (tmp_path / "home").iterdir()} == {"centers.json", "identifiers.csv"}
    assert set(open_store(url).folders()) == set(made.ids)


def test_what_was_made_can_be_handed_to_another_process(made):
    assert pickle.loads(pickle.dumps(made)).rows == made.rows


@pytest.mark.parametrize("limits", [{"centers": 1}, {"centers": 3, "rows": (1, 1)}, {"columns": 3}])
def test_small_samples(tmp_path, limits):
    made = make_centers(tmp_path, **SMALL | {"broken": 0} | limits)
    assert sum(table(d).num_rows for d in datasets(made)) == sum(made.rows.values())


@pytest.mark.parametrize(
    "wrong", [{"transfers": 0.3}, {"transfers": -1}, {"columns": 2}, {"centers": 0}]
)
def test_what_cannot_be_made(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected"):
        make_centers(tmp_path, **SMALL | wrong)
