"""Datasets in files, as commands take them: NetCDF, or a Zarr store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from catchment.arrays import icechunk_store
from catchment.arrays.zarr_store import CoreStore
from catchment.core.errors import Invalid, NotFound
from catchment.core.names import shown
from catchment.core.safe import Limits, SafePool
from catchment.core.safe_child import with_pandas
from catchment.core.store import open_store

if TYPE_CHECKING:
    import xarray as xr

NETCDF = (".nc", ".nc4", ".cdf", ".h5", ".hdf5")
LEAVES = 5  # that a hint names


@contextmanager
def dataset(
    url: str, limits: Limits | None = None, *, group: str = "", **options: str
) -> Iterator[xr.Dataset]:
    """The dataset at a URL.

    NetCDF is read whole by a child process under limits; Zarr lazily, chunk by chunk. ``group`` is
    a leaf of a tree.

    Raises:
        NotFound: if there is nothing, or no such leaf.
        Invalid: kind ``bad-dataset`` if it is no dataset, or a tree of which no leaf is named;
            those of readers that die.
    """
    folder, _, name = url.rstrip("/").rpartition("/")
    if name.endswith(NETCDF):
        path = open_store(folder, **options).path(name)
        if path is None:
            raise NotFound(f"there is no file {name}", hint="name a file on this machine")
        with SafePool(1, **(limits or Limits())._asdict()) as pool:
            yield pool.submit(_load, str(path), group).result()
        return
    import xarray as xr

    store = open_store(url, **options)
    if icechunk_store.is_there(store):
        yield icechunk_store.IcechunkStore(store).dataset()
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # metadata need not be consolidated
            found = xr.open_zarr(CoreStore(store), group=group or None)
    except (FileNotFoundError, KeyError):
        leaf = f" with a group {shown(group)}" if group else ""
        raise NotFound(
            f"there is no Zarr store{leaf} at {url}", hint="name a .nc file or a Zarr store"
        ) from None
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"{name} cannot be read as a dataset ({type(error).__name__})",
            kind="bad-dataset",
            hint="it must open in xarray.open_zarr",
        ) from None
    yield found


def _load(path: str, group: str) -> Any:
    """A NetCDF file in memory; runs in a child process."""
    with_pandas()
    import xarray as xr

    try:
        with xr.open_dataset(path, group=group or None) as found:
            loaded = found.load()
    except (OSError, TypeError, ValueError) as error:
        if group and (leaves := _leaves(path)):
            raise NotFound(
                f"the file has no group {shown(group)}", hint=f"--group names a leaf: {leaves}"
            ) from None
        raise Invalid(
            f"the file cannot be read as NetCDF ({type(error).__name__})",
            kind="bad-dataset",
            hint="it must open in xarray.open_dataset",
        ) from None
    if not loaded.data_vars and (leaves := _leaves(path)):
        raise Invalid(
            "the file is a tree of datasets, and no variable stands at this place",
            kind="bad-dataset",
            hint=f"--group names a leaf: {leaves}",
        )
    return loaded


def _leaves(path: str) -> str:
    """The first groups of a file that have variables; empty where there are none."""
    import xarray as xr

    names: list[str] = []
    with suppress(OSError, TypeError, ValueError):
        for name, found in xr.open_groups(path).items():
            if found.data_vars and name != "/":
                names.append(shown(name.strip("/")))
            found.close()
    return ", ".join(names[:LEAVES])
