"""Several stores of one schema as one dataset: their sessions behind each other, lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from catchment.arrays import read
from catchment.arrays.document import Document
from catchment.arrays.model import Entry, Status
from catchment.core.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Part:
    """One store at one commit.

    Attributes:
        view: of a back end that Zarr reads by a store of its own.
    """

    store: Store
    document: Document
    entries: Sequence[Entry]
    view: Any = None

    def opened(self) -> xr.Dataset:
        """As it is stored."""
        view = read.view(self.store, self.document) if self.view is None else self.view
        found: xr.Dataset = xr.open_zarr(
            view, consolidated=self.view is None, zarr_format=3, decode_cf=False, chunks=None
        )
        return found


class Sessions(BackendArray):
    """A variable over the sessions of several stores; shorter ones are filled up.

    Args:
        variables: of each store.
        places: store and slot of each session.
        shape: of the whole.
        fill: what stands where a store has nothing.
    """

    def __init__(
        self,
        variables: Sequence[xr.Variable],
        places: Sequence[tuple[int, int]],
        shape: tuple[int, ...],
        fill: Any,
    ) -> None:
        self.variables = variables
        self.places = places
        self.shape = shape
        self.dtype = variables[0].dtype
        self.fill = fill

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._outer
        )

    def _outer(self, key: tuple[Any, ...]) -> np.ndarray:
        """Orthogonal: each key is a number, a slice or positions."""
        first, *rest = key
        wanted = np.arange(self.shape[0])[first]
        own = [np.arange(size)[k] for k, size in zip(rest, self.shape[1:], strict=True)]
        made = np.full((*wanted.shape, *(n for k in own for n in k.shape)), self.fill, self.dtype)
        for position in np.ndindex(wanted.shape):
            part, slot = self.places[int(wanted[position])]
            variable = self.variables[part]
            inside = [k < size for k, size in zip(own, variable.shape[1:], strict=True)]
            if all(place.any() for place in inside):
                local = tuple(_clipped(k, place) for k, place in zip(own, inside, strict=True))
                target = np.ix_(*(place for place in inside if place.ndim))
                block = made[position] if position else made
                if target:
                    block[target] = variable[(slot, *local)].values
                else:
                    made[position] = variable[(slot, *local)].values
        return made


def _clipped(positions: np.ndarray, inside: np.ndarray) -> Any:
    """The positions that are there, as a slice where they follow each other."""
    if not positions.ndim:
        return int(positions)
    kept = positions[inside]
    if kept[-1] - kept[0] + 1 == len(kept) and (np.diff(kept) == 1).all():
        return slice(int(kept[0]), int(kept[-1]) + 1)
    return kept


def dataset(parts: Sequence[Part]) -> xr.Dataset:
    """The sessions of all stores, as they are stored; :func:`xarray.decode_cf` makes sense of it.

    The stores have one schema. Tombstones are left out.
    """
    opened = [part.opened() for part in parts]
    document = parts[0].document
    dim = document.append_dim
    places = [
        (number, entry.slot)
        for number, part in enumerate(parts)
        for entry in part.entries
        if entry.status is Status.PRESENT
    ]
    variables: dict[str, xr.Variable] = {}
    for name in document.rows():
        variables[name] = _rows(name, dim, opened, places)
    for name in document.slotted():
        own = [found.variables[name] for found in opened]
        shape = (len(places), *(max(sizes) for sizes in zip(*(v.shape[1:] for v in own))))  # noqa: B905 - one rank
        data = indexing.LazilyIndexedArray(Sessions(own, places, shape, _fill(document, name)))
        variables[name] = xr.Variable(own[0].dims, data, own[0].attrs)
    for name in document.arrays:
        if name not in variables:
            variables[name] = opened[0].variables[name].load()
    coords = {n: v for n, v in variables.items() if n in opened[0].coords or n == dim}
    data_vars = {n: v for n, v in variables.items() if n not in coords}
    return xr.Dataset(data_vars, coords, opened[0].attrs)


def _rows(
    name: str, dim: str, opened: Sequence[xr.Dataset], places: Sequence[tuple[int, int]]
) -> xr.Variable:
    columns = [found.variables[name].values for found in opened]
    values = [columns[part][slot] for part, slot in places]
    first = opened[0].variables[name]
    kind = object if first.dtype.kind in "OT" else first.dtype
    return xr.Variable((dim,), np.array(values, dtype=kind), first.attrs)


def _fill(document: Document, name: str) -> Any:
    fill: Any = document.arrays[name]["fill_value"]
    if isinstance(fill, list):
        return complex(np.nan, np.nan)
    return np.nan if fill == "NaN" else fill


def groups(parts: Sequence[Part]) -> Mapping[str, list[Part]]:
    """Stores by fingerprint, in order."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(part.document.schema.fingerprint, []).append(part)
    return found
