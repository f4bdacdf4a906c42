"""Backups of a whole workspace, ledger and store, and the way back, with a proof of equality.

In the store that takes them::

    objects/3f/3f9c...              bytes by their SHA-256; all backups of the store share them
    backups/NAME/backup.json        what a backup consists of: written last, whole or absent

A backup is consistent while runs go on. The ledger is read first, in one transaction: all that its
snapshots name was durable before and is never written again. Of the store, what names others is
read before what it names, and a seal is taken only if the ledger's copy has its snapshot. The way
back keeps to the order of a publication: data, what names it, seals, and the ledger at the end.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from typing import Any

from catchment.core.backup_shelf import (
    WHOLE,
    WORKERS,
    Backup,
    Item,
    checked,
    digest_of,
    dump,
    items,
    keep,
    keep_lines,
    key_of,
    latest,
    open_desk,
    sha256,
    total,
)
from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound
from catchment.core.executor import bounded_map
from catchment.core.progress import Event, Progress, silent
from catchment.core.provenance import NAME as SEAL
from catchment.core.store import Stat, Store, check_key
from catchment.core.store_folders import inside
from catchment.core.workspace import Workspace

PART = 20_000  # lines of a list of objects, or of the ledger, in one piece
TRIES = 5

# Which objects come first when they are read; on the way back the order is turned around.
ROOT, NAMES, DATA, SEALS = range(4)
WAY_BACK = (DATA, NAMES, ROOT, SEALS)


def backup(workspace: Workspace, target: Store, *, progress: Progress = silent) -> Backup:
    """Make a backup; it appears when it is whole. What an earlier one has is not copied again.

    A workspace that is damaged already is backed up as it is, and ``wrong`` says what is not right.
    """
    now = datetime.now(UTC)
    store = workspace.store
    if inside(target, store):
        raise Invalid(
            "the backups would lie in the very store that they are to save",
            kind="backup-inside",
            hint="name another bucket, disk or folder",
        )
    with open_desk() as (desk, folder):
        _remember(desk, target, latest(target))
        lines = folder / "ledger"
        tables = dump(workspace, lines)
        seals = {row["location"] + SEAL for row in _snapshots(lines)}
        copied = 0
        for _ in range(TRIES):
            copied += _copy(desk, store, target, seals, progress)
            if not _moved(desk, store):
                break
        wrong = list(_missing(desk, lines))
        parts = [keep_lines(target, part) for part in _lists(desk)]
        pieces = [keep_lines(target, part) for part in _pieces(lines)]
        objects, size = desk.execute("SELECT count(*), sum(size) FROM files").fetchone()
        made = Backup(
            f"{now:%Y%m%d-%H%M%S-%f}", now.isoformat(), store.url, objects, size or 0,
            total(desk, tables), parts, pieces, tables, wrong, copied,
        )  # fmt: skip
    data = json.dumps(made.to_json(), indent=1, ensure_ascii=False).encode() + b"\n"
    target.put(f"backups/{made.name}/backup.json", data)
    return made


def _remember(desk: sqlite3.Connection, target: Store, former: Backup | None) -> None:
    """What the newest backup has: an object that did not move since is not read again."""
    if former is not None:
        desk.execute("BEGIN")
        for item in items(target, former):
            desk.execute("INSERT INTO known VALUES (?, ?, ?, ?, 0)", item)
        desk.execute("COMMIT")


def _snapshots(lines: Path) -> Iterator[dict[str, Any]]:
    columns: list[str] = []
    with lines.open("rb") as file:
        for line in file:
            if line.startswith(b"{"):
                header = json.loads(line)
                columns = header["columns"] if header["table"] == "snapshots" else []
            elif columns:
                yield dict(zip(columns, json.loads(line), strict=True))


def _missing(desk: sqlite3.Connection, lines: Path) -> Iterator[str]:
    """Objects that snapshots name and the backup has not, or has otherwise."""
    for row in _snapshots(lines):
        if row["expired_at"] is not None:
            continue
        for item in row["provenance"].get("objects", ()):
            found = desk.execute(
                "SELECT digest FROM files WHERE key = ?", (item["key"],)
            ).fetchone()
            if found != (item["digest"],):
                what = "missing" if found is None else "damaged"
                yield f"{item['key']}: {what}; snapshot {row['number']} of {row['aggregate']}"


def _kind(key: str, seals: set[str]) -> int | None:
    """When an object is read; None for a seal of what the ledger's copy does not know."""
    *folders, name = key.split("/")
    if name == SEAL:
        return SEALS if key in seals else None
    if name == "zarr.json":
        return ROOT
    return NAMES if name.endswith(".json") or any(f.startswith("_") for f in folders) else DATA


