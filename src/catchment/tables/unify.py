"""One schema for a table from the schemas of its sites' files, and a report of what differs.

``types`` has the rules for types. A conflict is an error if strict; otherwise the column becomes a
string and the report says so. A column is ``not null`` only if it is so in every file. The order of
columns is that in which they are first seen.
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import pyarrow as pa

from catchment.core.errors import Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import counted, shown
from catchment.tables.types import Bound, CommonType, Kind, leaves

BOUNDS = b"bounds"  # key of a schema's metadata: JSON, for each leaf [least, greatest] or null
_SHOWN = 20  # column names in one finding


@dataclass(frozen=True, slots=True)
class Unified:
    """The schema of a table, and its drift: a JSON object for each way in which a column differs.

    Attributes:
        schema: without constant columns.
        drift: ``column``, ``type`` (null if the column is left out), ``sites`` (the types that each
            has there; null: none), ``action`` (one of ``filled``, ``widened``, ``conflict``,
            ``overridden``, ``case-twin``) and ``severity``.
    """

    schema: pa.Schema
    drift: tuple[Mapping[str, Any], ...]

    def findings(self, table: str) -> list[Finding]:
        """What each site should know of its own columns; missing and extra ones in one finding."""
        found = []
        names: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for entry in self.drift:
            sites, action = entry["sites"], entry["action"]
            few = 2 * sum(map(bool, sites.values())) <= len(sites)
            for site, kinds in sites.items():
                if action == "filled" and not kinds:
                    names[site, "columns-missing"].append(entry["column"])
                elif action == "filled" and few:
                    names[site, "columns-extra"].append(entry["column"])
                elif (
                    action in _TEXTS and kinds and (action != "widened" or kinds != [entry["type"]])
                ):
                    have = " and ".join(map(shown, kinds))
                    message, hint = _TEXTS[action]
                    found.append(
                        Finding(
                            site,
                            Severity(entry["severity"]),
                            f"column-{action}",
                            f"{table}: {shown(entry['column'])}",
                            message.format(have=have, become=shown(str(entry["type"]))),
                            hint,
                        )
                    )
        for (site, code), columns in names.items():
            listed = ", ".join(map(shown, columns[:_SHOWN]))
            more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
            what = "most other sites do not send" if code == "columns-extra" else "other sites send"
            message = f"{counted(len(columns), 'columns')} that {what}: {listed}{more}"
            found.append(Finding(site, Severity.NOTE, code, table, message))
        return sorted(found)


_SEVERITIES = {
    "filled": Severity.NOTE,
    "widened": Severity.NOTE,
    "conflict": Severity.WARNING,
    "overridden": Severity.WARNING,
    "case-twin": Severity.WARNING,
}
_TEXTS = {
    "widened": ("{have}; the table has {become}", ""),
    "conflict": (
        "{have}; the sites' types do not go together, so the table has {become}",
        "send the column with the type that the other sites use",
    ),
    "overridden": (
        "the run writes this column itself; the site's values are left out",
        "leave the column out of the dataset",
    ),
    "case-twin": (
        "others, or the run itself, spell this column in other case or accents; the table has both",
        "spell the column as the other sites do",
    ),
}


def unify(
    schemas: Sequence[tuple[str, pa.Schema]],
    *,
    constants: Collection[str] = (),
    strict: bool = False,
) -> Unified:
    """One schema for the files of all sites.

    Args:
        schemas: the site and the schema of each file, in order; plain
            (:func:`.types.plain_schema`), with the leaves' bounds in the metadata where known.
        constants: columns that the run itself writes; a site's own are left out.
        strict: a conflict is an error.

    Raises Invalid: kind ``type-conflict`` (if strict), ``zone-conflict``.
    """
    alike: defaultdict[bytes, list[_File]] = defaultdict(list)
    files: list[_File] = []
    for site, schema in schemas:
        some = alike[schema.remove_metadata().serialize().to_pybytes()]
        files.append(_File(site, schema, some[0].places if some else _Places(schema)))
        some.append(files[-1])
    columns: dict[str, _Column] = {}
    for some in alike.values():
        for field in some[0].schema:
            column = columns.get(field.name)
            if column is None:
                column = columns[field.name] = _Column(field.name, files, [])
            column.variants.append((field, some))
    usual: dict[str, _Column] = {}  # the spelling that most files use
    for column in columns.values():
        twin = usual.get(folded(column.name))
        if twin is None or column.count() > twin.count():
            usual[folded(column.name)] = column
    own = set(map(folded, constants))
    fields: list[pa.Field] = []
    drift: list[Mapping[str, Any]] = []
    for column in columns.values():
        if column.name in constants:
            drift.append(column.drift(None, "overridden"))
            continue
        field, actions = column.unified(strict=strict)
        fields.append(field)
        if usual[folded(column.name)] is not column or folded(column.name) in own:
            actions.append("case-twin")
        drift += [column.drift(field.type, action) for action in actions]
    return Unified(pa.schema(fields), tuple(drift))


def folded(name: str) -> str:
    """What people and many readers take for the same name: other case, other ways of accents."""
    return unicodedata.normalize("NFKC", name).casefold()


class _Places:
    """Which leaves each column of a schema has; one for all schemas that are alike."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    @cached_property
    def of(self) -> dict[str, slice]:
        """The leaves of each column."""
        ends = list(accumulate(leaves(kind) for kind in self.schema.types))
        return dict(zip(self.schema.names, map(slice, [0, *ends], ends), strict=False))


