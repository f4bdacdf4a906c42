"""Sessions append to a Zarr store that only grows.

``append`` puts a session into a store, ``open`` reads what is there, ``windows`` is an index of
(session, window) for training. None of them needs a workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.api import Where
    from catchment.arrays.exporting import Exported
    from catchment.arrays.generations import Rechunked
    from catchment.arrays.model import Outcome
    from catchment.arrays.training import Windows
    from catchment.core.store import Store

__all__ = ["append", "export", "open", "rechunk", "windows"]


def append(dataset: xr.Dataset | xr.DataTree, store: Where, **options: Any) -> Outcome:
    """Append a session; see :func:`catchment.arrays.api.append`. Loads nothing until then."""
    from catchment.arrays import api

    return api.append(dataset, store, **options)


def open(store: Where, **options: Any) -> xr.Dataset:  # noqa: A001 - as files are
    """The sessions of a store, lazily; see :func:`catchment.arrays.api.open_sessions`."""
    from catchment.arrays import api

    return api.open_sessions(store, **options)


def rechunk(store: Where, chunks: Mapping[str, int], **options: Any) -> Rechunked:
    """Give a store other chunks; see :func:`catchment.arrays.api.rechunk`."""
    from catchment.arrays import api

    return api.rechunk(store, chunks, **options)


def windows(store: Where, **options: Any) -> Windows:
    """The windows of a store by number, for training; see :func:`catchment.arrays.api.windows`."""
    from catchment.arrays import api

    return api.windows(store, **options)


def export(store: Where, target: str | PathLike[str] | Store, **options: Any) -> Exported:
    """Windows behind each other in Zarr, NumPy or Parquet; see :func:`.api.export`."""
    from catchment.arrays import api

    return api.export(store, target, **options)
