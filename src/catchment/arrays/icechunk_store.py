"""Sessions in an Icechunk repository: branches, history, many writers (extra ``icechunk``).

The repository lies in the folder ``icechunk/`` of the store's URL; its arrays are those of the
stacked store. On a local folder Icechunk loses commits of writers that commit at once, so commits
go through the ledger's lease, on every storage; without a ledger only one process may write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from catchment.arrays import document as documenting
from catchment.arrays import layout, plan, rows
from catchment.arrays.content import blocks, digest, trimmed
from catchment.arrays.decide import Asked, planned
from catchment.arrays.document import Document
from catchment.arrays.model import Decision, Entry, Outcome, Row, Status, Step
from catchment.arrays.prepare import Prepared
from catchment.arrays.stack import ATTEMPTS, Stack
from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.ledger import Ledger
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Store

if TYPE_CHECKING:
    import icechunk
    import xarray as xr

    from catchment.arrays.union import Part
    from catchment.arrays.verify import Verdict

FOLDER = "icechunk"
BRANCH = "main"


def is_there(store: Store) -> bool:
    """Whether a repository stands in a store."""
    try:
        store.head(f"{FOLDER}/repo")
    except NotFound:
        return False
    return True


class IcechunkStore:
    """Sessions in a repository; the same verbs as :class:`catchment.arrays.stack.Stack`."""

    def __init__(
        self, store: Store, ledger: Ledger | None = None, name: str = "", *,
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        self.store = store
        self.progress = progress
        self._queue = Stack(store, ledger, name)  # of writers

    @contextmanager
    def writing(self) -> Iterator[Self]:
        """Hold the lease of writers over many writes."""
        with self._queue.writing():
            yield self

    # Looking

    def look(self) -> tuple[Document | None, list[dict[str, Any]]]:
        """The last committed state; readers see all of it."""
        repository = self._repository()
        if repository is None:
            return None, []
        return _document(repository.readonly_session(BRANCH).store), []

    def part(self) -> Part:
        """What readers see now."""
        from catchment.arrays.union import Part

        repository = self._repository()
        view = repository.readonly_session(BRANCH).store if repository else None
        document = _document(view) if view else None
        if document is None:
            raise NotFound(
                f"there is no store of sessions at {self.store.url}",
                kind="no-store",
                hint="catchment arrays append FILE STORE --backend icechunk makes one",
            )
        return Part(self.store, document, _entries(view, document), view)

    def dataset(self, *, tombstones: bool = False) -> xr.Dataset:
        """The sessions, lazily, as they are now."""
        import xarray as xr

        part = self.part()
        found: xr.Dataset = xr.open_zarr(part.view, consolidated=False, zarr_format=3)
        if tombstones:
            return found
        present = [e.slot for e in part.entries if e.status is Status.PRESENT]
        return found.isel({part.document.append_dim: present})

    def verify(self, *, repair: bool = False, quick: bool = False) -> Verdict:  # noqa: ARG002 - as of the other back end
        """Compare every session with its digest."""
        from catchment.arrays.verify import Verdict

        part = self.part()
        verdict = Verdict(commit=part.document.commit)
        opened = part.opened()
        for entry in part.entries:
            if entry.status is not Status.PRESENT:
                continue
            verdict.sessions += 1
            verdict.windows += entry.row.n_windows
            if quick:
                continue
            try:
                one = opened.isel({part.document.append_dim: entry.slot})
                one = trimmed(one, part.document.schema.ragged)
                variables = {name: one[name].variable for name in part.document.slotted()}
                found = digest(variables, entry.row.values)[0]
            except Exception as error:  # noqa: BLE001 - whatever a decoder raises
                verdict.wrong.append(
                    f"slot {entry.slot} cannot be decoded ({type(error).__name__})"
                )
                continue
            if found != entry.row.content_hash:
                verdict.wrong.append(
                    f"slot {entry.slot} does not hold what was appended: its digest differs"
                )
        return verdict

    # Writing

    def append(self, asked: Asked) -> Outcome:
        """Append the sessions: all of them are visible afterwards, or none."""
        if asked.dry_run:
            document, _ = self.look()
            known = plan.present(self.part().entries) if document else {}
            return planned(self.store.url, document, known, asked)[0]
        with self.writing():
            for _ in range(ATTEMPTS):
                repository = self._repository(create=True)
                assert repository is not None  # noqa: S101 - it was made
                session = repository.writable_session(BRANCH)
                document = _document(session.store)
                known = plan.present(_entries(session.store, document)) if document else {}
                outcome, todo = planned(self.store.url, document, known, asked)
                if outcome.refused:
                    return outcome
                if (error := plan.conflict(outcome.steps)) is not None:
                    raise error
                if not todo:
                    return outcome
                if document is None:
                    document, objects = documenting.first(asked.sessions[0], asked.chunks)
                    _publish(session.store, document)
                    for key, data in documenting.objects({"objects": objects}):
                        _set(session.store, key, data)
                made = self._write(session, document, todo)
                if self._commit(session, f"append {len(todo)} sessions"):
                    return replace(outcome, commit=made.commit, dry_run=False, written_bytes=None)
        raise self._lost()

    def withdraw(self, session: str) -> tuple[Entry, int]:
        """Delete a session's values, in the history too, and leave a tombstone."""
        with self.writing():
            for _ in range(ATTEMPTS):
                part = self.part()
                entry = plan.present(part.entries).get(session)
                if entry is None:
                    raise plan.no_session(self.store.url, session)
                repository = self._repository()
                assert repository is not None  # noqa: S101 - it was just read
                writable = repository.writable_session(BRANCH)
                document = part.document.grown(
                    commit=part.document.commit + 1, size=part.document.size, ragged={}
                )
                _publish(writable.store, document)
                _tombstone(writable.store, document, entry.slot, Status.WITHDRAWN)
                if self._commit(writable, "withdraw a session"):
                    # Values stay in the history until nothing names them any more.
                    now = datetime.now(UTC)
                    repository.expire_snapshots(older_than=now)
                    return entry, repository.garbage_collect(now).chunks_deleted
        raise self._lost()

    def _write(
        self, session: icechunk.Session, document: Document, todo: Sequence[tuple[Prepared, Step]]
    ) -> Document:
        size, ragged = document.size, dict[str, int]()
        for one, _ in todo:
            for dim, length in one.ragged_sizes.items():
                ragged[dim] = max(length, ragged.get(dim, 0))
        commit = max(document.commit, 0) + 1
        made = document.grown(commit=commit, size=size + len(todo), ragged=ragged)
        _publish(session.store, made)
        for number, (one, step) in enumerate(todo):
            slot = size + number
            for name, variable in one.variables.items():
                array = _array(session.store, name)
                for start, block in blocks(variable):
                    stop = start + (block.shape[0] if block.ndim else 0)
                    rest = (slice(0, n) for n in block.shape[1:])
                    place: Any = (slot, slice(start, stop), *rest) if block.ndim else slot
                    array[place] = block
            _row(session.store, made, Entry(slot, Status.PRESENT, one.row))
            if step.decision is Decision.REPLACE and step.earlier is not None:
                _tombstone(session.store, made, step.earlier, Status.REPLACED)
            self.progress(
                Event(f"append {one.row.session}", "step", number + 1, len(todo), "sessions")
            )
        return made

    def _commit(self, session: icechunk.Session, message: str) -> bool:
        """Commit; False where another writer was first."""
        from icechunk import ConflictError

        try:
            session.commit(message)
        except ConflictError:
            return False
        return True

    def _repository(self, *, create: bool = False) -> icechunk.Repository | None:
        try:
            from icechunk import Repository, set_logs_filter
        except ImportError:
            raise Invalid(
                "this store needs Icechunk",
                kind="missing-extra",
                hint="pip install 'catchment[icechunk]'",
            ) from None
        set_logs_filter("error")  # that a local folder is not safe: the lease makes it so
        there = is_there(self.store)
        if not there and not create:
            return None
        storage = _storage(self.store)
        return Repository.open(storage) if there else Repository.create(storage)

    def _lost(self) -> Conflict:
        return Conflict(
            f"{self.store.url}: other writers were first {ATTEMPTS} times",
            kind="commits-lost",
            hint="run the same command again, with the ledger that the other writers use",
        )