class _File:
    """One file of a site, as its schema tells."""

    def __init__(self, site: str, schema: pa.Schema, places: _Places) -> None:
        self.site = site
        self.places = places
        self.schema = schema

    def bounds(self, name: str) -> Sequence[Bound]:
        """The bounds of a column's leaves; empty where none are known."""
        if len(self._bounds) == len(self.schema):  # no column has several leaves
            at = self.schema.get_field_index(name)
            return self._bounds[at : at + 1]
        return self._bounds[self.places.of[name]]

    @cached_property
    def _bounds(self) -> list[Bound]:
        known: list[Bound] = json.loads((self.schema.metadata or {}).get(BOUNDS, b"[]"))
        return known


@dataclass(frozen=True, slots=True)
class _Column:
    """One column: what it is in which files."""

    name: str
    files: Sequence[_File]  # all, also those without it
    variants: list[tuple[pa.Field, list[_File]]]

    def count(self) -> int:
        """How many files have it."""
        return sum(len(files) for _, files in self.variants)

    def unified(self, *, strict: bool) -> tuple[pa.Field, list[str]]:
        """The column of the table, and what was done for it."""
        actions = []
        kind = self.variants[0][0].type
        if not all(field.type.equals(kind) for field, _ in self.variants[1:]):
            by_type: defaultdict[pa.DataType, list[_File]] = defaultdict(list)
            for field, files in self.variants:
                by_type[field.type] += files
            common = CommonType([Kind(k, self._spans(some)) for k, some in by_type.items()])
            if common.zones:
                raise self._refusal("zone-conflict", "timestamps of one zone")
            if common.conflict and strict:
                raise self._refusal("type-conflict", "types that go together")
            kind = common.type
            actions.append("conflict" if common.conflict else "widened")
        missing = self.count() < len(self.files)
        if missing:
            actions.append("filled")
        nullable = missing or any(field.nullable for field, _ in self.variants)
        return pa.field(self.name, kind, nullable), actions

    def drift(self, kind: pa.DataType | None, action: str) -> dict[str, Any]:
        """An entry of the report."""
        sites: dict[str, list[str] | None] = {file.site: None for file in self.files}
        for field, files in self.variants:
            for site in dict.fromkeys(file.site for file in files):
                kinds = sites[site] = sites[site] or []
                if str(field.type) not in kinds:
                    kinds.append(str(field.type))
        return {
            "column": self.name,
            "type": None if kind is None else str(kind),
            "sites": sites,
            "action": action,
            "severity": _SEVERITIES[action].value,
        }

    def _spans(self, files: Sequence[_File]) -> list[Bound]:
        """Leaf by leaf, the least and greatest over those of the files that tell."""
        told = [bounds for file in files if (bounds := file.bounds(self.name))]
        known = ([bound for bound in leaf if bound] for leaf in zip(*told, strict=True))
        return [
            (min(low for low, _ in some), max(high for _, high in some)) if some else None
            for some in known
        ]

    def _refusal(self, kind: str, expected: str) -> Invalid:
        sites: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for field, files in self.variants:
            sites[str(field.type)].update(dict.fromkeys(file.site for file in files))
        have = "; ".join(f"{shown(type_)} at {', '.join(names)}" for type_, names in sites.items())
        return Invalid(
            f"column {shown(self.name)}: expected {expected}, got {have}",
            kind=kind,
            hint="let the sites agree on one type, or leave those out that differ",
        )
