from __future__ import annotations

import io
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.errors import Corrupt, Invalid, NotFound
from catchment.core.store import Store, open_store
from catchment.tables import keys
from catchment.tables.keys import key_columns, read_pairs, read_rows, scan
from catchment.tables.model import CriteriaRule, OnDuplicate, TransferRule

KEY = "uds/part-0.parquet"


def stored(table: pa.Table, **options) -> Store:
    store = open_store(f"memory://{uuid.uuid4()}")
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    store.put(KEY, file.getvalue())
    return store


def transfers(columns: dict, **options) -> tuple[list, list]:
    """The participant and the center of each row, as the blob has them."""
    blob = scan(stored(pa.table(columns), **options), KEY, TransferRule(), {})
    pairs, rows = read_pairs(blob), read_rows(blob, "pair")
    return pairs.participants.take(rows).to_pylist(), pairs.centers.take(rows).to_pylist()


def hashes(columns: dict, types: dict[str, pa.DataType], **options) -> list[tuple | None]:
    """128 bits of each row's key of all columns; None for a row that has none."""
    table = pa.table(columns)
    blob = scan(stored(table, **options), KEY, CriteriaRule(tuple(types)), types)
    low, high, row = (read_rows(blob, name).tolist() for name in ("low", "high", "row"))
    assert low == sorted(low)
    found = dict(zip(row, zip(low, high, strict=True), strict=True))
    return [found.get(i) for i in range(table.num_rows)]


def refusal(table: pa.Table, rule=TransferRule(), types=None) -> Invalid:  # noqa: B008
    with pytest.raises(Invalid) as caught:
        scan(stored(table), KEY, rule, types or {})
    return caught.value


# --- participants and centers ------------------------------------------------------------------


@pytest.mark.parametrize("row_group_size", [1, 2, 100])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_each_row_has_its_participant_and_center(kind, row_group_size):
    columns = {
        "value": [1, 2, 3, 4, 5],
        "adcid": [0, 7, None, 7, 0],
        "naccid": pa.array(["a", "b", "a", None, "a"]).cast(kind),
    }
    participants, centers = transfers(columns, row_group_size=row_group_size)
    assert participants == ["a", "b", "a", None, "a"]
    assert centers == [0, 7, None, 7, 0]


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "PLAIN"])
def test_strings_in_any_encoding_are_keys(encoding, kind):
    """pyarrow makes no codes of delta encodings, which Spark and DuckDB write for version 2."""
    columns = {
        "naccid": pa.array(["a", "b", "a", None]).cast(kind),
        "adcid": [1, 1, 2, 2],
        "note": ["x", "y", "x", None],
    }
    how = dict.fromkeys(("naccid", "note"), encoding)
    options = {"use_dictionary": False, "column_encoding": how, "row_group_size": 3}
    assert transfers(columns, **options) == (["a", "b", "a", None], [1, 1, 2, 2])
    types = {"note": pa.string(), "naccid": pa.string()}
    assert hashes(columns, types, **options) == hashes(columns, types)


@pytest.mark.parametrize(
    "centers",
    [
        pa.array([3, None, 0], pa.int8()),
        pa.array([3, None, 0], pa.uint64()),
        pa.array([3.0, None, 0.0]),
        pa.array([3.0, float("nan"), -0.0], pa.float32()),
        pa.array(["3", None, "0"]),
        pa.array(["3", None, "0"]).dictionary_encode(),
        pa.array([Decimal(3), None, Decimal(0)]),
    ],
    ids=lambda a: str(a.type),
)
def test_centers_are_numbers_in_whatever_type_they_come(centers):
    assert transfers({"naccid": ["a", "b", "c"], "adcid": centers})[1] == [3, None, 0]


@pytest.mark.parametrize("row_group_size", [2, 5])
def test_a_dictionary_may_repeat_a_value_or_hold_one_that_no_row_has(row_group_size):
    naccid = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 1, None]), pa.array(["a", "a", "b", "unused"])
    )
    columns = {"naccid": naccid}
    participants, _ = transfers(columns, row_group_size=row_group_size)
    assert participants == ["a", "a", "b", "a", None]
    blob = scan(stored(pa.table(columns)), KEY, TransferRule(), {})
    pairs = read_pairs(blob)
    *named, unnamed = pairs.participants.to_pylist()
    assert sorted(named) == ["a", "b"]
    assert unnamed is None
    assert len(pairs.hashes) == 2
    assert (np.diff(pairs.hashes) > 0).all()


