"""Random Parquet files for tests: schemas, values and ways of writing, as Hypothesis strategies."""

from __future__ import annotations

import io
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Random = np.random.Generator

_ZONES = (None, "UTC", "America/New_York")
_UNITS = ("ms", "us", "ns")
FLAT: tuple[pa.DataType, ...] = (
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.binary(5),
    pa.dictionary(pa.int32(), pa.string()),
    pa.decimal128(9, 2),
    pa.decimal128(38, 10),
    pa.decimal256(50, 3),
    pa.date32(),
    pa.time32("ms"),
    pa.time64("us"),
    pa.duration("us"),
    pa.null(),
    *(pa.timestamp(unit, zone) for unit in _UNITS for zone in _ZONES),
)


def types(*, depth: int = 2) -> st.SearchStrategy[pa.DataType]:
    """Types that Parquet can store, nested up to a depth.

    No dictionaries inside others: pyarrow's writer fails on some of those.
    """
    flat = st.sampled_from(FLAT)
    return st.one_of(flat, flat, _nested(depth)) if depth else flat


def _nested(depth: int) -> st.SearchStrategy[pa.DataType]:
    flat = st.sampled_from([kind for kind in FLAT if not pa.types.is_dictionary(kind)])
    inside = st.one_of(flat, _nested(depth - 1)) if depth > 1 else flat
    element = st.builds(_field, st.just("element"), inside, st.booleans())
    fields = st.lists(
        st.builds(_field, st.sampled_from(["f", "g", "h"]), inside, st.booleans()),
        min_size=1,
        max_size=3,
        unique_by=lambda field: field.name,
    )
    return st.one_of(
        element.map(pa.list_),
        element.map(pa.large_list),
        fields.map(pa.struct),
        st.builds(pa.map_, st.sampled_from([pa.string(), pa.int32()]), inside),
    )


def schemas(*, columns: int = 5, depth: int = 2) -> st.SearchStrategy[pa.Schema]:
    """Schemas of 1 to so many columns; names are c0, c1 ... and a few that ask for trouble."""
    names = [f"c{i}" for i in range(columns)] + ["a.b", "a", "list", "Ünï", "x y", '"']
    field = st.builds(_field, st.sampled_from(names), types(depth=depth), st.booleans())
    fields = st.lists(field, min_size=1, max_size=columns, unique_by=lambda f: f.name)
    return fields.map(pa.schema)


def tables(schema: pa.Schema, *, rows: int = 30) -> st.SearchStrategy[pa.Table]:
    """Tables of a schema with 0 to so many rows."""
    return st.builds(
        lambda count, seed, empty: table(schema, count, np.random.default_rng(seed), empty=empty),
        st.integers(0, rows),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0.0, 0.2, 1.0]),
    )


def table(schema: pa.Schema, rows: int, random: Random, *, empty: float = 0.2) -> pa.Table:
    """A table of random values; ``empty`` is the share of nulls where they are allowed."""
    columns = [_array(field, rows, random, empty) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class Writing:
    """A way of writing a Parquet file with pyarrow."""

    compression: Literal["none", "snappy", "gzip", "zstd", "lz4", "brotli"] = "snappy"
    data_page_version: Literal["1.0", "2.0"] = "1.0"
    row_group_size: int = 1 << 20
    max_rows_per_page: int = 20_000
    use_dictionary: bool = True
    write_statistics: bool = True
    write_page_index: bool = False
    store_schema: bool = True
    use_compliant_nested_type: bool = True

    def write(self, data: pa.Table) -> bytes:
        """The file's bytes."""
        sink = io.BytesIO()
        pq.write_table(data, sink, **vars(self))
        return sink.getvalue()


def writings() -> st.SearchStrategy[Writing]:
    """Ways of writing: codecs, page versions and sizes, row groups, statistics, page indexes."""
    return st.builds(
        Writing,
        compression=st.sampled_from(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
        data_page_version=st.sampled_from(["1.0", "2.0"]),
        row_group_size=st.sampled_from([1 << 20, 7, 3]),
        max_rows_per_page=st.sampled_from([20_000, 4, 1]),
        use_dictionary=st.booleans(),
        write_statistics=st.booleans(),
        write_page_index=st.booleans(),
        store_schema=st.booleans(),
        use_compliant_nested_type=st.booleans(),
    )


def _field(name: str, kind: pa.DataType, nullable: bool) -> pa.Field:  # noqa: FBT001 - drawn
    return pa.field(name, kind, nullable or pa.types.is_null(kind))


def _array(field: pa.Field, rows: int, random: Random, empty: float) -> pa.Array:
    return pa.array([_maybe(field, random, empty) for _ in range(rows)], field.type)


def _maybe(field: pa.Field, random: Random, empty: float) -> Any:
    null = field.nullable and (pa.types.is_null(field.type) or random.random() < empty)
    return None if null else _value(field.type, random, empty)


def _value(kind: pa.DataType, random: Random, empty: float) -> Any:  # noqa: C901, PLR0911 - a row a type
    """A value for ``pa.array``, often one from the edge of the type."""
    t = pa.types
    if t.is_struct(kind):
        return {field.name: _maybe(field, random, empty) for field in kind}
    if t.is_list(kind) or t.is_large_list(kind):
        return [_maybe(kind.value_field, random, empty) for _ in range(random.integers(4))]
    if t.is_map(kind):
        keys = {_value(kind.key_type, random, empty) for _ in range(random.integers(3))}
        return [(key, _maybe(kind.item_field, random, empty)) for key in sorted(keys)]
    if t.is_dictionary(kind):
        return _value(kind.value_type, random, empty)
    if t.is_string(kind) or t.is_large_string(kind):
        return str(random.choice(["", "a", "b", "Zoë", "x" * 40, "0", "NULL"]))
    if t.is_fixed_size_binary(kind):
        return random.bytes(kind.byte_width)
    if t.is_binary(kind):
        return random.bytes(int(random.integers(4)))
    if t.is_boolean(kind):
        return bool(random.integers(2))
    if t.is_floating(kind):
        return float(random.choice([0.0, -0.0, 1.5, -2.25, np.inf, np.nan]))
    if t.is_decimal(kind):
        digits = int(random.integers(1, kind.precision + 1))
        return Decimal((int(random.integers(2)), (9,) * digits, -kind.scale))
    if t.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        return [int(info.min), int(info.max), 0, 1, 2, 3][random.integers(6)]
    return int(random.integers(0, 20_000))  # days, or units since the epoch or midnight
