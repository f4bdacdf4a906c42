"""Row groups cut out of a file: what pyarrow reads of them is what it reads of the file."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.errors import Corrupt
from catchment.core.parquet.cut import cut
from catchment.core.store import open_store

ROWS = pa.table(
    {
        "i": pa.array(range(100), pa.int32()),
        "text": pa.array([f"t{n % 7}" if n % 5 else None for n in range(100)]),
        "list": pa.array([[n, None] * (n % 3) for n in range(100)], pa.list_(pa.int64())),
        "deep": pa.array([{"a": {"b": [str(n)]}} for n in range(100)]),
        "pairs": pa.array([[("k", n)] for n in range(100)], pa.map_(pa.string(), pa.int8())),
        "word": pa.array([f"w{n % 3}" for n in range(100)]).dictionary_encode(),
        "when": pa.array(range(100), pa.timestamp("ns", "UTC")),
        "none": pa.nulls(100),
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("cut").as_uri())


@settings(max_examples=40, deadline=None, database=None)
@given(
    size=st.integers(7, 120),
    ends=st.tuples(st.integers(0, 15), st.integers(0, 15)).map(sorted),
    codec=st.sampled_from(["zstd", "snappy", "none"]),
    pages=st.sampled_from(["1.0", "2.0"]),
)
def test_any_range_reads_as_it_does_in_the_file(store, size, ends, codec, pages):
    sink = io.BytesIO()
    pq.write_table(
        ROWS,
        sink,
        row_group_size=size,
        compression=codec,
        data_page_version=pages,
        data_page_size=64,
    )
    data = sink.getvalue()
    key = f"{size}-{codec}-{pages}"
    store.put(key, data, mode="overwrite")
    whole = pq.ParquetFile(io.BytesIO(data))
    first, after = (min(end, whole.num_row_groups) for end in ends)
    made = pq.ParquetFile(io.BytesIO(b"".join(cut(store, key, len(data), first, after))))
    assert made.schema_arrow.equals(whole.schema_arrow, check_metadata=True)
    assert made.num_row_groups == after - first
    expected = whole.read_row_groups(range(first, after)) if after > first else ROWS.slice(0, 0)
    assert made.read().to_pylist() == expected.to_pylist()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100, b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_what_is_no_file_is_said_so(store, data):
    store.put("bad", data, mode="overwrite")
    with pytest.raises(Corrupt) as caught:
        b"".join(cut(store, "bad", len(data), 0, 1))
    assert caught.value.kind == "warehouse-source"


def test_a_footer_larger_than_a_look(store):
    wide = pa.table({f"column {n:05}": [n] for n in range(1500)})
    sink = io.BytesIO()
    pq.write_table(wide, sink)
    data = sink.getvalue()
    store.put("wide", data)
    assert int.from_bytes(data[-8:-4], "little") > 64 << 10
    made = pq.read_table(io.BytesIO(b"".join(cut(store, "wide", len(data), 0, 1))))
    assert made.equals(wide)
