"""A ledger as lines of text, the same from either database, and a ledger made of such lines.

The first line of each table is an object, ``{"table": name, "columns": [...]}``; each row is an
array of values in that order, by primary key. Left out are leases, sign-ins and locks of uploads,
which belong to those who are at work now, and counts, which follow from the rest. The latest
snapshot of each aggregate is told as one that is not sealed, so that the first run in a new place
writes what follows from it once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import batched
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.errors import Conflict, Corrupt, Invalid
from catchment.core.ledger import counts
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.migrate import HEAD
from catchment.core.ledger.schema import Id, Time, metadata, snapshots

TRANSIENT = frozenset({"sessions", "upload_locks", "contribution_counts"})
BATCH = 1000  # rows in memory at a time

Columns = Mapping[str, Sequence[str]]  # by the names of tables


class Table(NamedTuple):
    """How many rows a table has, and the SHA-256 of their lines."""

    rows: int
    digest: str


def dump(
    ledger: Ledger, begin: Callable[[], Callable[[bytes], object]], only: Columns | None = None
) -> dict[str, Table]:
    """Write every line of one state of the ledger; what each table came to.

    ``begin`` is called first, and again where the database has to be asked anew: it gives the
    function that takes the lines, and forgets those that were taken before. With ``only`` the
    lines are those of these tables and columns, as an earlier version knew them.
    """
    return ledger._database.read(lambda c: _dump(c, begin(), only))  # noqa: SLF001 - of one package


def load(ledger: Ledger, lines: Iterable[bytes], expected: Mapping[str, Table]) -> Columns:
    """Fill an empty ledger with these lines, in one transaction; which columns they told of.

    Raises:
        Conflict: kind ``ledger-not-empty``.
        Invalid: kind ``backup-newer`` if a later version wrote a table or a column.
        Corrupt: kind ``backup-damaged`` if the lines cannot be read, or are not what is expected.
    """
    told: dict[str, Sequence[str]] = {}

    def work(c: sa.Connection) -> None:
        if _load(c, lines, told) != expected:
            raise _damaged("its ledger is not what it says")
        counts.recount(c)

    ledger._database.write(work, again=False)  # noqa: SLF001
    return told


def is_empty(ledger: Ledger) -> bool:
    """Whether nothing is known yet."""
    return ledger._database.read(_is_empty)  # noqa: SLF001


def version() -> str:
    """The schema that the lines tell of."""
    return HEAD


def _tables() -> list[sa.Table]:
    return [table for table in metadata.sorted_tables if table.name not in TRANSIENT]


def _is_empty(c: sa.Connection) -> bool:
    return not any(c.execute(sa.select(sa.exists().select_from(t))).scalar() for t in _tables())


def _dump(
    c: sa.Connection, write: Callable[[bytes], object], only: Columns | None
) -> dict[str, Table]:
    if c.dialect.name == "postgresql":
        c.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    newest = sa.select(snapshots.c.aggregate, sa.func.max(snapshots.c.number))
    heads = {(a, n) for a, n in c.execute(newest.group_by(snapshots.c.aggregate))}
    found: dict[str, Table] = {}
    for table in _tables():
        if only is not None and table.name not in only:
            continue
        names = table.columns.keys() if only is None else only[table.name]
        write(_line({"table": table.name, "columns": names}))
        digest, count = hashlib.sha256(), 0
        query = sa.select(*(table.c[name] for name in names)).order_by(*table.primary_key.columns)
        streamed = c.execution_options(stream_results=True, yield_per=BATCH)
        for row in streamed.execute(query):
            line = _line(_plain(table.name, dict(row._mapping), heads))  # noqa: SLF001 - its public name
            write(line)
            digest.update(line)
            count += 1
        found[table.name] = Table(count, f"sha256:{digest.hexdigest()}")
    return found


def _plain(table: str, row: dict[str, Any], heads: set[tuple[str, int]]) -> list[Any]:
    if table == "aggregates":
        row |= dict.fromkeys(row.keys() & {"holder", "expires_at"})
    if table == "snapshots" and (row["aggregate"], row["number"]) in heads:
        row["sealed"] = False
    return [v.isoformat() if isinstance(v, datetime) else v for v in row.values()]


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _load(
    c: sa.Connection, lines: Iterable[bytes], told: dict[str, Sequence[str]]
) -> dict[str, Table]:
    if not _is_empty(c):
        raise Conflict(
            "expected an empty ledger, got one that knows something",
            kind="ledger-not-empty",
            hint="restore into a workspace of its own",
        )
    found: dict[str, Table] = {}
    known = {table.name: table for table in _tables()}
    for header, rows in _parts(lines):
        table = known.get(header["table"])
        columns = header["columns"]
        if table is None or not set(columns) <= set(table.columns.keys()):
            raise Invalid(
                f"the backup has {header['table']} with columns that this version does not know",
                kind="backup-newer",
                hint="pip install --upgrade catchment",
            )
        told[header["table"]] = columns
        digest, count = hashlib.sha256(), 0
        for many in batched(rows, BATCH):
            values = []
            for line in many:
                digest.update(line)
                values.append(_values(table, dict(zip(columns, _read(line), strict=True))))
            c.execute(sa.insert(table), values)
            count += len(values)
        _count_on(c, table)
        found[table.name] = Table(count, f"sha256:{digest.hexdigest()}")
    return found


def _parts(lines: Iterable[bytes]) -> Iterator[tuple[Mapping[str, Any], Iterator[bytes]]]:
    """Each header with its rows, which are to be used up before the next."""
    source = iter(lines)
    header = next(source, None)

    def rows() -> Iterator[bytes]:
        nonlocal header
        header = None
        for line in source:
            if line.startswith(b"{"):
                header = line
                return
            yield line

    while header is not None:
        yield _read(header), rows()


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise _damaged("a line of its ledger is no JSON") from error


def _values(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    for name, value in row.items():
        if isinstance(table.columns[name].type, Time) and value is not None:
            row[name] = datetime.fromisoformat(value)
    return row


def _count_on(c: sa.Connection, table: sa.Table) -> None:
    """Keep PostgreSQL from giving an id that is taken; SQLite looks itself."""
    column = table.columns.get("id")
    if c.dialect.name == "postgresql" and column is not None and column.type is Id:
        last = c.execute(sa.select(sa.func.max(column))).scalar()
        if last:
            sequence = sa.func.pg_get_serial_sequence(table.name, "id")
            c.execute(sa.select(sa.func.setval(sequence, last)))


def _damaged(what: str) -> Corrupt:
    return Corrupt(f"the backup is damaged: {what}", kind="backup-damaged", hint="use another one")
