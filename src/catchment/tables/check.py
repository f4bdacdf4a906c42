"""Check: every file of a run is known, from the previous snapshot where nothing moved, else read.

Files are read by an executor's workers. What fails there is data here: one site's bad file never
stops another's.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from catchment.core.errors import Corrupt, Invalid, NotFound
from catchment.core.ledger import Snapshot
from catchment.core.progress import Event, Progress
from catchment.core.provenance import check_store
from catchment.core.read_ahead import read_ahead
from catchment.core.store import Store
from catchment.tables import composition, layout
from catchment.tables.blocks import stored
from catchment.tables.composition import Composition, Keys
from catchment.tables.keys import FORMAT, key_columns, scan
from catchment.tables.model import CriteriaRule, Dataset, Rule, SourceFile, TransferRule
from catchment.tables.parquet import vouch
from catchment.tables.plan import Input, Listed, Refused
from catchment.tables.reading import read
from catchment.tables.sources import at_once
from catchment.tables.unify import Unified

AGAIN = "catchment tables run --full"  # asks nothing of the last snapshot

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
            if size < 0 and snapshot:
                check_store(store, snapshot, AGAIN)
            if size != item["size"] or not same:
                raise Corrupt(
                    f"{key} is not what was published",
                    kind="snapshot-damaged",
                    hint=f"catchment tables verify; then {AGAIN}",
                )
            known = composition.load(data) if composed else None
            if known is not None:
                found[item["table"]] = known
        return cls(store, snapshot, found)

    def expect(self) -> None:
        """Its tables will be copied from: let the disk begin."""
        if self.snapshot is not None:
            keys = (layout.result_key(self.snapshot.location, table) for table in self.tables)
            read_ahead(self.store, keys)

    def may_hold(self, listed: Listed) -> bool:
        """Whether the snapshot may hold the very bytes of a file that moved: those of its size."""
        if self.snapshot is None:
            return False
        composed = self.tables.get(listed.table)
        return composed is None or any(
            e.center == listed.center.id and e.size == listed.file.size for e in composed.entries
        )

    def keys(self, table: str) -> Keys:
        """The key columns of a remembered table's inputs, in the order of its entries."""
        location = self.snapshot.location if self.snapshot else ""
        return Keys(self.store, layout.keys_key(location, table))


class Reader:
    """Reads files by the executor: what a plan needs first, the rest while the run goes on.

    The rest, a digest and a second opinion, may come later where it decides nothing: of a file
    whose bytes the latest snapshot cannot hold.

    Args:
        rule: of each table that has a transfer rule.
        later: whether anything may come later.
    """

    def __init__(
        self,
        memory: Memory,
        executor: Executor,
        keys: KeyReader,
        rule: Callable[[str], TransferRule | None],
        *,
        later: bool,
    ) -> None:
        self._memory = memory
        self._executor = executor
        self._keys = keys
        self._rule = rule
        self._later = later
        self._vouched: dict[int, Future[str]] = {}  # by the identity of the listed file

    def check(
        self, datasets: Sequence[Dataset], progress: Progress
    ) -> tuple[list[Input], list[Refused]]:
        """Every file of the datasets in order of table, ADCID and key; and those refused.

        A file that stands as the previous snapshot saw it is not read.
        """
        known = {
            (table, e.center, e.url, e.key, e.size, e.etag): e
            for table, composed in self._memory.tables.items()
            for e in composed.entries
        }
        files: list[Listed | Input] = []
        for listed in _listed(datasets):
            file = listed.file
            place = (listed.center.id, file.store.url, file.key, file.size, file.etag)
            entry = known.get((listed.table, *place))
            files.append(Input(listed, entry.digest, entry.rows, entry.schema) if entry else listed)
        unknown = [f for f in files if isinstance(f, Listed)]
        if unknown:
            self._memory.expect()
        new = iter(self.read(unknown, progress))
        checked = [next(new) if isinstance(f, Listed) else f for f in files]
        return (
            [f for f in checked if isinstance(f, Input)],
            [f for f in checked if isinstance(f, Refused)],
        )

    def read(self, files: Sequence[Listed], progress: Progress) -> list[Input | Refused]:
        """Each file, or why it is refused."""
        work = "tables: check files"
        found: list[Input | Refused] = []
        progress(Event(work, "start", 0, len(files), "files"))
        later = [self._later and not self._memory.may_hold(f) for f in files]
        tasks = [
            partial(
                read, f.file.store, f.file.key, f.file.size, self._rule(f.table), whole=not unseen
            )
            for f, unseen in zip(files, later, strict=True)
        ]
        results = attempt(self._executor, tasks)
        for table in {f.table for f in files} & self._memory.tables.keys():
            stored(
                self._memory.tables[table].schema
            )  # while workers read: most often kept as it is
        for listed, unseen, result in zip(files, later, results, strict=True):
            if isinstance(result, Failure):
                found.append(Refused(listed, result))
            else:
                footer, file = result.footer, listed.file
                if unseen:
                    self._vouched[id(listed)] = self._executor.submit(
                        vouch, file.store, file.key, file.size, footer.claims
                    )
                if result.keys is not None:
                    self._keys.keep(listed, result.keys)
                found.append(Input(listed, footer.digest, footer.rows, footer.schema, footer))
            progress(Event(work, "step", len(found), len(files), "files", listed.center.id))
        progress(Event(work, "done", len(files), len(files), "files"))
        return found

    def vouched(self, item: Input) -> Future[str] | None:
        """The digest of a file that is to come; it raises what is wrong with the file."""
        return None if item.digest is not None else self._vouched[id(item.listed)]

    def close(self) -> None:
        """Give up what has not begun."""
        for future in self._vouched.values():
            future.cancel()


