"""Reading: a store, or all partitions of one, as an xarray Dataset of its sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from catchment.arrays import layout
from catchment.arrays.content import trimmed
from catchment.arrays.document import Document
from catchment.arrays.model import Entry, Status
from catchment.core.errors import Invalid, NotFound
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.union import Part
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


def parts(store: Store) -> list[Part]:
    """The store, or the stores of a folder of partitions, each at its present commit.

    NotFound (kind ``no-store``) if there is none.
    """
    from catchment.arrays import backend
    from catchment.arrays.catalog import keys
    from catchment.arrays.transform.sinks import below

    if backend.kind_of(store) is None:
        stores = [below(store, key) for key in keys(store)]
        if stores:
            return [backend.open_sessions(one).part() for one in stores]
    return [backend.open_sessions(store).part()]


def one_schema(found: Sequence[Part], schema: str | None = None) -> list[Part]:
    """The stores of one schema; Invalid (kind ``several-schemas``) if nobody said which."""
    from catchment.arrays.union import groups

    by_schema = groups(found)
    if schema is None and len(by_schema) == 1:
        return list(found)
    if schema is not None and schema in by_schema:
        return by_schema[schema]
    told = "; ".join(
        f"{fingerprint}: {', '.join(part.store.url.rpartition('/')[2] for part in some[:3])}"
        + (", ..." if len(some) > 3 else "")
        for fingerprint, some in by_schema.items()
    )
    raise Invalid(
        f"the stores have {len(by_schema)} schemas ({told})" if schema is None
        else f"no store has the schema {schema} ({told})",
        kind="several-schemas",
        hint="name one of the stores, or the schema of those that are meant",
    )  # fmt: skip


def together(found: Sequence[Part]) -> xr.Dataset:
    """The sessions of stores of one schema, lazily, without tombstones."""
    import xarray as xr

    from catchment.arrays import union

    return xr.decode_cf(union.dataset(found))


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


def slot(store: Store, document: Document, entry: Entry) -> dict[str, xr.Variable]:
    """What stands in a slot, lazily and as it is stored, without padding."""
    import xarray as xr

    opened = xr.open_zarr(
        view(store, document), consolidated=True, zarr_format=3, decode_cf=False, chunks=None
    )
    one = trimmed(opened.isel({document.append_dim: entry.slot}), document.schema.ragged)
    return {name: one[name].variable for name in document.slotted()}


def entries(store: Store) -> tuple[Document, list[Entry]]:
    """What stands in each slot of a store."""
    from catchment.arrays import rows

    document = published(store)
    return document, rows.read(store, document)
