"""What the types of one column at several sites become, whatever the order of the sites.

* null gives way to anything.
* integers: the narrowest one that holds all; with ``uint64`` among signed ones ``decimal(20, 0)``.
* floats: the widest; integers and floats: ``double``.
* decimals, also with integers: the one that holds all digits of all, up to 76 of them.
* string, large_string, string_view, and a dictionary of them: ``string``; binary ones likewise.
* dates, times, durations and timestamps: the finest unit; a date among timestamps without a zone is
  its midnight. Timestamps of different zones are an error: no text would say which was meant.
* lists, structs and maps: the same rules inside. A struct gets the fields of all.
* all else is a conflict, and becomes a string.

No value changes unseen. A type that is known from statistics not to hold a value (an integer above
2**53 among doubles, a year 9999 among nanoseconds) is a conflict. Where statistics are silent the
merge finds it and refuses the file (kind ``lossy-cast``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
from pyarrow import types

EXACT = 2**53  # integers up to here are exact as doubles
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MAX_DIGITS = 76

Bound = Sequence[int] | None  # least and greatest; None: not known


def plain(kind: pa.DataType) -> pa.DataType:
    """The type without what is only a way of holding it in memory, as Parquet sees it."""
    if types.is_dictionary(kind):
        return plain(kind.value_type)
    for test, simple in _SIMPLE:
        if test(kind):
            return simple
    if _is_list(kind):
        return pa.list_(_plain_field(kind.value_field, "element"))
    if types.is_map(kind):
        return pa.map_(plain(kind.key_type), _plain_field(kind.item_field, "value"))
    if types.is_struct(kind):
        return pa.struct([_plain_field(field, field.name) for field in kind])
    if types.is_decimal(kind) and kind.precision <= pa.decimal128(38).precision:
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        return plain(kind.storage_type)
    return kind


_SIMPLE = (
    (types.is_large_string, pa.string()),
    (types.is_string_view, pa.string()),
    (types.is_large_binary, pa.binary()),
    (types.is_binary_view, pa.binary()),
    (lambda kind: isinstance(kind, pa.JsonType), pa.json_()),
)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with plain types and without metadata."""
    return pa.schema([_plain_field(field, field.name) for field in schema])


class Kind(NamedTuple):
    """One type that a column has somewhere, and what is known of its leaves' values there."""

    type: pa.DataType
    bounds: Sequence[Bound]