def check_unmoved(files: Sequence[SourceFile]) -> Iterator[Failure | None]:
    """For each file None if it is as it was listed; else NotFound, or Invalid ``file-changed``."""
    with ThreadPoolExecutor(at_once(file.store for file in files)) as threads:
        yield from attempt(threads, [partial(_check_unmoved, file) for file in files])


def _check_unmoved(file: SourceFile) -> None:
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
        self._failed: dict[Path, Invalid] = {}

    def keep(self, listed: Listed, keys: bytes | Invalid) -> None:
        """Take the keys of a file for a transfer rule, or why there are none, as they are read."""
        path = self._path(listed, TransferRule(), {})
        if isinstance(keys, Invalid):
            self._failed[path] = keys
        else:
            path.write_bytes(keys)

    def _path(self, listed: Listed, rule: Rule, types: Mapping[str, str]) -> Path:
        """Where the keys of a file are kept. Those for a transfer rule need no types."""
        file, needed = listed.file, types if isinstance(rule, CriteriaRule) else {}
        identity = [file.store.url, file.key, file.size, file.etag, type(rule).__name__, needed]
        return self._folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def keys(
        self, inputs: Sequence[Input], rule: Rule, unified: Unified
    ) -> tuple[Callable[[int], bytes], list[Refused]]:
        """A function from an input's place to its keys; the inputs whose keys cannot be read."""
        types = key_types(rule, unified)
        columns = {name: unified.schema.field(name).type for name in types if name}
        remembered = self._remembered(inputs[0].listed.table, types)
        sources: list[Callable[[], bytes]] = []
        unread: list[tuple[Input, Path]] = []
        refused: list[Refused] = []
        for item in inputs:
            path = self._path(item.listed, rule, types)
            place = remembered.get((item.center.id, item.digest))
            if place is not None:
                sources.append(place)
                continue
            sources.append(path.read_bytes)
            if path in self._failed:
                refused.append(Refused(item.listed, self._failed[path], item.rows))
            elif not path.exists():
                unread.append((item, path))
        tasks: list[partial[bytes]] = [
            partial(scan, i.listed.file.store, i.listed.file.key, rule, columns) for i, _ in unread
        ]
        results = attempt(self._executor, tasks)
        for (item, path), result in zip(unread, results, strict=True):
            if isinstance(result, Failure):
                refused.append(Refused(item.listed, result, item.rows))
            else:
                path.write_bytes(result)
        return (lambda index: sources[index]()), refused

    def _remembered(
        self, table: str, types: Mapping[str, str]
    ) -> dict[tuple[str, str | None], Callable[[], bytes]]:
        composed = self._memory.tables.get(table)
        if composed is None or composed.key_types != types:
            return {}
        keys = self._memory.keys(table)
        return {
            (e.center, e.digest): partial(keys.__getitem__, index)
            for index, e in enumerate(composed.entries)
        }


def key_types(rule: Rule, unified: Unified) -> dict[str, str]:
    """What kept keys depend on: format and rule (under the empty name), their columns' types."""
    fields = {f.name: f for f in unified.schema}
    types = {n: str(fields[n].type) for n in key_columns(rule) if n in fields}
    about = f"{FORMAT.decode()} {type(rule).__name__}"
    if isinstance(rule, CriteriaRule):  # their order counts, and who moves is always a column
        about += f" {json.dumps(rule.criteria)}"
    return {"": about, **types}


def attempt[T](executor: Executor, tasks: Sequence[partial[T]]) -> Iterator[T | Invalid | NotFound]:
    """The result of each task in order, or why its input is not usable; other errors are raised."""
    futures = deque(executor.submit(task.func, *task.args, **task.keywords) for task in tasks)
    return _results(futures)


def _results[T](futures: deque[Future[T]]) -> Iterator[T | Invalid | NotFound]:
    try:
        while futures:
            try:
                yield futures.popleft().result()  # and forget it
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