def _storage(store: Store) -> icechunk.Storage:
    """Icechunk's own way to where the store is."""
    from icechunk import local_filesystem_storage, s3_storage

    parts = urlsplit(store.url)
    if parts.scheme == "file":
        return local_filesystem_storage(str(Path(unquote(parts.path), FOLDER)))
    if parts.scheme != "s3":
        raise Invalid(
            "Icechunk keeps sessions in a folder or on S3", kind="bad-backend",
            hint="leave --backend out",
        )  # fmt: skip
    options: Mapping[str, str] = getattr(store, "options", {})
    key = options.get("access_key_id")
    return s3_storage(
        bucket=parts.netloc,
        prefix=f"{parts.path.strip('/')}/{FOLDER}".lstrip("/"),
        region=options.get("region"),
        endpoint_url=options.get("endpoint"),
        allow_http=options.get("allow_http") == "true",
        access_key_id=key,
        secret_access_key=options.get("secret_access_key"),
        session_token=options.get("session_token"),
        from_env=None if key else True,
        force_path_style=options.get("virtual_hosted_style") != "true",
    )


def _document(view: Any) -> Document | None:
    """The document that a snapshot's metadata make; None in a new repository."""
    data = _get(view, layout.ROOT)
    if data is None:
        return None
    root = json.loads(data)
    section = root.get("attributes", {}).get(documenting.SECTION)
    if section is None:
        return None
    arrays = {
        name: json.loads(_get(view, f"{name}/{layout.ROOT}") or b"") for name in section["arrays"]
    }
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
    return Document(root)


