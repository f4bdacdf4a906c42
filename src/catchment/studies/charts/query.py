"""Charts: counts of a released package by one or two columns, under filters.

A cube holds each person once in every roll-up. So all is asked of one roll-up, the one over exactly
the columns that are used: shown or filtered by, in any part of an OR. There an OR is an OR of rows,
and nobody is counted twice. Rows are kept sorted by roll-up, so that others are not looked at.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.core.errors import Invalid
from catchment.studies.charts.filters import Group, quoted
from catchment.studies.model import COUNT, SITE
from catchment.studies.parquet import literal

if TYPE_CHECKING:
    import duckdb

_WIDTH = 62  # columns that one number of a roll-up tells apart
_MASK = "catchment rollup"  # columns of ours
_ISO = (
    "CASE WHEN microsecond({0}) % 1000000 = 0 THEN strftime({0}, '%Y-%m-%dT%H:%M:%S') "
    "ELSE strftime({0}, '%Y-%m-%dT%H:%M:%S.%f') END"
)


class Chartable:
    """One released package in memory, to be asked from any thread."""

    def __init__(self, path: Path, marked: Collection[str] = ()) -> None:
        """From its file; columns that are ``marked`` tell of rows, and are no categories."""
        import duckdb

        self._db = duckdb.connect(
            ":memory:", config={"threads": 2, "allow_community_extensions": False}
        )
        file = literal(path).replace("'", "''")
        source = f"read_parquet('{file}', hive_partitioning = false)"
        kinds = {row[0]: row[1] for row in self._run(f"DESCRIBE FROM {source}")}
        self.columns = [name for name in kinds if name not in {COUNT, *marked}]
        if COUNT not in kinds:
            raise Invalid(f"expected {COUNT} and columns", kind="not-a-cube")
        mask = _MASK
        while any(name.casefold().startswith(mask) for name in kinds):
            mask += "_"
        self._masks = [quoted(f"{mask} {n}") for n in range(0, len(self.columns) or 1, _WIDTH)]
        listed = []
        for n, name in enumerate(self.columns):
            column = quoted(name)
            if kinds[name].startswith("TIMESTAMP"):  # filters see what is shown
                column = _ISO.format(f"{column}::TIMESTAMP")
            if kinds[name] == "VARCHAR" or kinds[name].startswith("TIMESTAMP"):
                self._run(
                    f"CREATE TYPE enum_{n} AS ENUM (SELECT DISTINCT {column} AS one "  # noqa: S608 - a quoted column
                    f"FROM {source} WHERE {quoted(name)} IS NOT NULL)"
                )
                column = f"({column})::enum_{n} AS {quoted(name)}"
            listed.append(column)
        parts = [
            " + ".join(
                f"({quoted(name)} IS NOT NULL)::BIGINT * {1 << n}" for n, name in enumerate(some)
            )
            for some in self._shared()
        ]
        masks = [f"{part or 0} AS {mask}" for part, mask in zip(parts, self._masks, strict=True)]
        select = ", ".join([*masks, COUNT, *listed])
        self._run(
            f"CREATE TABLE cells AS SELECT {select} FROM {source} ORDER BY {', '.join(self._masks)}"  # noqa: S608 - quoted
        )
        self.rows = int(self._run("SELECT count(*) FROM cells")[0][0])
        self._run("SET enable_external_access = false")
        self._run("SET lock_configuration = true")

    def _run(self, query: str) -> list[tuple[Any, ...]]:
        return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Give its memory back."""
        self._db.close()

    def chart(
        self, column: str, stratifier: str | None, filters: Group, *, sites: int | None = None
    ) -> dict[str, Any]:
        """What the chart API answers, without the words of the request.

        ``suppressed`` counts, by value, cells that are not shown: there are more than is told.
        With the number of ``sites`` of the package, ``marks`` tell by value how many of them
        reported it, of how many of these a cell is suppressed, and how many are absent.

        Raises:
            Invalid: kind ``no-column``, ``bad-filter``.
        """
        shown = [column] if stratifier is None else [stratifier, column]
        if len(set(shown)) < len(shown):
            raise Invalid("expected a stratifier that differs from the column", kind="bad-filter")
        used = [*shown, *(c.column for c in filters.conditions())]
        for name in used:
            if name not in self.columns:
                raise Invalid(
                    f"the package has no such column to chart: {name[:64]!a}",
                    kind="no-column",
                    hint=f"columns: {', '.join(self.columns)}",
                )
        needs = {*shown, *(c.column for c in filters.conditions() if c.uses)}
        condition, values = filters.sql()
        rollup, numbers = self._rollup(needs)
        names = ", ".join(map(quoted, shown))
        query = (
            f"SELECT {names}, sum({COUNT})::BIGINT, count(*) - count({COUNT}) FROM cells "  # noqa: S608 - quoted
            f"WHERE {rollup} AND ({condition}) GROUP BY {names}"
        )
        rows = self._ask(query, [*numbers, *values])
        plain = sorted(([*map(_plain, row[:-2]), row[-2], row[-1]] for row in rows), key=_order)
        answer: dict[str, Any] = {
            "rowCount": len(plain),
            "totalCount": sum(row[-2] or 0 for row in plain),
        }
        if sites is not None:
            answer["sites"] = sites
            answer["marks"] = self._marks(shown, needs, filters, sites)
        if stratifier is None:
            answer["data"] = [{"rows": [[value, count] for value, count, _ in plain]}]
            answer["suppressed"] = [[value, gone] for value, _, gone in plain if gone]
            return answer
        groups: dict[Any, list[list[Any]]] = {}
        counts: dict[str, int] = {}
        for part, value, count, _ in plain:
            groups.setdefault(part, []).append([value, count])
            name = str(part).lower() if isinstance(part, bool) else str(part)
            counts[name] = counts.get(name, 0) + (count or 0)
        answer["counts"] = counts
        answer["data"] = [{"stratifier": part, "rows": rows} for part, rows in groups.items()]
        answer["suppressed"] = [[part, value, gone] for part, value, _, gone in plain if gone]
        return answer

    def _marks(
        self, shown: list[str], needs: set[str], filters: Group, sites: int
    ) -> list[list[Any]]:
        """Of each value: sites that reported it, sites of which a cell is suppressed, the others.

        Told by the cells of single sites, which are listed also where they are not shown.
        """
        condition, values = filters.sql()
        rollup, numbers = self._rollup({*needs, SITE})
        names, site = ", ".join(map(quoted, shown)), quoted(SITE)
        query = (
            f"SELECT {names}, count(DISTINCT {site}), "  # noqa: S608 - quoted
            f"count(DISTINCT {site}) FILTER (WHERE {COUNT} IS NULL) FROM cells "
            f"WHERE {rollup} AND ({condition}) GROUP BY {names}"
        )
        told = self._ask(query, [*numbers, *values])
        marks = sorted(([*map(_plain, row[:-2]), row[-2], row[-1]] for row in told), key=_order)
        of = 1 if SITE in shown else sites
        return [[*row, max(of - row[-2], 0)] for row in marks]

    def _shared(self) -> list[list[str]]:
        """The columns, some to each of the numbers that tell a roll-up."""
        return [self.columns[n * _WIDTH : (n + 1) * _WIDTH] for n, _ in enumerate(self._masks)]

    def _rollup(self, needs: set[str]) -> tuple[str, list[int]]:
        """The condition that tells the roll-up over exactly these columns, with its values."""
        numbers = [
            sum(1 << n for n, name in enumerate(some) if name in needs) for some in self._shared()
        ]
        return " AND ".join(f"{mask} = ?" for mask in self._masks), numbers

    def _ask(self, query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            return self._cursor().execute(query, values).fetchall()
        except duckdb.Error:  # its text may quote cells
            raise Invalid(
                "the filter cannot be applied to these columns",
                kind="bad-filter",
                hint="look at the pattern and at the columns' types",
            ) from None

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        return self._db.cursor()


def _plain(value: Any) -> Any:
    """A cell as JSON can say it."""
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float)) else str(value)


def _order(row: list[Any]) -> tuple[Any, ...]:
    return tuple((isinstance(v, str), v) for v in row[:-2])


class Cache:
    """Packages in memory, the last used ones, by version; each is loaded once."""

    def __init__(self, rows: int = 20_000_000) -> None:
        self._most = rows
        self._held: OrderedDict[str, Chartable] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        digest: str,
        opened: Callable[[], AbstractContextManager[Path]],
        marked: Collection[str] = (),
    ) -> Chartable:
        """The package of a digest; ``opened`` gives its file if it is not in memory."""
        with self._lock:
            found = self._held.get(digest)
            if found is None:
                with opened() as path:
                    found = Chartable(path, marked)
                self._held[digest] = found
            self._held.move_to_end(digest)
            while len(self._held) > 1 and sum(c.rows for c in self._held.values()) > self._most:
                self._held.popitem(last=False)
        return found