@pytest.mark.parametrize(
    "columns", [{"value": [1, 2]}, {"naccid": pa.nulls(2), "adcid": pa.nulls(2)}]
)
def test_columns_that_are_missing_or_all_null(columns):
    assert transfers(columns) == ([None, None], [None, None])


def test_a_file_without_rows():
    columns = {"naccid": pa.array([], pa.string()), "adcid": pa.array([], pa.int64())}
    assert transfers(columns) == ([], [])
    assert hashes(columns, {"naccid": pa.string()}) == []


def test_participants_that_are_numbers_become_text():
    assert transfers({"naccid": [3, None]})[0] == transfers({"naccid": [3.0, float("nan")]})[0]
    assert transfers({"naccid": [3, None]})[0] == ["3", None]


def test_a_nested_column_of_a_like_path_is_not_the_key_column():
    columns = {"naccid": ["a"], "adcid": [5], "naccid.x": ["no"], "adcid.y": [{"z": 1}]}
    assert transfers(columns) == (["a"], [5])


# --- criteria ----------------------------------------------------------------------------------

DAY = pa.array([18000, None, 19000], pa.int32()).cast(pa.date32())


@pytest.mark.parametrize(
    ("one", "other", "unified"),
    [
        (DAY, DAY.cast(pa.timestamp("s")), pa.timestamp("s")),
        (DAY, DAY.cast(pa.timestamp("us")), pa.timestamp("ns")),
        (DAY, DAY.cast(pa.string()), pa.string()),
        (DAY, DAY.cast(pa.date64()), pa.date64()),
        (pa.array([3, None, -2], pa.int8()), pa.array([3.0, None, -2.0]), pa.float64()),
        (pa.array([3, None, -2], pa.int8()), pa.array([3, None, -2]), pa.int32()),
        (pa.array([3, None, 2], pa.uint8()), pa.array([3, None, 2]), pa.uint64()),
        (pa.array([3, None, 2]), pa.array([3, None, 2], pa.uint64()), pa.decimal128(20, 0)),
        (pa.array([0.0, None, 2.5]), pa.array([-0.0, float("nan"), 2.5], pa.float32()), pa.float64()),
        (pa.array([0.0, None, 2.5]), pa.array([-0.0, None, 2.5], pa.float16()), pa.float32()),
        (pa.array(["x", None, ""]), pa.array(["x", None, ""], pa.large_string()), pa.string()),
        (pa.array(["x", None, ""]), pa.array(["x", None, ""]).dictionary_encode(), pa.string()),
        (pa.array([b"x", None, b""]), pa.array([b"x", None, b""], pa.large_binary()), pa.binary()),
        (pa.array([True, None, False]), pa.array([True, None, False]), pa.bool_()),
        (pa.array([True, None, False]), pa.array(["true", None, "false"]), pa.string()),
        (pa.array([1, None, 2], pa.time32("s")), pa.array([10**6, None, 2 * 10**6], pa.time64("us")), pa.time64("us")),
        (pa.array([1, None, 2], pa.duration("s")), pa.array([10**6, None, 2 * 10**6], pa.duration("us")), pa.duration("us")),
        (pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()), pa.array([str(uuid.UUID(bytes=c * 16)) if c else None for c in (b"0", b"", b"1")]), pa.string()),
        (pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()), pa.array([b"0" * 16, None, b"1" * 16], pa.binary(16)), pa.uuid()),
    ],
    ids=str,
)  # fmt: skip
def test_keys_are_compared_in_the_type_of_the_table(one, other, unified):
    first = hashes({"k": one}, {"k": unified})
    assert first == hashes({"k": other}, {"k": unified}, row_group_size=1)
    assert first[1] is None
    assert first[0] != first[2]
    assert None not in (first[0], first[2])


def test_old_timestamps_of_96_bits_are_read_as_the_table_reads_them():
    day = pa.array([2_932_896, 0], pa.int32()).cast(pa.date32()).cast(pa.timestamp("us"))
    types = {"k": pa.timestamp("us")}
    old = hashes({"k": day}, types, use_deprecated_int96_timestamps=True, store_schema=False)
    assert old == hashes({"k": day}, types)  # the last day of the year 9999 among them


