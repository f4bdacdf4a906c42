"""The verbs of arrays, on a store that is named by its URL: no workspace is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.arrays.look import Facts
from catchment.arrays.model import OnConflict, Outcome
from catchment.arrays.prepare import RAGGED, prepare
from catchment.arrays.stack import Stack
from catchment.core.progress import Progress, silent
from catchment.core.store import Store, open_store
from catchment.core.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr

Where = str | PathLike[str] | Store | Stack


def url_of(where: str | PathLike[str]) -> str:
    """The URL of a folder or a URL."""
    text = fspath(where)
    return text if "://" in text else Path(text).absolute().as_uri()


@contextmanager
def opened(where: Where, *, progress: Progress = silent, **options: str) -> Iterator[Stack]:
    """The store at a folder, a URL or an open store, with the ledger that its writers share.

    The ledger of a local store lies within it, that of a remote one in the user's state folder.
    ``options`` are those of :func:`catchment.core.store.open_store`.
    """
    if isinstance(where, Stack):
        yield where
        return
    store = open_store(url_of(where), **options) if isinstance(where, str | PathLike) else where
    if store.url.startswith("memory:"):
        yield Stack(store, progress=progress)
        return
    with Workspace.described({"workspace.store": store.url}) as workspace:
        yield Stack(store, workspace.ledger, progress=progress)


def append(
    dataset: xr.Dataset | xr.DataTree,
    store: Where,
    *,
    append_dim: str = "session",
    chunks: Mapping[str, int] | None = None,
    on_conflict: OnConflict = "error",
    dry_run: bool = False,
    session: str | None = None,
    site: str | None = None,
    transform: str | None = None,
    ragged: Sequence[str] = RAGGED,
    progress: Progress = silent,
    **options: str,
) -> Outcome:
    """Append the session, or the sessions, of a dataset to a store, which is made if need be.

    A plain ``xarray.open_zarr`` of the store sees all of it or none, at any instant. The same
    session with the same content a second time changes nothing.

    Args:
        dataset: without the append dimension it is one session.
        store: a folder, a URL (``s3://bucket/name.zarr``) or an open store.
        append_dim: the dimension that grows.
        chunks: of a new store, by dimension. Later they are what they are.
        on_conflict: what becomes of a session that is there with other content.
        dry_run: say what would be done; write nothing.
        session: id, where the dataset does not say it.
        site: who contributed it.
        transform: name and version of what made it.
        ragged: dimensions whose length may differ between sessions.
        progress: told of every chunk.
        options: of :func:`catchment.core.store.open_store`.

    Returns:
        An outcome. Where :attr:`Outcome.refused` is true, its findings say why, and nothing was
        written.

    Raises:
        Conflict: kind ``session-differs`` with ``on_conflict="error"``.
        Invalid: kind ``chunks-fixed``, ``bad-chunks``, ``bad-on-conflict``.
    """
    plain = _dataset(dataset)
    facts = Facts(session=session, site=site, transform=transform)
    sessions, findings = prepare(plain, append_dim=append_dim, ragged=ragged, facts=facts)
    if dry_run and not isinstance(store, Stack):
        found = open_store(url_of(store), **options) if isinstance(store, str | PathLike) else store
        store = Stack(found, progress=progress)
    with opened(store, progress=progress, **options) as stack:
        if not sessions:
            document, _ = stack.look()
            commit = document.commit if document else None
            return Outcome(stack.store.url, commit, (), findings, dry_run=dry_run)
        return stack.append(
            sessions, chunks=chunks, on_conflict=on_conflict, dry_run=dry_run, findings=findings
        )


def open_sessions(where: Where, *, tombstones: bool = False, **options: Any) -> xr.Dataset:
    """The sessions of a store as a lazy xarray Dataset, at the commit that readers see now."""
    from catchment.arrays import read

    if isinstance(where, Stack):
        return read.dataset(where.store, tombstones=tombstones)
    store = open_store(url_of(where), **options) if isinstance(where, str | PathLike) else where
    return read.dataset(store, tombstones=tombstones)


def _dataset(dataset: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """A dataset, or that of a leaf of a tree, which holds the coordinates of its parents."""
    import xarray as xr

    return dataset.to_dataset() if isinstance(dataset, xr.DataTree) else dataset
