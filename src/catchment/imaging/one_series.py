"""One series of a snapshot: its pictures, its volume."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from catchment.core.errors import NotFound
from catchment.core.executor import open_executor
from catchment.core.store import Store
from catchment.imaging import layout
from catchment.imaging.snapshot import ImagingSnapshot
from catchment.imaging.volume import Volume, volume

if TYPE_CHECKING:
    from catchment.imaging.codecs import Array

TILES = 48  # pictures of a sheet, at most


class Series:
    """The files of one series. They are decoded in a child process, since decoders are native."""

    def __init__(
        self, snapshot: ImagingSnapshot, uid: str, executor: Executor | None = None
    ) -> None:
        columns = ["sha256", "stage_sha256", "InstanceNumber", "SOPInstanceUID"]
        rows = snapshot.find("images", "SeriesInstanceUID", [uid], columns).to_pylist()
        if not rows:
            raise NotFound(
                "the series is not in the snapshot", kind="no-series", hint="catchment imaging show"
            )
        rows.sort(key=lambda row: (row["InstanceNumber"] or 0, row["SOPInstanceUID"]))
        self._store = snapshot.store
        self._executor = executor
        self.keys = [
            layout.staged_key(snapshot.name, row["sha256"], row["stage_sha256"]) for row in rows
        ]

    def volume(self) -> Volume:
        """The series as one array; Invalid (kind ``no-volume``) where it is none."""
        if self._executor is not None:
            return self._executor.submit(_volume, self._store, self.keys).result()
        with open_executor("processes", 1) as executor:
            return executor.submit(_volume, self._store, self.keys).result()


def sheet_of(snapshot: ImagingSnapshot, uid: str, executor: Executor) -> bytes:
    """Pictures of a series on one sheet, PNG: evenly chosen where there are too many."""
    keys = Series(snapshot, uid).keys
    return executor.submit(_sheet, snapshot.store, keys).result()


def _volume(store: Store, keys: Sequence[str]) -> Volume:
    return volume([store.read(key) for key in keys])


def _sheet(store: Store, keys: Sequence[str]) -> bytes:
    from catchment.imaging.codecs import read_frames, shape_of
    from catchment.imaging.compress import header_of
    from catchment.imaging.functional import Frames
    from catchment.imaging.previews import picture, sheet, window_of

    step = max(1, -(-len(keys) // TILES))
    pictures: list[Array] = []
    for key in keys[::step]:
        data = store.read(key)
        header = header_of(data)
        shape, told = shape_of(header), Frames(header)
        room = TILES - len(pictures) if len(keys) == 1 else 1
        numbers = range(0, shape.frames, max(1, -(-shape.frames // room)))
        wanted = list(numbers)[:room] if len(keys) == 1 else [shape.frames // 2]
        pictures += [
            picture(frame, shape, window_of(told, frame.number), data)
            for frame in read_frames(data, wanted)
        ]
    return sheet(pictures)
