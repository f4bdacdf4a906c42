"""The store that takes backups: what lies there, and how it is read.

See :mod:`catchment.core.backup` for how a backup is made, and :mod:`catchment.core.restore` for the
way back.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound
from catchment.core.ledger import copy
from catchment.core.provenance import manifest
from catchment.core.scratch import scratch_folder
from catchment.core.store import Store, check_key
from catchment.core.workspace import Workspace

FORMAT = 1
WHOLE = 8 << 20  # bytes of an object that is read at once
WORKERS = 8  # objects at a time: most of it is waiting


class Item(NamedTuple):
    """An object of the workspace's store."""

    key: str
    size: int
    etag: str
    digest: str


@dataclass
class Backup:
    """What a backup says of itself.

    Attributes:
        parts: digests of the lists of objects, in order of the way back.
        ledger: digests of the pieces of the ledger's lines.
        tables: rows and digest of each table.
        digest: of all objects and all tables; two workspaces with the same one are equal.
        wrong: what was missing or damaged when the backup was made.
    """

    name: str
    made_at: str
    store: str
    objects: int
    size: int
    digest: str
    parts: list[str]
    ledger: list[str]
    tables: dict[str, copy.Table]
    wrong: list[str] = field(default_factory=list)
    copied: int = 0  # objects that the store of backups did not have yet

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        tables = {name: table._asdict() for name, table in self.tables.items()}
        return vars(self) | {"format": FORMAT, "program": manifest(), "version": copy.version(),
                             "tables": tables}  # fmt: skip


def backups(source: Store) -> list[str]:
    """Names of the backups that are whole, oldest first."""
    found = []
    for name in source.folders("backups/"):
        with suppress(NotFound):
            source.head(f"backups/{name}/backup.json")
            found.append(name)
    return found


def latest(source: Store) -> Backup | None:
    """The newest backup; None before the first."""
    names = backups(source)
    return read(source, names[-1]) if names else None


def read(source: Store, name: str | None = None) -> Backup:
    """A backup, or the newest.

    Raises:
        NotFound: kind ``no-backup``.
        Invalid: kind ``backup-newer``.
        Corrupt: kind ``backup-damaged``.
    """
    name = name or (backups(source) or [""])[-1]
    try:
        data = json.loads(source.read(f"backups/{name}/backup.json")) if name else None
        if data is not None and data["format"] == FORMAT:
            tables = {key: copy.Table(**table) for key, table in data.pop("tables").items()}
            for extra in ("format", "program", "version"):
                del data[extra]
            return Backup(**data, tables=tables)
    except NotFound:
        data = None
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(f"backups/{name}/backup.json cannot be read") from error
    if data is None:
        raise NotFound(
            f"{source.url} has no backup{' ' + name if name else ''}",
            kind="no-backup",
            hint=f"name a place that has some: catchment backup {source.url} --list",
        )
    raise Invalid(
        f"expected a backup of format {FORMAT}, got {data['format']}",
        kind="backup-newer",
        hint="pip install --upgrade catchment",
    )


def items(source: Store, made: Backup) -> Iterator[Item]:
    """The objects of a backup, in order of the way back."""
    for part in made.parts:
        yield from listed(source, part)


def listed(source: Store, part: str) -> Iterator[Item]:
    """The objects of one list. Corrupt (kind ``backup-damaged``) if it cannot be read."""
    for line in whole(source, part).splitlines():
        try:
            item = Item(*json.loads(line))
            check_key(item.key)
        except (ValueError, TypeError, CatchmentError) as error:
            raise damaged(f"{key_of(part)} is no list of objects") from error
        yield item


def fetch(source: Store, digest: str) -> bytes | None:
    """The bytes with this digest, if a backup has them; to mend an object that is damaged."""
    with suppress(NotFound, Corrupt):
        return whole(source, digest)
    return None


@contextmanager
def open_desk() -> Iterator[tuple[sqlite3.Connection, Path]]:
    """A place for lists that may be longer than memory."""
    with (
        scratch_folder() as folder,
        closing(sqlite3.connect(f"{folder}/desk.db", isolation_level=None)) as desk,
    ):
        desk.execute("PRAGMA synchronous=OFF")
        desk.execute("PRAGMA journal_mode=OFF")
        columns = "(key TEXT PRIMARY KEY, size INT, etag TEXT, digest TEXT, kind INT)"
        desk.execute(f"CREATE TABLE files {columns} WITHOUT ROWID")
        desk.execute(f"CREATE TABLE known {columns} WITHOUT ROWID")
        yield desk, folder


def dump(
    workspace: Workspace, path: Path, only: copy.Columns | None = None
) -> dict[str, copy.Table]:
    """The lines of the ledger, in a file; rows and digest of each table (see ``copy.dump``)."""
    with path.open("wb") as file:

        def begin() -> Callable[[bytes], object]:
            file.seek(0)
            file.truncate()
            return file.write

        return copy.dump(workspace.ledger, begin, only)


def total(desk: sqlite3.Connection, tables: Mapping[str, copy.Table]) -> str:
    """Of all that a workspace is: keys, sizes and digests of its objects, rows of its ledger."""
    made = hashlib.sha256()
    for row in desk.execute("SELECT key, size, digest FROM files ORDER BY key"):
        made.update(json.dumps(row).encode() + b"\n")
    for name, table in sorted(tables.items()):
        made.update(json.dumps([name, *table]).encode() + b"\n")
    return f"sha256:{made.hexdigest()}"


def key_of(digest: str) -> str:
    """Where the bytes with a digest are."""
    name = digest.removeprefix("sha256:")
    return f"objects/{name[:2]}/{name}"


def keep(target: Store, digest: str, data: bytes) -> bool:
    """Put bytes under their digest; whether they were new."""
    try:
        target.put(key_of(digest), data)
    except Conflict:
        return False
    return True


def keep_lines(target: Store, data: bytes) -> str:
    """Put a list under its digest, which it gives."""
    digest = sha256(data)
    keep(target, digest, data)
    return digest


def whole(source: Store, digest: str) -> bytes:
    """The bytes with a digest. Corrupt (kind ``backup-damaged``) if they are not there."""
    try:
        data = source.read(key_of(digest))
    except NotFound as error:
        raise damaged(f"{key_of(digest)} is missing") from error
    if sha256(data) != digest:
        raise damaged(f"{key_of(digest)} is not what its name says")
    return data


def look(source: Store, digest: str) -> list[str]:
    """What is wrong with the bytes of a digest; reads them."""
    try:
        found, _ = digest_of(source, key_of(digest))
    except NotFound:
        return [f"{key_of(digest)}: missing"]
    return [] if found == digest else [f"{key_of(digest)}: damaged"]


def checked(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    """The chunks; Corrupt at their end if they are not what they should be, so nothing is put."""
    made = hashlib.sha256()
    for chunk in chunks:
        made.update(chunk)
        yield chunk
    if f"sha256:{made.hexdigest()}" != digest:
        raise damaged(f"{key_of(digest)} is not what its name says")


def digest_of(store: Store, key: str) -> tuple[str, int]:
    """Digest and size of an object; reads it."""
    made, size = hashlib.sha256(), 0
    for chunk in store.stream(key):
        made.update(chunk)
        size += len(chunk)
    return f"sha256:{made.hexdigest()}", size


def sha256(data: bytes) -> str:
    """The digest of bytes, as it is written everywhere."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def damaged(what: str) -> Corrupt:
    """The error of a backup that cannot be used."""
    return Corrupt(f"the backup is damaged: {what}", kind="backup-damaged", hint="use another one")