def test_strings_are_compared_exactly():
    texts = ["x", "x ", " x", "X", "", "é", "e\u0301", "x\0", "\0", "NaN", "nan"]
    found = hashes({"k": texts}, {"k": pa.string()})
    assert len(set(found)) == len(texts)


def test_the_place_of_a_value_in_the_key_counts():
    types = {"a": pa.string(), "b": pa.string()}
    rows = [("x", "y"), ("y", "x"), ("xy", ""), ("", "xy"), ("x", "x"), ("y", "y"), ("x", "y")]
    a, b = zip(*rows, strict=True)
    found = hashes({"a": a, "b": b}, types)
    assert len(set(found)) == 6
    assert found[0] == found[6]


def test_a_key_with_a_null_is_no_key():
    types = {"a": pa.int64(), "b": pa.string()}
    found = hashes({"a": [1, None, 1, None], "b": ["x", "x", None, None]}, types)
    assert [f is None for f in found] == [False, True, True, True]


def test_a_missing_criteria_column_makes_every_key_null():
    assert hashes({"a": [1, 2]}, {"a": pa.int64(), "b": pa.string()}) == [None, None]
    blob = scan(
        stored(pa.table({"a": [1]})), KEY, CriteriaRule(("a", "nowhere")), {"a": pa.int64()}
    )
    assert len(read_rows(blob, "low")) == 0


