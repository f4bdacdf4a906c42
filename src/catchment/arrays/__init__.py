"""Sessions append to a Zarr store that only grows.

``append`` puts a session into a store, ``open`` reads what is there, ``windows`` is an index of
(session, window) for training. None of them needs a workspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.api import Where
    from catchment.arrays.model import Outcome

__all__ = ["append", "open"]


def append(dataset: xr.Dataset | xr.DataTree, store: Where, **options: Any) -> Outcome:
    """Append a session; see :func:`catchment.arrays.api.append`. Loads nothing until then."""
    from catchment.arrays import api

    return api.append(dataset, store, **options)


def open(store: Where, **options: Any) -> xr.Dataset:  # noqa: A001 - as files are
    """The sessions of a store, lazily; see :func:`catchment.arrays.api.open_sessions`."""
    from catchment.arrays import api

    return api.open_sessions(store, **options)
