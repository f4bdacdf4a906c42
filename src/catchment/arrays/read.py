"""Reading: a store, or all partitions of one, as an xarray Dataset of its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catchment.arrays import layout
from catchment.arrays.content import trimmed
from catchment.arrays.document import Document
from catchment.arrays.model import Entry, Status
from catchment.core.errors import NotFound
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.zarr_store import CoreStore


def published(store: Store) -> Document:
    """The document that readers see; NotFound (kind ``no-store``) if there is none."""
    try:
        return Document.parse(store.read(layout.ROOT))
    except NotFound:
        raise NotFound(
            f"there is no store of sessions at {store.url}",
            kind="no-store",
            hint="catchment arrays append FILE STORE makes one",
        ) from None


def view(store: Store, document: Document) -> CoreStore:
    """What Zarr sees of a store at one commit: later ones do not show."""
    from catchment.arrays.zarr_store import CoreStore

    return CoreStore(store, {layout.ROOT: document.dumps()})


def dataset(store: Store, *, tombstones: bool = False) -> xr.Dataset:
    """The sessions of one store, lazily; those that were replaced or withdrawn are left out.

    The dataset is that of one commit: sessions that are appended later do not change it.
    """
    import xarray as xr

    document = published(store)
    found: xr.Dataset = xr.open_zarr(view(store, document), consolidated=True, zarr_format=3)
    if tombstones or not found.sizes[document.append_dim]:
        return found
    dim, status = document.append_dim, found["status"].values
    if status.any():
        found = found.isel({dim: [i for i, s in enumerate(status) if s == Status.PRESENT]})
    return found


def session(found: xr.Dataset, label: str) -> xr.Dataset:
    """One session of a dataset that :func:`dataset` opened, without padding."""
    section = found.attrs.get("catchment", {}).get("schema", {})
    dim = section.get("append_dim", "session")
    try:
        one = found.sel({dim: label})
    except KeyError:
        raise NotFound(
            f"there is no session {label!r}", kind="no-session", hint="catchment arrays list STORE"
        ) from None
    return trimmed(one, section.get("ragged", ()))


def entries(store: Store) -> tuple[Document, list[Entry]]:
    """What stands in each slot of a store."""
    from catchment.arrays import rows

    document = published(store)
    return document, rows.read(store, document)
