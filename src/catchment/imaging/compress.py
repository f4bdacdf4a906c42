"""Images become previews and lossless copies, in child processes; a task is some files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from catchment.core.errors import CatchmentError, Conflict
from catchment.core.store import Store
from catchment.imaging import layout
from catchment.imaging.read import Stored
from catchment.imaging.scanning import in_children
from catchment.imaging.schemas import compressed_schema

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import pyarrow as pa

CHUNK = 4  # files of a task
LARGEST = 512 << 20  # bytes of a file that is decoded


class Wanted(NamedTuple):
    """What is to be made of each image.

    Attributes:
        previews: ``none``, ``first``, ``middle`` or ``all`` frames.
        archive: ``htj2k`` or ``jpegls``; empty: no lossless copies.
    """

    previews: str = "none"
    archive: str = ""

    def __bool__(self) -> bool:
        return self.previews != "none" or bool(self.archive)


class Image(NamedTuple):
    """One image to compress."""

    file: Stored
    uid: str
    name: str  # of the aggregate


Row = dict[str, Any]


def compress_all(
    executor: Executor, store: Store, images: Sequence[Image], wanted: Wanted
) -> pa.Table:
    """Rows of ``compressed_images``; an image that cannot be decoded has one that says why."""
    import pyarrow as pa

    rows: list[Row] = []
    for result in in_children(executor, partial(compress, store, wanted), images, chunk=CHUNK):
        if isinstance(result, list):
            rows += result
        else:
            rows.append(_failed(*result))
    return pa.Table.from_pylist(rows, compressed_schema())


def compress(store: Store, wanted: Wanted, images: Sequence[Image]) -> list[Row]:
    """The same, of a few images; a task for a child process."""
    rows: list[Row] = []
    for image in images:
        try:
            made = list(_compress_one(store, wanted, image))
        except (MemoryError, CatchmentError):  # a store that is away says nothing of an image
            raise
        except Exception as error:  # noqa: BLE001 - what pixels of any form make of decoders
            made = [_failed(image, reason_of(error))]
        rows += made
    return rows


def reason_of(error: Exception) -> str:
    """Why an image could not be decoded, in a word."""
    from catchment.imaging.codecs import CannotDecode

    return str(error) if isinstance(error, CannotDecode) else "decoder-failed"


def _failed(image: Image, reason: str) -> Row:
    return {"sha256": image.file.digest, "SOPInstanceUID": image.uid, "compress_error": reason}


def _compress_one(store: Store, wanted: Wanted, image: Image) -> Iterator[Row]:
    from catchment.imaging.codecs import CannotDecode, lossless, read_frames, shape_of
    from catchment.imaging.functional import Frames
    from catchment.imaging.previews import jpeg, picture, window_of

    if image.file.size > LARGEST:
        raise CannotDecode("too-large")
    data = store.read(image.file.key)
    header = header_of(data)
    shape, told = shape_of(header), Frames(header)
    previewed = set(chosen(wanted.previews, shape.frames))
    needed = None if wanted.archive else sorted(previewed)
    for frame in read_frames(data, needed):
        if frame.number in previewed:
            window = window_of(told, frame.number)
            made = jpeg(picture(frame, shape, window, data))
            row = _row(image, frame.number, frame.pixels, "jpeg", window)
            yield row | _put(store, made, partial(layout.preview_key, image.name))
        if wanted.archive:
            copy = lossless(frame.pixels, wanted.archive)
            row = _row(image, frame.number, frame.pixels, wanted.archive, None)
            key = partial(layout.archive_key, image.name, suffix=copy.suffix)
            yield row | _put(store, copy.data, key)


def header_of(data: bytes) -> Any:
    """The header of the bytes of a file, by whichever reader can."""
    import io

    from catchment.imaging.read import slowly
    from catchment.imaging.scan import read_header
    from catchment.imaging.walk import Unscannable

    try:
        return read_header(lambda start, length: data[start : start + length], len(data))
    except Unscannable:
        return slowly(io.BytesIO(data), len(data))


def chosen(previews: str, frames: int) -> range:
    """The numbers of the frames that get previews."""
    match previews:
        case "all":
            return range(frames)
        case "first":
            return range(min(frames, 1))
        case "middle":
            return range(frames // 2, frames // 2 + 1)
    return range(0)


def _row(image: Image, number: int, pixels: Any, made: str, window: Any) -> Row:
    return {
        "sha256": image.file.digest,
        "SOPInstanceUID": image.uid,
        "frame": number,
        "format": made,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "window_center": window and window.center,
        "window_width": window and window.width,
    }


def _put(store: Store, data: bytes, key_of: Callable[[str], str]) -> Row:
    digest = hashlib.sha256(data).hexdigest()
    key = key_of(digest)
    with suppress(Conflict):  # the same picture is there
        store.put(key, data)
    return {"object": key, "object_size": len(data), "object_sha256": digest}
