"""What people look at in a folder of stores: partitions, sessions, signals made small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from catchment.arrays import catalog, read
from catchment.arrays.capability import output_prefix
from catchment.arrays.content import CLOCK, type_of
from catchment.arrays.flat import Flat
from catchment.arrays.foreign import kind_of
from catchment.arrays.model import Status
from catchment.arrays.stack import Stack
from catchment.arrays.transform.sinks import below
from catchment.core.errors import Invalid, NotFound
from catchment.core.store import Store
from catchment.core.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

MOST_POINTS = 2000  # of a line, after it was made small
MOST_CHANNELS = 16  # lines at a time
BINS = 20
SAMPLE = "sample"  # how the name of a dimension within windows ends


class Part(NamedTuple):
    """What of a signal is looked at.

    Attributes:
        start, stop: fractions of the session, 0 to 1.
        first: number of the first channel.
    """

    variable: str
    start: float = 0.0
    stop: float = 1.0
    first: int = 0
    points: int = 600


def folder_of(workspace: Workspace, name: str) -> Store:
    """Where the stores of ``[arrays.<name>]`` are."""
    return below(workspace.store, output_prefix(name).rstrip("/"))


def partitions(folder: Store) -> list[dict[str, Any]]:
    """Each store with its sessions and windows, at the commit that readers see."""
    told = []
    for key in catalog.keys(folder):
        commit, fingerprint, chunks, entries = catalog.look(below(folder, key))
        alive = [one for one in entries if one.status is Status.PRESENT]
        told.append(
            {
                "store": key,
                "commit": commit,
                "fingerprint": fingerprint,
                "sessions": len(alive),
                "withdrawn": len(entries) - len(alive),
                "windows": sum(one.row.n_windows for one in alive),
                "chunks": chunks,
                "n_windows": histogram([one.row.n_windows for one in alive]),
            }
        )
    return told


def sessions(folder: Store, store: str, after: int = -1, limit: int = 50) -> dict[str, Any]:
    """Sessions of a store by slot, those that are gone too; ``next`` is None at the end."""
    commit, _, _, entries = catalog.look(_store(folder, store))
    later = [one for one in entries if one.slot > after]
    page = later[:limit]
    return {
        "store": store,
        "commit": commit,
        "sessions": [
            {
                "slot": one.slot,
                "session": one.row.session if one.status is Status.PRESENT else "",
                "status": one.status.name.lower(),
                "site": one.row.site,
                "n_windows": one.row.n_windows,
                "start": None if one.row.start != one.row.start else one.row.start,
                "content_hash": one.row.content_hash,
            }
            for one in page
        ],
        "next": page[-1].slot if len(later) > limit else None,
    }


def session(folder: Store, store: str, label: str) -> dict[str, Any]:
    """One session: what can be drawn of it, and its facts. NotFound (kind ``no-session``)."""
    found = _session(folder, store, label)
    return {
        "session": label,
        "store": store,
        "signals": [
            {
                "name": str(name),
                "dims": [str(dim) for dim in one.dims],
                "shape": list(one.shape),
                "channels": _channels(found, one),
            }
            for name, one in found.data_vars.items()
            if "time" in one.dims and one.dtype.kind == "f" and str(name) != CLOCK
        ],
        "variables": [
            {"name": str(name), "type": type_of(one), "shape": list(one.shape)}
            for name, one in found.variables.items()
        ],
    }


def signal(folder: Store, store: str, label: str, part: Part) -> dict[str, Any]:
    """Least and greatest value of each stretch, channel by channel: no peak is lost.

    Samples within windows are laid end to end. NaN is a gap. Only the chunks of the stretch that
    is looked at are read.
    """
    import numpy as np

    if not 0 <= part.start < part.stop <= 1:
        raise Invalid("expected 0 <= start < stop <= 1", kind="bad-range")
    found = _session(folder, store, label)
    if part.variable not in found.data_vars or "time" not in found[part.variable].dims:
        raise NotFound("the session has no such signal", kind="no-signal")
    one = found[part.variable]
    names = _channels(found, one)[part.first : part.first + MOST_CHANNELS]
    length = one.sizes["time"]
    low = min(int(part.start * length), max(length - 1, 0))
    high = max(low + 1, round(part.stop * length))
    across, within = _dims(one)
    one = one.isel(time=slice(low, high))
    lines = np.asarray(one.transpose(*across, "time", *within).values, dtype="float64")
    samples = int(np.prod([one.sizes[dim] for dim in ("time", *within)]))
    lines = lines.reshape(-1, samples)[part.first : part.first + MOST_CHANNELS]
    points = min(part.points, MOST_POINTS)
    clock = _clock(found, low, high)
    return {
        "variable": part.variable,
        "samples": int(lines.shape[1]),
        "from": clock[0],
        "to": clock[1],
        "channels": [
            {"name": name, **envelope(line, points)}
            for name, line in zip(names, lines, strict=True)
        ],
    }


def envelope(line: np.ndarray, points: int) -> dict[str, list[float | None]]:
    """The least and the greatest of each of so many stretches; None where all of it is NaN."""
    import numpy as np

    count = line.size
    if not count:
        return {"low": [], "high": []}
    starts = np.unique(np.linspace(0, count, min(points, count), endpoint=False).astype(np.int64))
    good = np.isfinite(line)
    low = np.minimum.reduceat(np.where(good, line, np.inf), starts)
    high = np.maximum.reduceat(np.where(good, line, -np.inf), starts)
    return {
        "low": [None if not np.isfinite(v) else float(v) for v in low],
        "high": [None if not np.isfinite(v) else float(v) for v in high],
    }


def histogram(values: Sequence[int], bins: int = BINS) -> list[dict[str, int]]:
    """How many values are in each of some equal ranges; both ends belong to the range."""
    if not values:
        return []
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // bins))
    counts: dict[int, int] = {}
    for value in values:
        counts[(value - low) // width] = counts.get((value - low) // width, 0) + 1
    last = (high - low) // width
    return [
        {"from": low + n * width, "to": low + (n + 1) * width - 1, "count": counts.get(n, 0)}
        for n in range(last + 1)
    ]


def _store(folder: Store, store: str) -> Store:
    if store not in set(catalog.keys(folder)):
        raise NotFound("there is no such store", kind="no-store", hint="catchment arrays list")
    return below(folder, store)


def _session(folder: Store, store: str, label: str) -> xr.Dataset:
    """One session, without padding."""
    place = _store(folder, store)
    if kind_of(place) == "group":
        return Flat(Stack(place)).session(label)
    return read.session(read.dataset(place), label)


def _dims(one: xr.DataArray) -> tuple[list[str], list[str]]:
    """The dimensions that tell channels apart, and those of samples within a window."""
    others = [str(dim) for dim in one.dims if dim != "time"]
    within = [dim for dim in others if dim.endswith(SAMPLE)]
    return [dim for dim in others if dim not in within], within


def _channels(found: xr.Dataset, one: xr.DataArray) -> list[str]:
    """A name for each channel, in the order of the values."""
    from itertools import product

    across, _ = _dims(one)
    labels = [
        [str(value) for value in found[dim].values]
        if dim in found.coords
        else [str(number) for number in range(one.sizes[dim])]
        for dim in across
    ]
    return ["/".join(parts) for parts in product(*labels)] if across else [str(one.name)]


def _clock(found: xr.Dataset, low: int, high: int) -> tuple[float | None, float | None]:
    """When the stretch begins and ends, in ms since 1970 UTC, where that is told."""
    if CLOCK not in found.variables or found[CLOCK].dims != ("time",):
        return None, None
    values = found[CLOCK].values[low:high]
    known = values[values == values]  # noqa: PLR0124 - not NaN
    return (float(known[0]), float(known[-1])) if known.size else (None, None)
