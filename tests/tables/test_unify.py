"""One schema from many: the rules for types, and what the report and the findings say."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.core.finding import Severity
from catchment.tables.types import plain, plain_schema
from catchment.tables.unify import BOUNDS, Unified, unify
from catchment.testing.parquet import types

I8, I16, I32, I64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
U8, U16, U32, U64 = pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()
F16, F32, F64 = pa.float16(), pa.float32(), pa.float64()
TEXT, NULL, DAY, BOOL = pa.string(), pa.null(), pa.date32(), pa.bool_()
MS, US, NS = (pa.timestamp(unit) for unit in ("ms", "us", "ns"))


def schema(bounds: object = None, **kinds: pa.DataType | pa.Field) -> pa.Schema:
    fields = [k if isinstance(k, pa.Field) else pa.field(n, k) for n, k in kinds.items()]
    known = {} if bounds is None else {BOUNDS: json.dumps(bounds).encode()}
    return pa.schema(fields, known)


def common(*kinds: pa.DataType, strict: bool = True) -> pa.DataType:
    """What the types become; the order of the sites makes no difference."""
    sites = [(f"s{n}", schema(c=kind)) for n, kind in enumerate(kinds)]
    found = unify(sites, strict=strict).schema.field("c").type
    assert unify(sites[::-1], strict=strict).schema.field("c").type.equals(found)
    return found


def conflict(*kinds: pa.DataType) -> pa.DataType:
    with pytest.raises(Invalid) as caught:
        common(*kinds)
    assert caught.value.kind == "type-conflict"
    assert "'c'" in caught.value.message
    assert "s0" in caught.value.message
    return common(*kinds, strict=False)


def listed(kind: pa.DataType, null: bool = True) -> pa.DataType:
    return pa.list_(pa.field("element", kind, null))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([NULL, NULL], NULL),
        ([NULL, I32], I32),
        ([NULL, listed(TEXT)], listed(TEXT)),
        ([I8, I16], I16),
        ([I8, I64, I32], I64),
        ([U8, U32], U32),
        ([U8, I8], I16),
        ([U16, I8], I32),
        ([U32, I8], I64),
        ([U32, I64], I64),
        ([U64, U8], U64),
        ([U64, I8], pa.decimal128(20, 0)),
        ([I64, F64], F64),
        ([I8, F32], F64),
        ([F16, F32], F32),
        ([F32, F64], F64),
        ([pa.decimal128(5, 2), pa.decimal128(9, 1)], pa.decimal128(10, 2)),
        ([pa.decimal128(38, 0), pa.decimal128(5, 2)], pa.decimal256(40, 2)),
        ([pa.decimal128(5, 2), I8], pa.decimal128(5, 2)),
        ([pa.decimal128(5, 2), I64], pa.decimal128(21, 2)),
        ([pa.decimal128(5, 2), U64], pa.decimal128(22, 2)),
        ([MS, US], US),
        ([MS, US, NS], NS),
        ([DAY, MS], MS),
        ([pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")], pa.timestamp("us", "UTC")),
        ([pa.time32("ms"), pa.time64("us")], pa.time64("us")),
        ([pa.duration("s"), pa.duration("ns")], pa.duration("ns")),
        ([pa.binary(), pa.binary(4)], pa.binary()),
        ([pa.binary(3), pa.binary(4)], pa.binary()),
        ([pa.json_(), TEXT], TEXT),
        ([pa.json_(), pa.json_()], pa.json_()),
        ([pa.uuid(), pa.uuid()], pa.uuid()),
        ([listed(I32), listed(I64)], listed(I64)),
        ([listed(I32, null=False), listed(I32)], listed(I32)),
        ([listed(I32, null=False), listed(I64, null=False)], listed(I64, null=False)),
        ([listed(listed(NULL)), listed(listed(F32))], listed(listed(F32))),
        ([pa.struct([("a", I32)]), pa.struct([("a", F64)])], pa.struct([("a", F64)])),
        (
            [pa.map_(I8, I32), pa.map_(I16, pa.field("value", I64, nullable=False))],
            pa.map_(I16, I64),
        ),
    ],
)
def test_types_that_go_together(kinds: list[pa.DataType], expected: pa.DataType) -> None:
    assert common(*kinds).equals(expected)


def test_a_struct_has_the_fields_of_all_as_they_are_seen() -> None:
    need = pa.field("b", TEXT, nullable=False)
    sites = [
        ("a", schema(c=pa.struct([("a", I32), need]))),
        ("b", schema(c=pa.struct([("c", DAY), ("a", F64)]))),
    ]
    found = unify(sites).schema.field("c").type
    assert found == pa.struct([("a", F64), ("b", TEXT), ("c", DAY)])


@pytest.mark.parametrize(
    "kinds",
    [
        [I64, TEXT],
        [BOOL, I8],
        [DAY, TEXT],
        [DAY, I32],
        [F64, pa.decimal128(5, 2)],
        [pa.decimal128(38, 0), pa.decimal256(76, 70)],
        [US, pa.timestamp("us", "UTC")],
        [DAY, pa.timestamp("us", "UTC")],
        [pa.binary(), TEXT],
        [pa.uuid(), pa.binary(16)],
        [listed(I32), I32],
        [pa.struct([("a", I32)]), TEXT],
        [pa.map_(TEXT, I32), listed(I32)],
        [pa.duration("s"), I64],
    ],
)
def test_types_that_do_not_become_a_string(kinds: list[pa.DataType]) -> None:
    assert conflict(*kinds) == TEXT


def test_a_conflict_inside_stays_inside() -> None:
    assert conflict(listed(I32), listed(TEXT)).equals(listed(TEXT))
    found = conflict(pa.struct([("a", I32), ("b", DAY)]), pa.struct([("a", BOOL), ("b", DAY)]))
    assert found == pa.struct([("a", TEXT), ("b", DAY)])


def test_zones_that_differ_are_an_error_strict_or_not() -> None:
    zones = [pa.timestamp("us", zone) for zone in ("UTC", "America/New_York")]
    for strict in (True, False):
        with pytest.raises(Invalid) as caught:
            common(*zones, strict=strict)
        assert caught.value.kind == "zone-conflict"
    with pytest.raises(Invalid):
        common(*map(listed, zones), strict=False)
    with pytest.raises(Invalid):
        common(*zones, US, strict=False)


@pytest.mark.parametrize(
    ("one", "other", "bounds", "expected"),
    [
        (I64, F64, [-(2**53), 2**53], F64),
        (I64, F64, [0, 2**53 + 1], TEXT),
        (I64, F64, [-(2**53) - 1, 0], TEXT),
        (U64, F64, [0, -1], F64),  # bounds are of signed numbers
        (I64, F64, None, F64),  # the merge looks at each value
        (I64, F64, [2**63 - 1, -(2**63)], F64),  # no value at all
        (I32, F64, None, F64),
        (US, NS, [0, 2**62 // 1000], NS),
        (US, NS, [0, 253_402_300_799_000_000], TEXT),  # the end of 9999
        (MS, NS, [-62_135_596_800_000, 0], TEXT),  # the beginning of 1
        (MS, US, [0, 253_402_300_799_000], US),
    ],
)
def test_values_known_not_to_fit_are_a_conflict(one, other, bounds, expected) -> None:
    def found(*columns: pa.DataType) -> pa.DataType:
        sites = [
            ("a", schema([None, bounds], x=TEXT, c=columns[0])),
            ("b", schema([[1, 2], None], c=columns[1], x=I64)),
            ("c", schema(c=columns[0])),
        ]
        return unify(sites).schema.field("c").type

    assert found(one, other) == expected
    inside = found(listed(one), listed(other))
    assert inside.value_type == expected
    pair = found(pa.struct([("n", DAY), ("v", one)]), pa.struct([("v", other), ("n", DAY)]))
    assert pair.field("v").type == (other if bounds and expected == TEXT else expected)


def test_bounds_inside_structs_and_maps() -> None:
    wide, big = [0, 2**60], [0, 5]
    struct = [pa.struct([("n", TEXT), ("v", kind)]) for kind in (I64, F64)]
    sites = [("a", schema([None, wide], c=struct[0])), ("b", schema([None, None], c=struct[1]))]
    assert unify(sites).schema.field("c").type.field("v").type == TEXT
    maps = [pa.map_(I64, kind) for kind in (I64, F64)]
    for bounds, expected in (([wide, big], F64), ([big, wide], TEXT)):
        sites = [("a", schema(bounds, c=maps[0])), ("b", schema([big, None], c=maps[1]))]
        assert unify(sites).schema.field("c").type.item_type == expected


def test_what_is_in_memory_only_is_not_seen() -> None:
    for held, expected in (
        (pa.large_string(), TEXT),
        (pa.string_view(), TEXT),
        (pa.dictionary(pa.int8(), pa.large_string()), TEXT),
        (pa.dictionary(pa.int8(), I64), I64),
        (pa.large_binary(), pa.binary()),
        (pa.binary_view(), pa.binary()),
        (
            pa.large_list(pa.field("item", pa.large_string(), nullable=False)),
            listed(TEXT, null=False),
        ),
        (pa.list_(I8, 3), listed(I8)),
        (pa.list_view(I8), listed(I8)),
        (pa.large_list_view(I8), listed(I8)),
        (pa.map_(pa.large_string(), pa.large_string()), pa.map_(TEXT, TEXT)),
        (pa.struct([("a", pa.large_string())]), pa.struct([("a", TEXT)])),
        (pa.decimal32(5, 2), pa.decimal128(5, 2)),
        (pa.decimal64(15, 2), pa.decimal128(15, 2)),
        (pa.decimal256(20, 2), pa.decimal128(20, 2)),
        (pa.decimal256(50, 2), pa.decimal256(50, 2)),
        (pa.json_(pa.large_string()), pa.json_()),
        (pa.uuid(), pa.uuid()),
        (pa.bool8(), I8),
        (pa.opaque(pa.large_string(), "t", "v"), TEXT),
    ):
        assert plain(held).equals(expected)
        assert plain(expected).equals(expected)


@given(types())
def test_plain_is_plain(kind: pa.DataType) -> None:
    once = plain(kind)
    assert plain(once).equals(once)
    assert str(plain(once)) == str(once)


def test_metadata_does_not_leak() -> None:
    secret = {"k": "secret"}
    inner = pa.field("x", I64, metadata=secret)
    fields = [pa.field("a", I64, metadata=secret), pa.field("s", pa.struct([inner]))]
    made = plain_schema(pa.schema(fields, secret))
    assert b"secret" not in made.serialize().to_pybytes()
    assert b"secret" not in unify([("a", made)]).schema.serialize().to_pybytes()


def test_columns_in_the_order_in_which_they_are_seen() -> None:
    sites = [("a", schema(x=I8, y=I8)), ("b", schema(z=I8, y=I8, x=I8)), ("c", schema(w=I8))]
    assert unify(sites).schema.names == ["x", "y", "z", "w"]


def test_not_null_only_where_all_say_so() -> None:
    need, may = pa.field("c", I64, nullable=False), pa.field("c", I64)
    assert not unify([("a", schema(c=need)), ("b", schema(c=need))]).schema.field("c").nullable
    assert unify([("a", schema(c=need)), ("b", schema(c=may))]).schema.field("c").nullable
    missing = [("a", schema(c=need)), ("b", schema(d=I64))]
    assert unify(missing).schema.field("c").nullable
    widened = [("a", schema(c=need)), ("b", schema(c=pa.field("c", I32, nullable=False)))]
    assert not unify(widened).schema.field("c").nullable


def test_one_schema_has_no_drift() -> None:
    same = schema(a=I64, b=TEXT)
    assert unify([("a", same), ("b", same)]) == Unified(same, ())
    assert unify([]) == Unified(pa.schema([]), ())


def drift() -> Unified:
    usual = schema(id=I64, v=I32, n=TEXT, freeze_date=TEXT, t=I64)
    sites = [
        ("alpha", usual),
        ("beta", schema(id=I64, v=F64, n=TEXT, t=BOOL, extra=I8)),
        ("gamma", schema(id=I64, V=I32, n=TEXT, t=I64)),
        ("gamma", schema(id=I64, v=I64, n=TEXT, t=I64)),
    ]
    return unify(sites, constants=["freeze_date", "etl_date"])


def test_the_report() -> None:
    unified = drift()
    assert unified.schema.names == ["id", "v", "n", "t", "extra", "V"]
    assert json.loads(json.dumps(unified.drift)) == [
        {
            "column": "v",
            "type": "double",
            "sites": {"alpha": ["int32"], "beta": ["double"], "gamma": ["int64"]},
            "action": "widened",
            "severity": "note",
        },
        {
            "column": "v",
            "type": "double",
            "sites": {"alpha": ["int32"], "beta": ["double"], "gamma": ["int64"]},
            "action": "filled",
            "severity": "note",
        },
        {
            "column": "freeze_date",
            "type": None,
            "sites": {"alpha": ["string"], "beta": None, "gamma": None},
            "action": "overridden",
            "severity": "warning",
        },
        {
            "column": "t",
            "type": "string",
            "sites": {"alpha": ["int64"], "beta": ["bool"], "gamma": ["int64"]},
            "action": "conflict",
            "severity": "warning",
        },
        {
            "column": "extra",
            "type": "int8",
            "sites": {"alpha": None, "beta": ["int8"], "gamma": None},
            "action": "filled",
            "severity": "note",
        },
        {
            "column": "V",
            "type": "int32",
            "sites": {"alpha": None, "beta": None, "gamma": ["int32"]},
            "action": "filled",
            "severity": "note",
        },
        {
            "column": "V",
            "type": "int32",
            "sites": {"alpha": None, "beta": None, "gamma": ["int32"]},
            "action": "case-twin",
            "severity": "warning",
        },
    ]


def test_findings_tell_each_site_of_its_own_columns() -> None:
    findings = drift().findings("uds")
    assert [(f.site, f.severity, f.code, f.where) for f in findings] == [
        ("alpha", Severity.NOTE, "column-widened", "uds: 'v'"),
        ("alpha", Severity.NOTE, "columns-missing", "uds"),
        ("alpha", Severity.WARNING, "column-conflict", "uds: 't'"),
        ("alpha", Severity.WARNING, "column-overridden", "uds: 'freeze_date'"),
        ("beta", Severity.NOTE, "columns-extra", "uds"),
        ("beta", Severity.NOTE, "columns-missing", "uds"),
        ("beta", Severity.WARNING, "column-conflict", "uds: 't'"),
        ("gamma", Severity.NOTE, "column-widened", "uds: 'v'"),
        ("gamma", Severity.NOTE, "columns-extra", "uds"),
        ("gamma", Severity.NOTE, "columns-missing", "uds"),
        ("gamma", Severity.WARNING, "column-case-twin", "uds: 'V'"),
        ("gamma", Severity.WARNING, "column-conflict", "uds: 't'"),
    ]
    messages = {(f.site, f.code): f.message for f in findings}
    assert messages["alpha", "column-widened"] == "'int32'; the table has 'double'"
    assert (
        messages["beta", "columns-extra"] == "1 column that most other sites do not send: 'extra'"
    )


def test_findings_name_some_of_many_columns() -> None:
    many = schema(id=I64, **{f"c{n}": I8 for n in range(30)})
    (_, missing) = unify([("a", many), ("b", schema(id=I64))]).findings("t")
    assert missing.message.startswith("30 columns that other sites send: 'c0', 'c1'")
    assert missing.message.endswith("'c19' and 10 more")


def test_types_in_messages_cannot_carry_control_characters() -> None:
    bad = pa.struct([("\x1b[31mred", I8)])
    (finding,) = (
        f for f in unify([("a", schema(c=bad)), ("b", schema(c=I8))]).findings("t") if f.site == "a"
    )
    assert "\x1b" not in finding.message


@given(st.lists(types(depth=1), min_size=1, max_size=4), st.randoms())
def test_the_type_does_not_depend_on_the_order(
    kinds: list[pa.DataType], shuffle: random.Random
) -> None:
    sites = [(f"s{n}", schema(c=plain(kind))) for n, kind in enumerate(kinds)]
    mixed = shuffle.sample(sites, len(sites))

    def outcome(some: list[tuple[str, pa.Schema]]) -> object:
        try:
            return unify(some).schema.field("c")
        except Invalid as error:
            return error.kind

    one, other = outcome(sites), outcome(mixed)
    if isinstance(one, pa.Field) and pa.types.is_struct(one.type):  # fields as they are seen
        assert sorted(map(str, one.type)) == sorted(map(str, other.type))
    else:
        assert one == other


def test_names_that_readers_take_for_the_same_are_told() -> None:
    """DuckDB gives ``FREEZE_DATE`` to who asks for ``freeze_date``; accents are composed or not."""
    schemas = [
        ("alpha", pa.schema([("caf\u00e9", pa.int32()), ("FREEZE_DATE", pa.string())])),
        ("beta", pa.schema([("caf\u00e9", pa.int32())])),
        ("gamma", pa.schema([("cafe\u0301", pa.int32())])),
    ]
    unified = unify(schemas, constants=("freeze_date",))
    assert unified.schema.names == ["caf\u00e9", "FREEZE_DATE", "cafe\u0301"]
    told = [(f.site, f.where) for f in unified.findings("uds") if f.code == "column-case-twin"]
    assert told == [("alpha", "uds: 'FREEZE_DATE'"), ("gamma", "uds: 'cafe\\u0301'")]


def test_a_conflict_groups_the_sites_of_a_type():
    kinds = [pa.int32(), pa.string(), pa.int32(), pa.string()]
    sites = [(f"s{i}", pa.schema([("c", k), (f"x{i}", k)])) for i, k in enumerate(kinds)]
    with pytest.raises(Invalid, match=r"got 'int32' at s0, s2; 'string' at s1, s3$"):
        unify(sites, strict=True)
