"""Positions behind those that are there: xarray encodes them, chunks go out, metadata stay here.

What was written is read back: an encoding of the store that cannot hold the values is found
before anybody sees them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from catchment.arrays.flat_prepare import Sent, along, digest_of, encodable, new_chunks, texts
from catchment.arrays.foreign import Group, Overlay
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr

PIECE = 64 << 20  # bytes that are encoded together


def grow(  # noqa: PLR0917 - what makes new positions
    store: Store,
    documents: dict[str, bytes],
    dataset: xr.Dataset,
    dim: str,
    group: Group | None,
    chunks: Mapping[str, int] | None,
) -> int:
    """Write the chunks, and say how many bytes they take; metadata stay in ``documents``."""
    view = Overlay(store, documents, writes=True)
    variables = along(dataset, dim)
    first = 0
    if group is None:
        fixed = dict(new_chunks(variables, dim, chunks or {}))
        dataset = encodable(dataset)
    else:
        fixed = {n: c for n, c in group.chunks().items() if n in variables}
        dataset = dataset.drop_vars([n for n in dataset.variables if dim not in dataset[n].dims])
        dataset = texts(dataset)
        first = int(group.dataset(store).sizes[dim])
    step = max((sizes.get(dim, 1) for sizes in fixed.values()), default=1)
    each = max(1, sum(v.nbytes for v in variables.values()) // max(1, dataset.sizes[dim]))
    rows = max(step, PIECE // each // step * step)
    stop = min(dataset.sizes[dim], rows - first % step)
    start = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats, of what is not consolidated
        while start < dataset.sizes[dim]:
            piece = dataset.isel({dim: slice(start, stop)}).load()
            for name in piece.variables:
                piece[name].encoding.pop("chunks", None)
            if group is None and not start:
                encoding = {
                    n: {**piece[n].encoding, "chunks": tuple(c.values())} for n, c in fixed.items()
                }
                piece.to_zarr(view, mode="w-", consolidated=False, zarr_format=3, encoding=encoding)
            else:
                same = [n for n in piece.variables if dim not in piece[n].dims]
                piece.drop_vars(same).to_zarr(
                    view, mode="a-", append_dim=dim, consolidated=False,
                    zarr_format=group.version if group else 3,
                )  # fmt: skip
            start, stop = stop, min(dataset.sizes[dim], stop + rows)
    return sum(view.sizes.values())


def stored(store: Store, group: Group, dim: str, start: int, stop: int) -> str:
    """The digest of what stands between two positions."""
    found = group.dataset(store).isel({dim: slice(start, stop)})
    return digest_of(along(found, dim))[0]


def written(store: Store, group: Group, sent: Sent, dim: str, start: int) -> str:
    """The digest of what was written; empty if that is not what came."""
    try:
        found = stored(store, group, dim, start, start + sent.dataset.sizes[dim])
        same = found == sent.content_hash or _close(store, group, sent, dim, start)
    except (ImportError, OverflowError, ValueError):  # of moments that were never meant
        return ""
    return found if same else ""


def _close(store: Store, group: Group, sent: Sent, dim: str, start: int) -> bool:
    """Whether what stands there is what came, as near as a packed array says it."""
    import numpy as np

    found = group.dataset(store)
    for name, variable in along(sent.dataset, dim).items():
        there = found[name]
        tolerance = abs(float(there.encoding.get("scale_factor", 0)))
        here = there.isel({dim: slice(start, start + sent.dataset.sizes[dim])}).variable
        if not tolerance and not {variable.dtype.kind, here.dtype.kind} <= {"f", "c"}:
            same = digest_of({name: variable}) == digest_of({name: here})
        else:
            same = np.allclose(here.values, variable.values, rtol=0, atol=tolerance, equal_nan=True)
        if not same:
            return False
    return True
