"""Check: a member is read once, in full, before it is accepted. Untrusted: call in a child.

A cube becomes a *part*: its rows with exact plain types, in the order of the merge, beside the
facts that plans and quality reports need. Parts are made once for each content, under a key with
its digest.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from catchment.core.errors import Invalid, NotFound
from catchment.core.names import shown
from catchment.core.scratch import scratch_folder
from catchment.core.store import Store
from catchment.studies import parquet, values
from catchment.studies.model import COUNT, SITE, Kind, Problem

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 3  # of parts and facts: another one makes them anew
_FORMER = 2  # its facts read alike; but what is accepted now was not asked then
TOML_BYTES = 4 << 20


class Limits(NamedTuple):
    """What one table may be.

    Attributes:
        rows: of a table.
        columns: of a table.
        decoded: bytes of a table when decoded, as its footer tells.
    """

    rows: int = 50_000_000
    columns: int = 200
    decoded: int = 8 << 30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an accepted member.

    Attributes:
        columns: name and plain type, in the file's order, without the count.
        categories: of each column of a cube, how many distinct values it has and, while they are
            few, which. They are a site's own: only reports to that site may show them.
        content: of a manifest; first and last date of a ``meta_date`` table.
    """

    rows: int = 0
    total: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    part_digest: str = ""
    part_size: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {"format": FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        """The inverse of :meth:`to_json`."""
        return cls(**{name: value for name, value in data.items() if name != "format"})


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to one member: facts where it may go on, and problems."""

    facts: Facts | None
    problems: tuple[Problem, ...] = ()


def check(  # noqa: PLR0917 - what a member is; it travels as arguments of a task
    store: Store,
    key: str,
    digest: str,
    kind: Kind,
    package: str,
    parts: str,
    limits: Limits,
    site: str,
    *,
    text: bool = False,
    again: bool = False,
) -> Checked:
    """Read the member ``key`` and say what it is; a cube's part is written below ``parts``.

    With ``text``, a part is written as CSV too, for a package that is released as it is merged.
    Doing it again gives the same answer, from what was written where it was accepted before;
    ``again`` reads it all the same.
    """
    known = None if again else remembered(store, parts, digest, kind)
    if known is not None:
        return Checked(known)
    name = _name(parts, digest, kind)
    try:
        if kind is Kind.MANIFEST:
            facts = _manifest(store, key)
        else:
            with local(store, key) as path:
                if kind is Kind.CUBE:
                    part = f"{name}-{parquet.writer()}.parquet"
                    facts = _cube(store, path, part, limits, site, text=text)
                else:
                    facts = _plain(path, package, kind, limits)
    except values.Refused as refused:
        return Checked(None, (refused.problem,))
    data = json.dumps(facts.to_json(), separators=(",", ":")).encode()
    store.put(f"{name}.json", data, mode="overwrite")
    return Checked(facts)


def remembered(
    store: Store, parts: str, digest: str, kind: Kind, form: int = FORMAT
) -> Facts | None:
    """The facts of a member that was accepted before; None where there are none."""
    try:
        return Facts.from_json(json.loads(store.read(f"{_name(parts, digest, kind, form)}.json")))
    except NotFound:
        return None


def formerly(store: Store, parts: str, digest: str, kind: Kind) -> Facts | None:
    """The facts of a member that was accepted once, be it by rules that are no more."""
    now = remembered(store, parts, digest, kind)
    return now or remembered(store, parts, digest, kind, _FORMER)


def _name(parts: str, digest: str, kind: Kind, form: int = FORMAT) -> str:
    return f"{parts}{form}-{kind.value}-{digest.removeprefix('sha256:')}"


@contextmanager
def local(store: Store, key: str) -> Iterator[Path]:
    """The object as a file of this machine, for as long as the block lasts."""
    path = store.path(key)
    if path is not None:
        yield path
        return
    with scratch_folder() as folder:
        copy = folder / "object.parquet"
        with copy.open("wb") as file:
            for chunk in store.stream(key):
                file.write(chunk)
        yield copy
        shutil.rmtree(folder, ignore_errors=True)


def _cube(store: Store, path: Path, part: str, limits: Limits, site: str, *, text: bool) -> Facts:
    import numpy as np

    from catchment.studies import blocks, coded

    table = _read(path, limits)
    names = [name for name in table.column_names if name != COUNT]
    if COUNT not in table.column_names or not names:
        raise values.Refused(
            "cube-columns",
            f"expected a column {COUNT} and at least one more, got {_few(table.column_names)}",
            "send the cube as the library writes it",
        )
    if SITE in {name.casefold() for name in names}:  # SQL does not tell the case of names
        raise values.Refused(
            "cube-site-column",
            f"expected no column {SITE}, in no case of letters: the merge adds it",
            "leave the column out, or give it another name",
        )
    if not table.num_rows:
        raise values.Refused(
            "cube-empty", "expected at least one row, got none", "send the cube when it has rows"
        )
    counts = values.counts(table[COUNT]).to_numpy()
    columns = {name: values.column(name, table[name]) for name in names}
    kinds = {name: str(column.type) for name, column in columns.items()}
    stored = coded.plain(kinds)
    encoded = {
        n: c.cast(coded.TYPES[stored[n]]).combine_chunks().dictionary_encode()
        for n, c in columns.items()
    }
    rows = coded.unify([{n: _chunks(c) for n, c in encoded.items()}], stored)
    keys = rows.keys()
    by_key = np.argsort(keys, kind="stable")
    again = int(np.count_nonzero(np.diff(keys[by_key]) == 0))
    if again:
        raise values.Refused(
            "cube-duplicate-keys",
            f"expected each combination of categories once, got {again:,} of {len(keys):,} rows "
            "again",
            "group the counts by all columns before they are exported",
        )
    order = by_key[np.argsort(-counts[by_key], kind="stable")]
    made = blocks.write(store, part, counts[order], rows.take(order), site, text=text)
    return Facts(
        rows=len(counts),
        total=int(counts.max()),
        columns=kinds,
        categories={n: values.categories(found) for n, found in rows.values.items()},
        part=made.key,
        part_digest=made.digest,
        part_size=made.size,
    )


def _chunks(column: Any) -> list[Any]:
    return list(column.chunks) if hasattr(column, "chunks") else [column]


def _plain(path: Path, package: str, kind: Kind, limits: Limits) -> Facts:
    """A table that is not merged: it must be readable, and a ``meta_date`` must tell its dates."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _read(path, limits)
    columns = {name: str(table.schema.field(name).type) for name in table.column_names}
    content: dict[str, Any] = {}
    if kind is Kind.FLAT:
        content = {"distinct": {n: values.distinct(table[n]) for n in columns}}
    if kind is Kind.META and package == "meta_date":
        if not {"min_date", "max_date"} <= columns.keys():
            raise values.Refused(
                "meta-date-columns",
                f"expected columns min_date and max_date, got {_few(columns)}",
                "export the study again with its meta_date table",
            )
        try:
            low, high = pc.min(table["min_date"]).as_py(), pc.max(table["max_date"]).as_py()
            content = {"earliest_date": values.day(low), "latest_date": values.day(high)}
        except (pa.ArrowException, ValueError, OverflowError, LookupError):  # an unknown zone, too
            raise values.Refused(
                "meta-date-values",
                "expected dates in min_date and max_date, got something else",
                "write them as dates, times, days since 1970 or text as 2024-01-31",
            ) from None
    return Facts(rows=table.num_rows, columns=columns, content=content)


def _manifest(store: Store, key: str) -> Facts:
    data = store.read(key, length=TOML_BYTES + 1)
    try:
        if len(data) > TOML_BYTES:
            raise ValueError(f"more than {TOML_BYTES:,} bytes")
        told = json.dumps(tomllib.loads(data.decode("utf-8")), default=str)
        content = json.loads(told, parse_constant=str)  # JSON has no numbers inf and nan
    except (ValueError, RecursionError) as error:
        raise values.Refused(
            "manifest-unreadable",
            f"expected TOML, got something else ({type(error).__name__})",
            "look at manifest.toml with a TOML editor",
        ) from None
    return Facts(content=content)


def _read(path: Path, limits: Limits) -> pa.Table:
    try:
        return parquet.read(path, limits.rows, limits.columns, limits.decoded)
    except Invalid as error:
        raise values.Refused(error.kind, error.message, error.hint) from None


def _few(names: Sequence[str] | Mapping[str, Any]) -> str:
    listed = [shown(name) for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
