"""Other ways of appending a session, re-stated as their users write them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

Append = Callable[["xr.Dataset", Path], None]
WINDOWS = 200  # to which the ways without ragged sessions pad


def padded(session: xr.Dataset) -> xr.Dataset:
    """A session as the ways that know no ragged ones want it."""
    dataset = session.drop_vars("time").pad(time=(0, WINDOWS - session.sizes["time"]))
    return dataset.expand_dims(session=[session.attrs["session_id"]])


def append_dim(session: xr.Dataset, path: Path) -> None:
    """Xarray's bare ``append_dim``: no check, no atomicity, nothing made durable."""
    new = padded(session)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.exists():
            new.to_zarr(path, append_dim="session", consolidated=True)
        else:
            new.to_zarr(path, mode="w", consolidated=True)


def groups(session: xr.Dataset, path: Path) -> None:
    """One group for each session, and the metadata of all consolidated."""
    import zarr

    name = session.attrs["session_id"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session.drop_vars("time").to_zarr(path, group=name, mode="w", consolidated=False)
        zarr.consolidate_metadata(str(path))


def icechunk(session: xr.Dataset, path: Path) -> None:
    """A commit of Icechunk for each session."""
    from icechunk import Repository, local_filesystem_storage, set_logs_filter
    from icechunk.xarray import to_icechunk

    set_logs_filter("error")
    storage = local_filesystem_storage(str(path))
    first = not path.exists()
    repository = Repository.create(storage) if first else Repository.open(storage)
    writable = repository.writable_session("main")
    to_icechunk(padded(session), writable, append_dim=None if first else "session")
    writable.commit(session.attrs["session_id"])


def seed(session: xr.Dataset, path: Path) -> None:
    """The proposal's algorithm, made safe: concatenate lazily, write beside, then exchange."""
    import xarray as xr

    new, beside = padded(session), path.with_suffix(".new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not path.exists():
            new.to_zarr(path, mode="w", consolidated=True)
            return
        existing = xr.open_zarr(path, chunks="auto")
        combined = xr.concat([existing, new.chunk(session=1)], dim="session", join="exact")
        sizes = [v.chunksizes["session"][0] for v in existing.variables.values() if v.chunks]
        combined = combined.chunk(session=max(sizes))
        for variable in combined.variables.values():
            variable.encoding.clear()
        combined.to_zarr(beside, mode="w", consolidated=True)
    shutil.rmtree(path)
    beside.rename(path)


WAYS: dict[str, Append] = {
    "append_dim": append_dim,
    "groups": groups,
    "icechunk": icechunk,
    "seed": seed,
}
