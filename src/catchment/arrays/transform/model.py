"""What a transform works on and what it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from catchment.core.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

Status = Literal["success", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Session:
    """A recording as it was found; what it holds is not known yet.

    Attributes:
        id: as it will stand in stores and in the ledger: a pseudonym.
        key: of the recording, below the source.
        etag: of the storage; tells only whether something moved.
    """

    id: str
    key: str
    site: str
    size: int
    etag: str
    modified: datetime

    @property
    def version(self) -> str:
        """What changes when the recording does."""
        return f"{self.size}-{self.etag}"


@dataclass(frozen=True)
class Signal:
    """Samples of several channels on one clock.

    Attributes:
        values: (sample, channel).
        times: of each sample, in ms since 1970 UTC, or of the recording's own clock.
        rate: nominal samples per second.
        units: of the values, as UCUM writes them.
    """

    values: np.ndarray
    times: np.ndarray
    rate: float
    labels: Sequence[str]
    units: str


@dataclass(frozen=True)
class Recording:
    """What a reader makes of a file.

    Attributes:
        start: in ms since 1970 UTC; NaN where the file does not tell.
        findings: code, place, message and hint of what is to be known (severity: warning).
    """

    eeg: Signal | None = None
    fnirs: Signal | None = None
    start: float = math.nan
    attributes: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[tuple[str, str, str, str]] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A dataset on its way into a store: what a transform hands to its sink.

    Attributes:
        store_key: of the store, below the destination.
        append_dim: the dimension that grows.
        chunks: of a new store, by dimension; one that is there keeps its own.
        session: what the dataset was made of; None where a transform is called by hand.
    """

    dataset: xr.Dataset
    store_key: str
    append_dim: str = "session"
    chunks: Mapping[str, int] | None = None
    session: Session | None = None


class Copied(NamedTuple):
    """A file of the source that is to stand beside the session's results."""

    key: str  # below the source
    name: str  # below the session's folder


class Uploaded(NamedTuple):
    """A file of the worker's disk that is to stand there."""

    path: str
    name: str


@dataclass
class TransformResult:
    """What became of one session.

    Attributes:
        metadata: plain JSON, kept in the run record; no patient's values.
        zarr_stores: keys or URLs of the stores that the session went to; one that nothing was
            appended to is told.
    """

    status: Status = "success"
    metadata: dict[str, Any] = field(default_factory=dict)
    files_to_copy: Sequence[Copied] = ()
    files_to_upload: Sequence[Uploaded] = ()
    zarr_stores: Sequence[str] = ()
    findings: Sequence[Finding] = ()