def _publish(view: Any, document: Document) -> None:
    """Metadata of the group and its arrays, as objects of their own."""
    root = {key: value for key, value in document.root.items() if key != "consolidated_metadata"}
    section = {**document.section, "arrays": list(document.arrays)}
    root["attributes"] = {**root["attributes"], documenting.SECTION: section}
    _set(view, layout.ROOT, json.dumps(root).encode())
    for name, meta in document.arrays.items():
        _set(view, f"{name}/{layout.ROOT}", json.dumps(meta).encode())


def _entries(view: Any, document: Document) -> list[Entry]:
    import numpy as np

    columns = {name: np.asarray(_array(view, name)[:]).tolist() for name in document.rows()}
    return rows.of_columns(columns, document.size)


def _row(view: Any, document: Document, entry: Entry) -> None:
    for name in document.rows():
        meta = document.arrays[name]
        values = rows.typed([rows.value(name, entry, document)], meta)
        _array(view, name)[entry.slot : entry.slot + 1] = values


def _tombstone(view: Any, document: Document, slot: int, status: Status) -> None:
    from zarr.core.sync import sync

    _row(view, document, Entry(slot, status, Row(rows.tomb(slot), 0, "")))
    for name in document.slotted():
        sync(view.delete_dir(layout.slot_prefix(name, slot, 0).rstrip("/")))


def _array(view: Any, name: str) -> Any:
    import zarr

    return zarr.open_array(
        store=view, path=name, mode="r" if view.read_only else "r+", zarr_format=3
    )


def _get(view: Any, key: str) -> bytes | None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    found = sync(view.get(key, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def _set(view: Any, key: str, data: bytes) -> None:
    from zarr.core.buffer import cpu
    from zarr.core.sync import sync

    sync(view.set(key, cpu.Buffer.from_bytes(data)))