def test_different_keys_have_different_hashes_in_each_half():
    count = 200_000
    columns = {"a": np.arange(count) // 500, "b": [str(i % 500) for i in range(count)]}
    found = hashes(columns, {"a": pa.float64(), "b": pa.string()})
    low, high = zip(*found, strict=True)
    assert len(set(low)) == len(set(high)) == count
    # Spread evenly over the range: slices of it are compared one after the other.
    per_slice = np.bincount(np.array(low, np.uint64) >> np.uint64(60), minlength=16)
    assert per_slice.min() > count / 16 * 0.9


def test_rows_know_their_pair():
    columns = {"naccid": ["a", "b", "a", None], "adcid": [1, 1, 2, 2], "v": [4, 3, None, 1]}
    rule, types = CriteriaRule(("v",)), {"v": pa.int64()}
    blob = scan(stored(pa.table(columns)), KEY, rule, types)
    pairs, pair, row = read_pairs(blob), read_rows(blob, "pair"), read_rows(blob, "row")
    names, centers = pairs.participants.take(pair), pairs.centers.take(pair)
    found = sorted(zip(row.tolist(), names.to_pylist(), centers.to_pylist(), strict=True))
    assert found == [(0, "a", 1), (1, "b", 1), (3, None, 2)]


# --- blobs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [TransferRule(), CriteriaRule(("naccid", "visitdate"))])
def test_a_blob_depends_on_the_values_only(rule):
    rng = np.random.default_rng(1)
    table = pa.table(
        {
            "naccid": [f"NACC{i:06d}" for i in rng.integers(0, 300, 3000)],
            "adcid": rng.integers(0, 3, 3000),
            "visitdate": pa.array(rng.integers(0, 50, 3000).astype("i4")).cast(pa.date32()),
        }
    )
    types = {"naccid": pa.string(), "visitdate": pa.timestamp("us")}
    written = [
        {},
        {"row_group_size": 100, "use_dictionary": False, "compression": "zstd"},
        {"data_page_version": "2.0", "store_schema": False},
    ]
    blobs = {scan(stored(table, **options), KEY, rule, types) for options in written}
    assert len(blobs) == 1
    keep = OnDuplicate.KEEP_ALL
    if isinstance(rule, CriteriaRule):
        rule = CriteriaRule(rule.criteria, keep)
    assert scan(stored(table), KEY, rule, types) in blobs


def test_a_blob_may_be_any_buffer():
    blob = scan(stored(pa.table({"naccid": ["a"]})), KEY, TransferRule(), {})
    for view in (bytearray(blob), memoryview(blob), pa.py_buffer(blob)):
        assert read_pairs(view).participants.to_pylist() == ["a"]


def test_the_format_of_blobs_is_known_by_its_bytes():
    blob = scan(stored(pa.table({"naccid": ["a"]})), KEY, TransferRule(), {})
    assert blob.startswith(keys.FORMAT)
    for damaged in (b"", blob[:10], blob[:-20], blob[:100], b"keys-000" + blob[8:]):
        with pytest.raises(Corrupt) as caught:
            read_rows(damaged, "pair")
        assert caught.value.kind == "keys-unreadable"
    with pytest.raises(Corrupt):
        read_pairs(blob[:100])


def test_key_columns_are_named_once():
    assert key_columns(TransferRule()) == ("naccid", "adcid")
    assert key_columns(CriteriaRule(("naccid", "visitdate"))) == ("naccid", "adcid", "visitdate")


# --- reading -----------------------------------------------------------------------------------


class Counting:
    """A store that counts the bytes that are read from it."""

    def __init__(self, store: Store) -> None:
        self.store, self.bytes = store, 0

    def head(self, key):
        return self.store.head(key)

    def read(self, key, *, start=0, length=None):
        data = self.store.read(key, start=start, length=length)
        self.bytes += len(data)
        return data


def test_only_key_columns_are_read():
    rng = np.random.default_rng(1)
    columns = {f"x{i}": rng.normal(size=5000) for i in range(50)}
    columns |= {"naccid": ["a"] * 5000, "adcid": [1] * 5000, "visitdate": [2] * 5000}
    store = Counting(stored(pa.table(columns), row_group_size=1000))
    rule = CriteriaRule(("naccid", "visitdate"))
    scan(store, KEY, rule, {"naccid": pa.string(), "visitdate": pa.int64()})
    # The footer is most of it: 50 columns in 5 row groups.
    assert store.bytes < store.head(KEY).size / 20


def test_a_file_that_is_not_there():
    with pytest.raises(NotFound):
        scan(open_store(f"memory://{uuid.uuid4()}"), KEY, TransferRule(), {})


@pytest.mark.parametrize("cut", [0, 3, 100, -30])
def test_a_file_that_is_not_whole(cut):
    store = stored(pa.table({"naccid": ["NACC000001"]}))
    store.put(KEY, store.read(KEY)[:cut], mode="overwrite")
    with pytest.raises(Invalid) as caught:
        scan(store, KEY, TransferRule(), {})
    assert caught.value.kind in ("parquet-unreadable", "parquet-truncated")


def test_damaged_pages_are_refused():
    store = stored(pa.table({"naccid": [f"NACC{i:06d}" for i in range(1000)]}))
    data = bytearray(store.read(KEY))
    data[4:200] = b"\xff" * 196
    store.put(KEY, bytes(data), mode="overwrite")
    with pytest.raises(Invalid) as caught:
        scan(store, KEY, TransferRule(), {})
    assert caught.value.kind == "parquet-unreadable"


SECRET = "NACC123456"


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("adcid", ["12", SECRET]),
        ("adcid", [20, -4]),
        ("adcid", [20.0, 20.5]),
        ("adcid", [[1], [2]]),
        ("adcid", pa.array([2**63, 1], pa.uint64())),
        ("naccid", [[SECRET], [SECRET]]),
        ("naccid", [{"a": SECRET}, None]),
        ("naccid", [b"\xff", b"a"]),
    ],
    ids=str,
)
def test_a_column_that_cannot_be_compared(column, values):
    other = {"adcid": "naccid", "naccid": "adcid"}[column]
    error = refusal(pa.table({column: values, other: [1, 2]}))
    assert error.kind == "bad-key-column"
    assert column in error.message
    assert SECRET not in f"{error} {error.hint}"
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("values", "unified"),
    [
        (pa.array([SECRET]), pa.int64()),
        (pa.array([10**15], pa.timestamp("ms")), pa.timestamp("ns")),
        (pa.array([2**60 + 1]), pa.float64()),
        (pa.array([[1]]), pa.list_(pa.int64())),
        (pa.array([[1]]), pa.string()),
    ],
    ids=str,
)
def test_criteria_that_cannot_be_compared(values, unified):
    error = refusal(pa.table({"k": values}), CriteriaRule(("k",)), {"k": unified})
    assert error.kind == "bad-key-column"
    assert SECRET not in f"{error} {error.hint}"


def test_two_columns_of_one_name():
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["naccid", "naccid"])
    error = refusal(table)
    assert error.kind == "parquet-disagreement"
    assert "naccid" in error.message


def test_a_column_of_nulls_in_every_file_is_null_in_every_key():
    assert hashes({"visitdate": pa.nulls(3)}, {"visitdate": pa.null()}) == [None] * 3
