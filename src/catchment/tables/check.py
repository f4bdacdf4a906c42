"""Check: every file of a run is known, from the previous snapshot where nothing moved, else read.

Files are read by an executor's workers. What fails there is data here: one site's bad file never
stops another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound
from catchment.core.ledger import Snapshot
from catchment.core.progress import Event, Progress
from catchment.core.store import Store
from catchment.tables import composition, layout
from catchment.tables.composition import Composition, Keys
from catchment.tables.keys import FORMAT, key_columns, scan
from catchment.tables.model import Dataset, Rule, SourceFile
from catchment.tables.parquet import inspect
from catchment.tables.plan import Input, Listed, Refused
from catchment.tables.unify import Unified

Failure = Invalid | NotFound


@dataclass(frozen=True, slots=True)
class Memory:
    """What the latest snapshot remembers of its tables; empty where there is none."""

    store: Store
    snapshot: Snapshot | None
    tables: Mapping[str, Composition]

    @classmethod
    def load(cls, store: Store, snapshot: Snapshot | None, *, remember: bool = True) -> Memory:
        """Of a snapshot; tables composed by another version of the program are not remembered.

        Corrupt (kind ``snapshot-damaged``) if what would be copied from is not what was published;
        Conflict (kind ``ledger-of-another-store``) if nothing of it is in this store.
        """
        found: dict[str, Composition] = {}
        for item in snapshot.provenance["objects"] if snapshot and remember else ():
            key, composed = item["key"], item["role"] == "composition"
            try:
                size = store.head(key).size
                data = store.read(key) if composed else b""
            except NotFound:
                size, data = -1, b""
            same = not composed or item["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
            if size < 0 and snapshot and next(store.list(snapshot.location), None) is None:
                raise Conflict(
                    f"the ledger knows {snapshot.location}, and the store has nothing there",
                    kind="ledger-of-another-store",
                    hint="give each store a ledger of its own (workspace.ledger); if the snapshot "
                    "was deleted by hand, catchment tables run --full",
                )
            if size != item["size"] or not same:
                raise Corrupt(
                    f"{key} is not what was published",
                    kind="snapshot-damaged",
                    hint="catchment tables verify; then catchment tables run --full",
                )
            known = composition.load(data) if composed else None
            if known is not None:
                found[item["table"]] = known
        return cls(store, snapshot, found)

    def keys(self, table: str) -> Keys:
        """The key columns of a remembered table's inputs, in the order of its entries."""
        location = self.snapshot.location if self.snapshot else ""
        return Keys(self.store, layout.keys_key(location, table))


def check_files(
    datasets: Sequence[Dataset], memory: Memory, executor: Executor, progress: Progress
) -> tuple[list[Input], list[Refused]]:
    """Every file of the datasets in order of table, ADCID and key; and those that are refused.

    A file that stands as the previous snapshot saw it is not read.
    """
    known = {
        (table, e.center, e.url, e.key, e.size, e.etag): e
        for table, composed in memory.tables.items()
        for e in composed.entries
    }
    files: list[Listed | Input | Refused] = []
    for listed in _listed(datasets):
        file = listed.file
        place = (listed.center.id, file.store.url, file.key, file.size, file.etag)
        entry = known.get((listed.table, *place))
        files.append(Input(listed, entry.digest, entry.rows, entry.schema) if entry else listed)
    read = iter(read_files([f for f in files if isinstance(f, Listed)], executor, progress))
    checked = [next(read) if isinstance(f, Listed) else f for f in files]
    return (
        [f for f in checked if isinstance(f, Input)],
        [f for f in checked if isinstance(f, Refused)],
    )


