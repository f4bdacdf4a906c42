"""The way back from a backup, with a proof that nothing differs."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import batched
from pathlib import Path

from catchment.core.backup_shelf import (
    WHOLE,
    WORKERS,
    Backup,
    Item,
    checked,
    damaged,
    digest_of,
    dump,
    items,
    key_of,
    listed,
    look,
    open_desk,
    read,
    total,
    whole,
)
from catchment.core.errors import Conflict, Corrupt, NotFound
from catchment.core.executor import bounded_map
from catchment.core.ledger import copy
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Store
from catchment.core.workspace import Workspace

PAGE = 1000  # objects whose digests are in memory at a time


def restore(
    workspace: Workspace, source: Store, name: str | None = None, *, progress: Progress = silent
) -> Backup:
    """Make an empty workspace what the backup says, and prove it: read all of it once more.

    A restore that was killed is done by another one. Nothing is published before the last step.

    Raises:
        NotFound: kind ``no-backup``.
        Conflict: kind ``ledger-not-empty`` or ``store-not-empty``: something else is there.
        Corrupt: kind ``backup-damaged``, or ``restore-differs`` if the proof fails.
    """
    made = read(source, name)
    if not copy.is_empty(workspace.ledger):
        raise Conflict(
            "expected an empty ledger, got one that knows something",
            kind="ledger-not-empty",
            hint="restore into a workspace of its own",
        )
    with open_desk() as (desk, folder):
        for item in items(source, made):
            desk.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", (*item, 0))
        _refuse_others(desk, workspace.store)
        with ThreadPoolExecutor(WORKERS) as threads:
            # A list ends where the next kind of objects begins: seals wait for all else.
            for part in made.parts:
                put = _Put(source, workspace.store)
                for done, _ in enumerate(bounded_map(threads, put, listed(source, part), 16), 1):
                    progress(Event("restore", "step", done, None, "objects"))
        lines = (line for part in made.ledger for line in whole(source, part).splitlines(True))
        told = copy.load(workspace.ledger, lines, made.tables)
        prove(workspace, made, folder, told)
    return made


def check(source: Store, made: Backup, *, progress: Progress = silent) -> list[str]:
    """What is missing or damaged in a backup; reads all of it."""
    wrong: list[str] = []
    with ThreadPoolExecutor(WORKERS) as threads:
        digests = {*made.parts, *made.ledger}
        for part in made.parts:
            with suppress(Corrupt):  # it is looked at below, too
                digests |= {item.digest for item in listed(source, part)}
        for done, fault in enumerate(
            bounded_map(threads, lambda d: look(source, d), sorted(digests), 2 * WORKERS), 1
        ):
            progress(Event("backup: check", "step", done, len(digests), "objects"))
            wrong += fault
    return wrong


def prove(workspace: Workspace, made: Backup, folder: Path, told: copy.Columns) -> None:
    """Read store and ledger; Corrupt (kind ``restore-differs``) unless they are the backup's.

    Of the ledger what the backup has told of: one of an earlier version knew less.
    """
    with open_desk() as (desk, _):
        for many in batched(workspace.store.list(), PAGE):
            for stat in many:
                digest, size = digest_of(workspace.store, stat.key)
                row = (stat.key, size, "", digest, 0)
                desk.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", row)
        found = total(desk, dump(workspace, folder / "proof", told))
    if found != made.digest:
        raise Corrupt(
            f"the workspace has the digest {found}, expected {made.digest}",
            kind="restore-differs",
            hint="somebody wrote to it during the restore: restore into an empty workspace",
        )


def _refuse_others(desk: sqlite3.Connection, store: Store) -> None:
    """Conflict if the store has what the backup has not: a restore fills, it never replaces."""
    for stat in store.list():
        if desk.execute("SELECT 1 FROM files WHERE key = ?", (stat.key,)).fetchone() is None:
            raise Conflict(
                f"expected an empty store, got {stat.key} in {store.url}",
                kind="store-not-empty",
                hint="restore into a workspace of its own",
            )


class _Put:
    """Puts one object where it was; one that is there already must be the same."""

    def __init__(self, source: Store, store: Store) -> None:
        self._source = source
        self._store = store

    def __call__(self, item: Item) -> None:
        try:
            if item.size <= WHOLE:
                self._store.put(item.key, whole(self._source, item.digest))
            else:
                stream = self._source.stream(key_of(item.digest))
                self._store.put(item.key, checked(stream, item.digest))
        except NotFound as error:
            raise damaged(f"{key_of(item.digest)} is missing") from error
        except Conflict:
            if digest_of(self._store, item.key)[0] != item.digest:
                raise Conflict(
                    f"{item.key} is there already, with other bytes",
                    kind="store-not-empty",
                    hint="restore into a workspace of its own",
                ) from None