class CommonType:
    """The one type for several.

    Attributes:
        type: what holds all of them.
        conflict: the type, or one inside it, is a string for want of a better one.
        zones: timestamps differ in their zones.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.conflict = False
        self.zones = False
        self.type = self._common(kinds)

    def _common(self, kinds: Sequence[Kind]) -> pa.DataType:
        kinds = [kind for kind in kinds if not types.is_null(kind.type)]
        if len({kind.type for kind in kinds}) < 2:
            return kinds[0].type if kinds else pa.null()
        for test, rule in (
            (types.is_integer, self._integers),
            (_is_number, self._numbers),
            (_is_exact, self._decimals),
            (_is_day, self._instants),
            (types.is_time, self._times),
            (types.is_duration, self._durations),
            (_is_bytes, lambda _: pa.binary()),
            (_is_text, lambda _: pa.string()),
            (_is_list, self._lists),
            (types.is_struct, self._structs),
            (types.is_map, self._maps),
        ):
            if all(test(kind.type) for kind in kinds):
                return rule(kinds)
        return self._conflict()

    def _conflict(self) -> pa.DataType:
        self.conflict = True
        return pa.string()

    def _integers(self, kinds: Sequence[Kind]) -> pa.DataType:
        signed = {k.type.bit_width for k in kinds if types.is_signed_integer(k.type)}
        unsigned = {k.type.bit_width for k in kinds if types.is_unsigned_integer(k.type)}
        if not signed:
            return _UNSIGNED[max(unsigned)]
        return _SIGNED.get(max(signed | {2 * bits for bits in unsigned}), pa.decimal128(20, 0))

    def _numbers(self, kinds: Sequence[Kind]) -> pa.DataType:
        if all(types.is_floating(k.type) for k in kinds):
            return max((k.type for k in kinds), key=lambda kind: kind.bit_width)
        # Bounds are read as signed numbers: of unsigned ones they tell nothing.
        exact = all(_within(k.bounds, EXACT) for k in kinds if types.is_signed_integer(k.type))
        return pa.float64() if exact else self._conflict()

    def _decimals(self, kinds: Sequence[Kind]) -> pa.DataType:
        decimals = [_DIGITS.get(k.type) or (k.type.precision, k.type.scale) for k in kinds]
        scale = max(scale for _, scale in decimals)
        digits = max(precision - scale for precision, scale in decimals) + scale
        if digits > _MAX_DIGITS:
            return self._conflict()
        return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)

    def _instants(self, kinds: Sequence[Kind]) -> pa.DataType:
        zones = {k.type.tz for k in kinds if types.is_timestamp(k.type)}
        self.zones |= len(zones - {None}) > 1
        if len(zones) > 1 or (None not in zones and any(types.is_date(k.type) for k in kinds)):
            return self._conflict()
        unit = _finest(k.type.unit for k in kinds if types.is_timestamp(k.type))
        fits = all(
            _within(k.bounds, (2**63 - 1) // (_UNITS[unit] // _UNITS[k.type.unit]))
            for k in kinds
            if types.is_timestamp(k.type)
        )
        return pa.timestamp(unit, zones.pop()) if fits else self._conflict()

    def _times(self, kinds: Sequence[Kind]) -> pa.DataType:
        return pa.time64(_finest(kind.type.unit for kind in kinds))

    def _durations(self, kinds: Sequence[Kind]) -> pa.DataType:
        return pa.duration(_finest(kind.type.unit for kind in kinds))

    def _lists(self, kinds: Sequence[Kind]) -> pa.DataType:
        inside = [Kind(k.type.value_type, k.bounds) for k in kinds]
        nullable = any(k.type.value_field.nullable for k in kinds)
        return pa.list_(pa.field("element", self._common(inside), nullable))

    def _structs(self, kinds: Sequence[Kind]) -> pa.DataType:
        inside: dict[str, list[Kind]] = {}
        nullable: defaultdict[str, bool] = defaultdict(bool)
        for kind in kinds:
            at = 0
            for field in kind.type:
                width = leaves(field.type)
                inside.setdefault(field.name, []).append(
                    Kind(field.type, kind.bounds[at : at + width])
                )
                nullable[field.name] |= field.nullable
                at += width
        return pa.struct(
            [
                pa.field(name, self._common(some), nullable[name] or len(some) < len(kinds))
                for name, some in inside.items()
            ]
        )

    def _maps(self, kinds: Sequence[Kind]) -> pa.DataType:
        keys = [Kind(k.type.key_type, k.bounds[: leaves(k.type.key_type)]) for k in kinds]
        items = [Kind(k.type.item_type, k.bounds[leaves(k.type.key_type) :]) for k in kinds]
        nullable = any(k.type.item_field.nullable for k in kinds)
        return pa.map_(self._common(keys), pa.field("value", self._common(items), nullable))


_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
_UNSIGNED = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
_DIGITS = {  # of integers, as decimals
    **{_SIGNED[bits]: (digits, 0) for bits, digits in ((8, 3), (16, 5), (32, 10), (64, 19))},
    **{_UNSIGNED[bits]: (digits, 0) for bits, digits in ((8, 3), (16, 5), (32, 10), (64, 20))},
}


def _is_list(kind: pa.DataType) -> bool:
    tests = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_exact(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_decimal(kind))


def _is_day(kind: pa.DataType) -> bool:
    return bool(types.is_date(kind) or types.is_timestamp(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_fixed_size_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or isinstance(kind, pa.JsonType))


def _plain_field(field: pa.Field, name: str) -> pa.Field:
    return pa.field(name, plain(field.type), field.nullable)


def leaves(kind: pa.DataType) -> int:
    """Columns that Parquet stores for the type."""
    return sum(leaves(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _finest(units: Iterable[str]) -> str:
    return max(units, key=_UNITS.__getitem__)


def _within(bounds: Sequence[Bound], most: int) -> bool:
    """Whether no bound tells of a greater value; without one the merge looks at each."""
    return all(-most <= low and high <= most for low, high in filter(None, bounds))