def read_files(
    files: Sequence[Listed], executor: Executor, progress: Progress
) -> list[Input | Refused]:
    """Each file, digest and footer read by the executor, or why it is refused."""
    work = "tables: check files"
    read: list[Input | Refused] = []
    progress(Event(work, "start", 0, len(files), "files"))
    calls = [(f.file.store, f.file.key, f.file.size) for f in files]
    for listed, result in zip(files, attempt(executor, inspect, calls), strict=True):
        if isinstance(result, Failure):
            read.append(Refused(listed, result))
        else:
            read.append(Input(listed, result.digest, result.rows, result.schema, result))
        progress(Event(work, "step", len(read), len(files), "files", listed.center.id))
    progress(Event(work, "done", len(files), len(files), "files"))
    return read


def check_unmoved(file: SourceFile) -> None:
    """NotFound, or Invalid (kind ``file-changed``), unless the file is as it was listed."""
    stat = file.store.head(file.key)
    if (stat.size, stat.etag) != (file.size, file.etag):
        raise Invalid(
            f"{file.key} changed while it was read: expected {file.size} bytes as listed, "
            f"got another file of {stat.size} bytes",
            kind="file-changed",
            hint="run again once the site has finished; a new version leaves the old files alone",
        )


class KeyReader:
    """Key columns of files: of the previous snapshot, or read once and kept in a folder.

    The folder is the run's own scratch space; memory holds the keys of one file at a time.
    """

    def __init__(self, memory: Memory, executor: Executor, folder: Path) -> None:
        self._memory = memory
        self._executor = executor
        self._folder = folder

    def keys(
        self, inputs: Sequence[Input], rule: Rule, unified: Unified
    ) -> tuple[Callable[[int], bytes], list[Refused]]:
        """A function from an input's place to its keys; the inputs whose keys cannot be read."""
        types = key_types(rule, unified)
        columns = {name: unified.schema.field(name).type for name in types if name}
        remembered = self._remembered(inputs[0].listed.table, types)
        sources: list[Callable[[], bytes]] = []
        unread: list[tuple[Input, Path]] = []
        for item in inputs:
            name = hashlib.sha256(json.dumps([item.digest, types]).encode()).hexdigest()
            path = self._folder / name
            place = remembered.get((item.center.id, item.digest))
            if place is not None:
                sources.append(place)
                continue
            sources.append(path.read_bytes)
            if not path.exists():
                unread.append((item, path))
        calls = [(i.listed.file.store, i.listed.file.key, rule, columns) for i, _ in unread]
        refused: list[Refused] = []
        for (item, path), result in zip(unread, attempt(self._executor, scan, calls), strict=True):
            if isinstance(result, Failure):
                refused.append(Refused(item.listed, result, item.rows))
            else:
                path.write_bytes(result)
        return (lambda index: sources[index]()), refused

    def _remembered(
        self, table: str, types: Mapping[str, str]
    ) -> dict[tuple[str, str], Callable[[], bytes]]:
        composed = self._memory.tables.get(table)
        if composed is None or composed.key_types != types:
            return {}
        keys = self._memory.keys(table)
        return {
            (e.center, e.digest): partial(keys.__getitem__, index)
            for index, e in enumerate(composed.entries)
        }


def key_types(rule: Rule, unified: Unified) -> dict[str, str]:
    """What kept keys depend on: their format (under the empty name) and their columns' types."""
    fields = {f.name: f for f in unified.schema}
    types = {n: str(fields[n].type) for n in key_columns(rule) if n in fields}
    return {"": f"{FORMAT.decode()} {type(rule).__name__}", **types}


def attempt[T](
    executor: Executor, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]
) -> Iterator[T | Invalid | NotFound]:
    """The result of each call in order, or why its input is not usable; other errors are raised."""
    futures = [executor.submit(function, *call) for call in calls]
    try:
        for future in futures:
            try:
                yield future.result()
            except (Invalid, NotFound) as error:
                yield error
    finally:
        for future in futures:
            future.cancel()


def _listed(datasets: Sequence[Dataset]) -> Iterator[Listed]:
    for table in sorted({name for d in datasets for name in d.tables}):
        for dataset in sorted(datasets, key=lambda d: d.center.adcid):
            for file in dataset.tables.get(table, ()):
                name = file.key.removeprefix(dataset.prefix)
                yield Listed(dataset.center, table, name, file)
