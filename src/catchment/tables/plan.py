"""Decisions: from what is known to what is to be done. Pure; nothing here reads or writes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from catchment.core.account import Account, Balance, Line
from catchment.core.errors import CatchmentError, Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown
from catchment.tables.composition import Composition, Entry
from catchment.tables.merge import ENGINE
from catchment.tables.model import Center, Dataset, Fate, Options, Removal, SourceFile
from catchment.tables.parquet import Footer
from catchment.tables.unify import Unified

ROWS, FILES = "rows", "files"
CENTER_QUARANTINED = "center-quarantined"


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a listing shows it; ``name`` is its key below its dataset's version."""

    center: Center
    table: str
    name: str
    file: SourceFile


@dataclass(frozen=True, slots=True)
class Input:
    """An accepted file as it enters a table.

    Attributes:
        digest: ``sha256:<hex>`` of its bytes; None while they are read. Then they are none that
            the latest snapshot knows.
        footer: None while the file is only known from the previous snapshot.
    """

    listed: Listed
    digest: str | None
    rows: int
    schema: pa.Schema
    footer: Footer | None = None

    @property
    def center(self) -> Center:
        """Who sent it."""
        return self.listed.center


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that does not enter a table: why, and its rows where they are known."""

    listed: Listed
    error: CatchmentError
    rows: int | None = None

    def finding(self) -> Finding:
        """What its site is told."""
        return Finding(
            self.listed.center.id,
            Severity.ERROR,
            self.error.kind,
            f"{self.listed.table}/{self.listed.name}",
            self.error.message.removeprefix(f"{shown(self.listed.name)}: "),  # it is told above
            self.error.hint,
        )


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How one table is composed; the sequences run in parallel, one item an input.

    Attributes:
        kept: the entry of the previous snapshot whose bytes are copied; None: merged from source.
    """

    table: str
    unified: Unified
    inputs: tuple[Input, ...]
    removals: tuple[tuple[Removal, ...], ...]
    kept: tuple[Entry | None, ...]

    @property
    def rows(self) -> int:
        """Rows that the table will have."""
        return sum(i.rows for i in self.inputs) - sum(
            len(r.rows) for removals in self.removals for r in removals
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run will do, and why.

    Attributes:
        fingerprint: digest of all that decides the result's bytes, but the date of the run; None
            while a digest of its inputs is.
        changed: whether the latest snapshot has another fingerprint.
        skipped: centers that bring nothing, with the reason's slug.
    """

    tables: tuple[TablePlan, ...]
    datasets: Mapping[str, Dataset]
    skipped: Mapping[str, str]
    findings: tuple[Finding, ...]
    account: Account
    fingerprint: str | None
    parent: int | None
    changed: bool
    constants: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The details of what ``catchment tables plan --json`` prints."""
        return {
            "changed": self.changed,
            "fingerprint": self.fingerprint,
            "parent": self.parent,
            "constants": dict(self.constants),
            "tables": [
                {
                    "table": t.table,
                    "rows": t.rows,
                    "columns": len(t.unified.schema),
                    "files": len(t.inputs),
                    "copied_from_previous": sum(k is not None for k in t.kept),
                    "drift": t.unified.drift,
                }
                for t in self.tables
            ],
            "datasets": {center: d.prefix for center, d in sorted(self.datasets.items())},
            "skipped": dict(sorted(self.skipped.items())),
        }


def keep(
    inputs: Sequence[Input],
    removals: Sequence[tuple[Removal, ...]],
    unified: Unified,
    previous: Composition | None,
) -> tuple[Entry | None, ...]:
    """For each input the entry of the previous snapshot with the very same result, if any.

    Same bytes in, the same rows removed, and the same unified type for each of its columns.
    """
    if previous is None:
        return (None,) * len(inputs)
    now = set(unified.schema)
    moved = {field.name for field in previous.schema if field not in now}
    entries: dict[tuple[str, str | None], list[Entry]] = defaultdict(list)
    for entry in reversed(previous.entries):
        entries[entry.center, entry.digest].append(entry)
    found: list[Entry | None] = []
    for item, removed in zip(inputs, removals, strict=True):
        same = entries[item.center.id, item.digest]
        fits = same and same[-1].removals == removed and moved.isdisjoint(item.schema.names)
        found.append(same.pop() if fits else None)
    return tuple(found)


def whole_centers(
    inputs: Sequence[Input], refused: Sequence[Refused]
) -> tuple[list[Input], list[Refused]]:
    """A center with a refused file is left out as a whole: a dataset enters the tables or not."""
    bad = {r.listed.center.id for r in refused}
    error = Invalid("another file of the center was refused", kind=CENTER_QUARANTINED)
    out = [Refused(i.listed, error, i.rows) for i in inputs if i.center.id in bad]
    return [i for i in inputs if i.center.id not in bad], [*refused, *out]


def balance(tables: Sequence[TablePlan], refused: Sequence[Refused]) -> Account:
    """The account of a run in rows and files, by center and table."""
    account = Account()
    for table in tables:
        for item, removed in zip(table.inputs, table.removals, strict=True):
            files = account[Line(item.center.id, table.table, FILES)]
            files.received += 1
            files.kept += 1
            rows = account[Line(item.center.id, table.table, ROWS)]
            rows.received += item.rows
            rows.kept += item.rows
            for removal in removed:
                rows.kept -= len(removal.rows)
                _fate(rows, removal)[removal.reason] += len(removal.rows)
    for bad in refused:
        center, reason = bad.listed.center.id, bad.error.kind
        files = account[Line(center, bad.listed.table, FILES)]
        files.received += 1
        files.quarantined[reason] += 1
        if bad.rows is not None:
            rows = account[Line(center, bad.listed.table, ROWS)]
            rows.received += bad.rows
            rows.quarantined[reason] += bad.rows
    return account


def fingerprint(
    options: Options, datasets: Mapping[str, Dataset], tables: Sequence[TablePlan]
) -> str | None:
    """``sha256:`` over all that decides the result's bytes, but a defaulted date.

    None while a digest of the inputs is. An unchanged input on another day therefore makes no new
    snapshot; an explicit freeze date does.
    """
    if any(item.digest is None for table in tables for item in table.inputs):
        return None
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        digest.update(json.dumps(values).encode() + b"\n")

    add(ENGINE, options.freeze_date, [(c, d.prefix) for c, d in sorted(datasets.items())])
    for table in tables:
        add(table.table, table.unified.schema.serialize().to_pybytes().hex())
        for item, removed in zip(table.inputs, table.removals, strict=True):
            add(item.center.id, item.listed.name, item.digest)
            for removal in removed:
                add(removal.fate, removal.reason, list(removal.rows))
    return f"sha256:{digest.hexdigest()}"


def _fate(balance: Balance, removal: Removal) -> Counter[str]:
    return balance.dropped if removal.fate is Fate.DROPPED else balance.quarantined
