"""Current centers of participants from a file."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from catchment.core.errors import Invalid, NotFound
from catchment.core.store import open_store

MAX_FILE = 1 << 26  # bytes
MAX_ROWS = 10_000_000  # of a Parquet file, which may unfold to much more than its bytes

_ACTIVE = {"true": True, "1": True, "false": False, "0": False}
_PATTERNS = {"naccid": "(NACC|TEST)[0-9]{6}", "adcid": "[0-9]{1,9}", "active": "true|false|1|0"}
_EXPECTED = {
    "naccid": "NACC or TEST, then 6 digits",
    "adcid": "an integer >= 0",
    "active": "true or false",
}
_Values = tuple[str, str, str]  # naccid, adcid, active
_Row = tuple[str, str, str, str]  # where it is, and the values


@dataclass(frozen=True, slots=True)
class FileIdentifiers:
    """A CSV or Parquet file; read whole at each question, only what is asked for is kept.

    ``current`` raises Invalid (kind ``bad-identifiers``) with the line, never its content.
    """

    folder: str  # URL of a store
    name: str
    options: Mapping[str, str]  # of the store

    def current(self, naccids: Collection[str]) -> Mapping[str, frozenset[int]]:
        """See :class:`catchment.tables.identifiers.Identifiers`."""
        wanted = frozenset(naccids)
        store = open_store(self.folder, **self.options)
        try:
            data = store.read(self.name, length=MAX_FILE + 1)
        except NotFound:
            raise NotFound(
                f"identifiers: there is no {self.name} in {self.folder}",
                kind="no-file",
                hint="set identifiers (--identifiers) to a file that is there",
            ) from None
        if len(data) > MAX_FILE:
            raise _bad_file(f"expected at most {MAX_FILE} bytes, got more")
        found = _asked(data, wanted) if self.name.endswith(".csv") else None
        if found is None:  # row by row, to say which one is bad
            found = [row for row in map(_checked, _rows(self.name, data)) if row[0] in wanted]
        active: defaultdict[str, set[int]] = defaultdict(set)
        for naccid, adcid, is_active in found:
            centers = active[naccid]  # known, with or without a center
            if _ACTIVE[is_active.lower()]:
                centers.add(int(adcid))
        return {naccid: frozenset(centers) for naccid, centers in active.items()}


def _asked(data: bytes, wanted: Collection[str]) -> list[_Values] | None:
    """The rows of a CSV file that are asked for; None unless all of its rows are well."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as fast

    from catchment.tables import fill

    if b'"' in data:
        return None  # readers differ in what they make of misplaced quotes
    options = fast.ConvertOptions(
        column_types=dict.fromkeys(_PATTERNS, pa.string()), strings_can_be_null=False
    )
    try:
        header = next(csv.reader([str(data[:4096], "utf-8-sig").splitlines()[0]]))
        _check_columns(header)
        options.include_columns = [n for n in _PATTERNS if n in header]
        table = fast.read_csv(pa.BufferReader(data), convert_options=options)
    except (pa.ArrowException, UnicodeDecodeError, IndexError, StopIteration):
        return None
    for name in table.column_names:
        if not pc.all(pc.match_substring_regex(table[name], _whole(name))).as_py():
            return None
    table = table.filter(pc.is_in(table["naccid"], fill.strings(sorted(wanted))))
    columns = [table[n].to_pylist() for n in table.column_names]
    return [(*row, "true")[:3] for row in zip(*columns, strict=True)]


def _whole(name: str) -> str:
    """The pattern of a column as RE2 takes it; only ``active`` may be in any case."""
    return f"^({'(?i)' if name == 'active' else ''}({_PATTERNS[name]}))$"


def _checked(row: _Row) -> _Values:
    where, *values = row
    for (name, pattern), value in zip(_PATTERNS.items(), values, strict=True):
        if not re.fullmatch(pattern, value, re.IGNORECASE if name == "active" else 0):
            raise _bad_file(f"{where}: {name}: expected {_EXPECTED[name]}")
    return values[0], values[1], values[2]


def _rows(name: str, data: bytes) -> Iterator[_Row]:
    return _parquet_rows(data) if name.endswith(".parquet") else _csv_rows(data)


def _csv_rows(data: bytes) -> Iterator[_Row]:
    try:
        lines = csv.reader(io.StringIO(str(data, "utf-8-sig"), newline=""), strict=True)
        header = next(lines, [])
        _check_columns(header)
        for values in lines:
            if not values:
                continue  # an empty line
            where = f"line {lines.line_num}"
            if len(values) != len(header):
                raise _bad_file(f"{where}: expected {len(header)} fields, got {len(values)}")
            row = dict(zip(header, values, strict=True))
            yield where, row["naccid"], row["adcid"], row.get("active", "true")
    except UnicodeDecodeError:
        raise _bad_file("expected CSV in UTF-8") from None
    except csv.Error:
        raise _bad_file(f"line {lines.line_num}: expected CSV (RFC 4180)") from None


def _parquet_rows(data: bytes) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(file.schema_arrow.names)
        if file.metadata.num_rows > MAX_ROWS:
            raise _bad_file(f"expected at most {MAX_ROWS} rows, got more")
        names = [n for n in ("naccid", "adcid", "active") if n in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(columns=names):
            columns = [batch.column(n).cast(pa.string()).fill_null("").to_pylist() for n in names]
            for values in zip(*columns, strict=True):
                number += 1
                naccid, adcid, active = (*values, "true")[:3]
                yield f"row {number}", naccid, adcid, active
    except (pa.ArrowException, OSError):
        # Their messages may show values, so they go no further.
        raise _bad_file("expected Parquet with columns that can be read as text") from None


def _check_columns(names: list[str]) -> None:
    for name in ("naccid", "adcid", "active"):
        count = names.count(name)
        if count > 1 or (count == 0 and name != "active"):
            raise _bad_file(f"expected one column {name}, got {count}")


def _bad_file(problem: str) -> Invalid:
    return Invalid(
        f"file of identifiers: {problem}",
        kind="bad-identifiers",
        hint="expected columns naccid, adcid and, unless all rows are active, active",
    )
