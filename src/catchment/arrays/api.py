"""The verbs of arrays, on a store that is named by its URL: no workspace is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, cast

from catchment.arrays import journal
from catchment.arrays.backend import Backend, Sessions
from catchment.arrays.backend import kind_of as kind_of_sessions
from catchment.arrays.backend import open_sessions as open_sessions_of
from catchment.arrays.decide import Asked
from catchment.arrays.flat import Flat
from catchment.arrays.flat_prepare import grows
from catchment.arrays.foreign import Group, kind_of
from catchment.arrays.icechunk_store import IcechunkStore
from catchment.arrays.look import Facts
from catchment.arrays.model import Entry, OnConflict, Outcome
from catchment.arrays.plan import no_session, present
from catchment.arrays.prepare import RAGGED, prepare
from catchment.arrays.stack import Stack
from catchment.core.errors import Invalid
from catchment.core.progress import Progress, silent
from catchment.core.store import Store, open_store
from catchment.core.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.export_files import Form
    from catchment.arrays.exporting import Exported
    from catchment.arrays.generations import Rechunked
    from catchment.arrays.training import Windows

Where = str | PathLike[str] | Store | Sessions


def url_of(where: str | PathLike[str]) -> str:
    """The URL of a folder or a URL."""
    text = fspath(where)
    return text if "://" in text else Path(text).absolute().as_uri()


@contextmanager
def opened(
    where: Where,
    *,
    writes: bool = True,
    backend: Backend | None = None,
    progress: Progress = silent,
    **options: str,
) -> Iterator[Sessions]:
    """The sessions at a folder, a URL or an open store, with the ledger that writers share.

    The ledger of a local store lies within it, that of a remote one in the user's state folder.
    Where nothing is to be written, there is no need of one.
    ``options`` are those of :func:`catchment.core.store.open_store`.
    """
    if isinstance(where, Stack | IcechunkStore):
        yield where
        return
    store = store_of(where, **options)
    if store.url.startswith("memory:") or not writes:
        yield open_sessions_of(store, None, progress, backend)
        return
    with Workspace.described({"workspace.store": store.url}) as workspace:
        yield open_sessions_of(store, workspace.ledger, progress, backend)


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
    backend: Backend | None = None,
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
        backend: what keeps a new store, ``zarr`` or ``icechunk``.
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
    with opened(store, writes=not dry_run, backend=backend, progress=progress, **options) as stack:
        if isinstance(stack, Stack) and by_positions(stack.store, plain, append_dim):
            return Flat(stack).append(
                plain, append_dim, chunks=chunks, on_conflict=on_conflict, dry_run=dry_run,
                facts=facts,
            )  # fmt: skip
        sessions, findings = prepare(plain, append_dim=append_dim, ragged=ragged, facts=facts)
        if not sessions:
            document, _ = stack.look()
            commit = document.commit if document else None
            return Outcome(stack.store.url, commit, (), findings, dry_run=dry_run)
        return stack.append(Asked(sessions, chunks, on_conflict, findings, dry_run))


def by_positions(store: Store, dataset: xr.Dataset, append_dim: str) -> bool:
    """Whether an append goes behind positions.

    It does where another program made the store, and in a new one along a dimension of the
    dataset that has no names of sessions.
    """
    kind = kind_of(store)
    if kind:
        return kind == "group"
    return grows(dataset, append_dim) and Stack(store).look()[0] is None


def find(sessions: Sessions, session: str) -> Entry:
    """Where a session stands; NotFound (kind ``no-session``)."""
    if isinstance(sessions, Stack) and kind_of(sessions.store) == "group":
        return Flat(sessions).find(session)[1]
    entry = present(sessions.part().entries).get(session)
    if entry is None:
        raise no_session(sessions.store.url, session)
    if isinstance(sessions, Stack):
        return replace(entry, row=journal.row_of(sessions.store, entry.slot, entry.row))
    return entry


def stacked(sessions: Sessions) -> Stack:
    """A stacked store; Invalid (kind ``bad-backend``) for another."""
    if isinstance(sessions, Stack):
        return sessions
    raise Invalid(
        "the chunks of an Icechunk store stay what they are",
        kind="bad-backend",
        hint="append its sessions to a new store: catchment arrays append OLD NEW",
    )


def rechunk(
    store: Where,
    chunks: Mapping[str, int],
    *,
    dry_run: bool = False,
    take_over: bool = False,
    progress: Progress = silent,
    **options: str,
) -> Rechunked:
    """Give a store other chunks, atomically; see :func:`catchment.arrays.generations.rechunk`."""
    from catchment.arrays import generations as rechunking

    with opened(
        store_of(store, **options) if isinstance(store, str | PathLike) else store,
        writes=not dry_run,
        progress=progress,
    ) as stack:
        return rechunking.rechunk(stacked(stack), chunks, dry_run=dry_run, take_over=take_over)


def open_sessions(
    where: Where, *, tombstones: bool = False, schema: str | None = None, **options: str
) -> xr.Dataset:
    """The sessions of a store as a lazy xarray Dataset, at the commit that readers see now.

    Args:
        where: a store, or a folder of partitions, whose sessions then stand behind each other.
        tombstones: show what was replaced or withdrawn, too; of one store only.
        schema: fingerprint of the stores that are meant, where partitions have several.
        options: of :func:`catchment.core.store.open_store`.

    Raises:
        NotFound: kind ``no-store``.
        Invalid: kind ``several-schemas`` for partitions that do not go together.
    """
    from catchment.arrays import read

    store = store_of(where, **options)
    if kind_of(store) == "group":
        group = Group.of(store)
        assert group is not None  # noqa: S101 - it is one
        return group.dataset(store)
    if kind_of_sessions(store) is not None:
        return open_sessions_of(store).dataset(tombstones=tombstones)
    return read.together(read.one_schema(read.parts(store), schema))


def windows(
    where: Where,
    *,
    variables: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    valid: bool = False,
    schema: str | None = None,
    **options: str,
) -> Windows:
    """The windows of a store, or of a folder of partitions, by number: a map dataset for training.

    It has a length and gives the values of one window, as PyTorch's data loaders ask for; it needs
    no PyTorch. See :class:`catchment.arrays.training.Windows`.

    Args:
        where: a store, or a folder of partitions.
        variables: those that a window shall have; all that have windows if None.
        sessions: those that are meant; all if None.
        valid: leave out windows of which a variable ``<name>_valid`` says no.
        schema: fingerprint of the stores that are meant, where partitions have several.
        options: of :func:`catchment.core.store.open_store`.

    Raises:
        NotFound: kind ``no-store``, ``no-session`` or ``no-variable``.
        Invalid: kind ``several-schemas``.
    """
    from catchment.arrays import read
    from catchment.arrays.training import Windows

    found = read.one_schema(read.parts(store_of(where, **options)), schema)
    return Windows(found, variables=variables, sessions=sessions, valid=valid)


def export(
    where: Where,
    target: str | PathLike[str] | Store,
    *,
    form: Form = "zarr",
    variables: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    valid: bool = False,
    schema: str | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
    **options: str,
) -> Exported:
    """Write windows behind each other, without padding; see :mod:`catchment.arrays.exporting`.

    Arguments as of :func:`windows`, and:

    Args:
        where: a store, or a folder of partitions.
        target: an empty folder, or what an interrupted export left.
        form: ``zarr``, ``npy`` or ``parquet``.
        variables: those that a window shall have; all that have windows if None.
        sessions: those that are meant; all if None.
        valid: leave out windows of which a variable ``<name>_valid`` says no.
        schema: fingerprint of the stores that are meant, where partitions have several.
        dry_run: say what would be written; write nothing.
        progress: told of every session.
        options: of :func:`catchment.core.store.open_store`, for both.

    Raises:
        Conflict: kind ``export-exists`` or ``not-empty``.
    """
    from catchment.arrays import exporting

    found = windows(
        where, variables=variables, sessions=sessions, valid=valid, schema=schema, **options
    )
    into = open_store(url_of(target), **options) if isinstance(target, str | PathLike) else target
    return exporting.export(found, into, form, dry_run=dry_run, progress=progress)


def store_of(where: Where, **options: str) -> Store:
    """The opened store of a folder, a URL or a stack."""
    if isinstance(where, Stack | IcechunkStore):
        return where.store
    if isinstance(where, str | PathLike):
        return open_store(url_of(where), **options)
    return cast("Store", where)


def _dataset(dataset: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """A dataset, or that of a leaf of a tree, which holds the coordinates of its parents."""
    import xarray as xr

    return dataset.to_dataset() if isinstance(dataset, xr.DataTree) else dataset
