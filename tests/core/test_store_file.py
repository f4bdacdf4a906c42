"""A stored object as a file, against BytesIO."""

from __future__ import annotations

import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import NotFound
from catchment.core.store import open_store
from catchment.core.store_file import StoreFile

DATA = bytes(range(256)) * 4
STORE = open_store("memory://store-file")
STORE.put("data", DATA)
STORE.put("empty", b"")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 2000)),
        st.tuples(st.just("readinto"), st.integers(0, 2000)),
        st.tuples(st.just("seek"), st.integers(0, 3000), st.just(os.SEEK_SET)),
        st.tuples(st.just("seek"), st.integers(-1024, 2000), st.just(os.SEEK_END)),
        st.tuples(st.just("forward"), st.integers(0, 500)),
        st.tuples(st.just("tell")),
        st.tuples(st.just("readline")),
    ),
    max_size=12,
)


def step(file, what, *arguments):
    match what:
        case "readinto":
            buffer = bytearray(arguments[0])
            count = file.readinto(buffer)
            return count, bytes(buffer)
        case "forward":
            return file.seek(*arguments, os.SEEK_CUR)
        case _:
            return getattr(file, what)(*arguments)


@given(steps, st.sampled_from(["data", "empty"]), st.booleans())
def test_it_behaves_as_bytes_in_memory_do(todo, key, told):
    model = io.BytesIO(STORE.read(key))
    with StoreFile(STORE, key, len(model.getvalue()) if told else None) as file:
        for one in todo:
            if one[0] == "seek" and one[2] == os.SEEK_END and one[1] < -len(model.getvalue()):
                continue  # memory stops at the start; see below
            assert step(file, *one) == step(model, *one), one


def test_before_the_start_is_an_error():
    file = StoreFile(STORE, "data")
    for offset, whence in ((-1, os.SEEK_SET), (-1, os.SEEK_CUR), (-1025, os.SEEK_END)):
        with pytest.raises(ValueError, match="before the start"):
            file.seek(offset, whence)
    assert file.tell() == 0


def test_it_is_for_reading_only():
    file = StoreFile(STORE, "data")
    assert file.readable()
    assert file.seekable()
    assert not file.writable()


def test_an_absent_object_is_not_found():
    with pytest.raises(NotFound):
        StoreFile(STORE, "none")
    with pytest.raises(NotFound):
        StoreFile(STORE, "none", 10).read(1)


def test_libraries_read_from_it(tmp_path):
    table = pa.table({"a": list(range(1000)), "b": [str(n) for n in range(1000)]})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=100)
    store = open_store(tmp_path.as_uri())
    store.put("t.parquet", sink.getvalue())
    with StoreFile(store, "t.parquet") as file:
        assert pq.read_table(file).equals(table)
    buffered = io.BufferedReader(StoreFile(store, "t.parquet"))
    assert pq.ParquetFile(buffered).read_row_group(3).num_rows == 100


def test_each_read_is_one_range_of_the_object():
    asked = []

    class Watched:
        def read(self, key, *, start, length):
            asked.append((start, length))
            return STORE.read(key, start=start, length=length)

    file = StoreFile(Watched(), "data", len(DATA))
    file.seek(1000)
    assert len(file.read(100)) == 24
    assert file.read(100) == b""
    assert asked == [(1000, 24)]