def _copy(
    desk: sqlite3.Connection, store: Store, target: Store, seals: set[str], progress: Progress
) -> int:
    """Bring over what the store has now; how many objects were new."""
    desk.execute("DELETE FROM files")
    new = 0
    with ThreadPoolExecutor(WORKERS) as threads:
        for turn in (ROOT, NAMES, DATA, SEALS):
            wanted = (s for s in store.list() if _kind(s.key, seals) == turn and _usable(s.key))
            work = ((stat, _unmoved(desk, stat)) for stat in wanted)
            take = _Take(store, target)
            for done, (item, fresh) in enumerate(bounded_map(threads, take, work, 2 * WORKERS), 1):
                progress(Event("backup", "step", done, None, "objects"))
                if item is not None:
                    new += fresh
                    row = (*item, turn)
                    desk.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)
                    desk.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", row)
    return new


def _usable(key: str) -> bool:
    try:
        check_key(key)
    except Invalid:
        return False  # a foreign name that no verb of a store takes, and so no run has made
    return True


def _unmoved(desk: sqlite3.Connection, stat: Stat) -> str | None:
    query = "SELECT digest FROM known WHERE key = ? AND size = ? AND etag = ?"
    found = desk.execute(query, (stat.key, stat.size, stat.etag)).fetchone()
    return found[0] if found else None


def _moved(desk: sqlite3.Connection, store: Store) -> bool:
    """Whether a root was replaced while what it names was read."""
    roots = desk.execute("SELECT key, etag FROM files WHERE kind = ?", (ROOT,)).fetchall()
    for key, etag in roots:
        with suppress(NotFound):
            if store.head(key).etag == etag:
                continue
        return True
    return False


class _Take:
    """Copies one object to the store of backups, under its digest."""

    def __init__(self, store: Store, target: Store) -> None:
        self._store = store
        self._target = target

    def __call__(self, work: tuple[Stat, str | None]) -> tuple[Item | None, bool]:
        stat, digest = work
        if digest is not None:
            return Item(stat.key, stat.size, stat.etag, digest), False
        try:
            if stat.size <= WHOLE:
                data = self._store.read(stat.key)
                digest = sha256(data)
                fresh = keep(self._target, digest, data)
                return Item(stat.key, len(data), stat.etag, digest), fresh
            return self._large(stat)
        except NotFound:
            return None, False  # collected, or taken from where it arrived, since it was listed

    def _large(self, stat: Stat) -> tuple[Item, bool]:
        """Read twice: the key follows from the bytes. Somebody may replace it in between."""
        for _ in range(TRIES):
            digest, size = digest_of(self._store, stat.key)
            try:
                chunks = checked(self._store.stream(stat.key), digest)
                self._target.put(key_of(digest), chunks)
            except Conflict:
                return Item(stat.key, size, stat.etag, digest), False
            except Corrupt:
                continue
            return Item(stat.key, size, stat.etag, digest), True
        raise Conflict(
            f"{stat.key} is written to without an end",
            kind="object-moving",
            hint="stop what writes to it, then back up again",
        )


def _lists(desk: sqlite3.Connection) -> Iterator[bytes]:
    """The lists of objects, in order of the way back; none holds two kinds."""
    for kind in WAY_BACK:
        query = "SELECT key, size, etag, digest FROM files WHERE kind = ? ORDER BY key"
        for rows in batched(desk.execute(query, (kind,)), PART):
            yield b"".join(
                json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                for row in rows
            )


def _pieces(lines: Path) -> Iterator[bytes]:
    with lines.open("rb") as file:
        for many in batched(file, PART):
            yield b"".join(many)
