"""What a table was composed of survives storage, byte for byte."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Corrupt
from catchment.core.store import open_store
from catchment.tables import composition
from catchment.tables.composition import Composition, Entry, Keys, dump, dump_keys, load
from catchment.tables.model import Fate, Removal

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
removals = st.lists(
    st.builds(
        Removal,
        st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
        st.sampled_from(list(Fate)),
        text,
    ),
    max_size=2,
).map(tuple)
schemas = st.lists(text, unique=True, max_size=3).map(
    lambda names: pa.schema([(n, pa.timestamp("us", "UTC")) for n in names], {b"k": b"v"})
)
entries = st.builds(
    Entry, text, text, text, text, st.integers(0, 2**60), text, text, st.integers(0, 2**40),
    schemas, removals, st.binary(max_size=40),
)  # fmt: skip
compositions = st.builds(
    Composition,
    st.lists(entries, max_size=3).map(tuple),
    schemas,
    st.dictionaries(text, text, max_size=2),
)


@pytest.fixture(scope="module")
def store():
    return open_store("memory://test-composition")


@given(compositions)
def test_what_is_dumped_is_loaded(made):
    data = dump(made)
    found = load(data)
    assert found == made
    assert [e.schema.metadata for e in found.entries] == [e.schema.metadata for e in made.entries]
    assert dump(found) == data


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_keys_are_read_one_by_one(store, blobs):
    store.put("k", dump_keys(blobs), mode="overwrite")
    keys = Keys(store, "k")
    assert [keys[i] for i in reversed(range(len(blobs)))] == blobs[::-1]


def test_another_format_is_not_remembered(monkeypatch):
    monkeypatch.setattr(composition, "FORMAT", "0")
    data = dump(Composition((), pa.schema([]), {}))
    monkeypatch.undo()
    assert load(data) is None


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"x" * 300, b"{}"])
def test_what_another_program_wrote_is_not_remembered(data):
    assert load(data) is None


@pytest.mark.parametrize("damage", [b"", b"ARROW1", slice(None, -1), slice(None, 100)])
def test_keys_that_cannot_be_read_are_corrupt(store, damage):
    data = b"".join(dump_keys([b"a" * 99, b"b"]))
    store.put("bad", data[damage] if isinstance(damage, slice) else damage, mode="overwrite")
    with pytest.raises(Corrupt) as caught:
        Keys(store, "bad")[0]
    assert caught.value.kind == "keys-unreadable"


def test_keys_of_an_input_that_is_not_there_are_corrupt(store):
    store.put("few", dump_keys([b"a"]), mode="overwrite")
    with pytest.raises(Corrupt):
        Keys(store, "few")[1]
