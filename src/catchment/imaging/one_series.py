"""One series of a snapshot: its pictures, its volume."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np

from catchment.core.errors import Invalid, NotFound
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
    """Pictures of a series on one sheet, PNG: evenly chosen where there are too many.

    Invalid (kind ``cannot-decode``) where there is nothing to see.
    """
    keys = Series(snapshot, uid).keys
    found = executor.submit(_sheet, snapshot.store, keys).result()
    if isinstance(found, str):
        raise not_shown(found)
    return found


def not_shown(why: str) -> Invalid:
    """The error of a picture that there is none of."""
    return Invalid(
        f"the picture cannot be shown: {why}",
        kind="cannot-decode",
        hint="catchment imaging export writes the files themselves",
    )


def _volume(store: Store, keys: Sequence[str]) -> Volume:
    from catchment.imaging.codecs import CannotDecode

    try:
        return volume([store.read(key) for key in keys])
    except CannotDecode as error:
        raise Invalid(f"the series is no volume: {error}", kind="no-volume") from None


def _sheet(store: Store, keys: Sequence[str]) -> bytes | str:
    """The sheet, or why nothing can be shown. An image that cannot be is an empty place on it."""
    from catchment.imaging.compress import reason_of
    from catchment.imaging.previews import sheet

    room = TILES if len(keys) == 1 else 1
    shown: list[list[Array]] = []
    why = ""
    for key in keys[:: max(1, -(-len(keys) // TILES))]:
        data = store.read(key)
        try:
            shown.append(_pictures(data, room))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - what pixels of any form make of decoders
            shown.append([])
            why = why or reason_of(error)
    if not any(shown):
        return why or "no-pixels"
    return sheet([one for some in shown for one in some or [np.zeros((1, 1), np.uint8)]])


def _pictures(data: bytes, room: int) -> list[Array]:
    """So many frames of a file, evenly chosen; the middle one where there is room for one."""
    from catchment.imaging.codecs import read_frames, shape_of
    from catchment.imaging.compress import header_of
    from catchment.imaging.functional import Frames
    from catchment.imaging.previews import picture, window_of

    header = header_of(data)
    shape, told = shape_of(header), Frames(header)
    numbers = range(0, shape.frames, max(1, -(-shape.frames // room)))
    wanted = [shape.frames // 2] if room == 1 else list(numbers)[:room]
    return [
        picture(frame, shape, window_of(told, frame.number), data)
        for frame in read_frames(data, wanted)
    ]
