"""Headers by pydicom, for what the scanner leaves: slower, the same facts in the same form."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_SET
from typing import Any, BinaryIO

from catchment.imaging import values
from catchment.imaging.scan import Pixels, pixels_json, read_meta
from catchment.imaging.walk import (
    BIG_ENDIAN,
    CHARSET,
    DEFLATED,
    PIXELS,
    UNDEFINED,
    BadFile,
    Unscannable,
)

META_BYTES = 64 << 10  # within which the meta information ends
MOST_INFLATED = 512 << 20  # bytes that a deflated dataset may become


class SlowHeader:
    """What :class:`catchment.imaging.scan.Header` is, from a pydicom dataset."""

    def __init__(self, size: int, syntax: str | None, notes: list[str]) -> None:
        self.size = size
        self.syntax = syntax
        self.notes = notes
        self.pixels: Pixels | None = None
        self.elements: dict[int, dict[str, Any]] = {}

    def values(self, tag: int) -> list[Any] | None:
        """The values of an element of the top level in DICOM JSON; None if it is not there."""
        found = self.elements.get(tag)
        return None if found is None else found.get("Value", [])

    def to_json(self, leave: frozenset[int] = frozenset()) -> dict[str, Any]:
        """The dataset in the DICOM JSON model, without the elements to leave out."""
        made = {f"{tag:08X}": one for tag, one in self.elements.items() if tag not in leave}
        if self.pixels is not None:
            made[f"{self.pixels.tag:08X}"] = pixels_json(self.pixels)
        return made


def read_slowly(file: BinaryIO, size: int) -> SlowHeader:
    """The header of a file by pydicom.

    Raises BadFile for what is no DICOM or too large; and whatever pydicom raises.
    """
    import pydicom

    with quiet():
        deflated = _deflated(file)
        file.seek(0, SEEK_SET)
        dataset = pydicom.dcmread(file, stop_before_pixels=not deflated, force=True)
        meta = getattr(dataset, "file_meta", None) or {}
        syntax = str(meta["TransferSyntaxUID"].value) if "TransferSyntaxUID" in meta else None
        header = SlowHeader(size, syntax, [])
        if syntax is None:
            header.notes.append("no-file-meta")
        if not dataset.preamble:
            header.notes.append("no-preamble")
        if 0x00041220 in dataset:
            raise BadFile("media-directory")
        if deflated:
            for tag in PIXELS & dataset.keys():
                raw = dataset.get_item(tag)
                header.pixels = Pixels(tag, str(raw.VR), 0, len(raw.value or b""))
                del dataset[tag]
        else:
            header.pixels = _pixels(file, syntax)
            _check_end(file, dataset, header.pixels, size)
        for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset decodes its elements
            header.elements[int(tag)] = _element(dataset, tag)
    return header


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: their text may hold a patient's values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def syntax_of(dataset: Any) -> str:
    """The transfer syntax of a file that does not say it: the one that pydicom read it with."""
    implicit, little = dataset.original_encoding
    if implicit:
        return "1.2.840.10008.1.2"
    return "1.2.840.10008.1.2.1" if little else BIG_ENDIAN


def _deflated(file: BinaryIO) -> bool:
    """Whether the dataset is deflated; BadFile if it would become too large."""
    file.seek(0, SEEK_SET)
    try:
        at, syntax = read_meta(file.read(META_BYTES))
    except (BadFile, Unscannable):  # nothing says that it is deflated
        return False
    if syntax not in DEFLATED:
        return False
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    total, data = 0, b"\0"
    file.seek(at, SEEK_SET)
    while data and not inflate.eof:
        data = inflate.unconsumed_tail or file.read(1 << 20)
        total += len(inflate.decompress(data, 1 << 24))
        if total > MOST_INFLATED:
            raise BadFile("deflated-too-large")
    return True


def _check_end(file: BinaryIO, dataset: Any, pixels: Pixels | None, size: int) -> None:
    """BadFile where pydicom stopped before the end: it says so to its log only."""
    if pixels is not None:
        return
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset decodes its elements
        raw = dataset.get_item(tag)
        length = getattr(raw, "length", UNDEFINED)
        if length != UNDEFINED and len(raw.value or b"") < length:
            raise BadFile("header-truncated")
    if file.tell() < size and any(file.read(size - file.tell())):
        raise BadFile("header-broken")


def _pixels(file: BinaryIO, syntax: str | None) -> Pixels | None:
    """The element that pydicom stopped before."""
    at = file.tell()
    head = file.read(12)
    file.seek(at, SEEK_SET)
    order = ">" if syntax == BIG_ENDIAN else "<"
    if len(head) < 8:
        return None
    group, number = struct.unpack(f"{order}HH", head[:4])
    tag = group << 16 | number
    if tag not in PIXELS:
        return None
    if not (head[4:6].isalpha() and head[4:6].isupper()):
        vr, start, (length,) = "OW", at + 8, struct.unpack("<I", head[4:8])
    else:
        vr, start = head[4:6].decode("latin_1"), at + 12
        (length,) = struct.unpack(f"{order}I", head[8:12])
    return Pixels(tag, vr, start, None if length == UNDEFINED else length)


def _element(dataset: Any, tag: Any) -> dict[str, Any]:
    """One element in DICOM JSON; as bytes where pydicom cannot say it."""
    raw = dataset.get_item(tag)
    try:
        found = _plain(dataset[tag].to_json_dict(lambda _: f"#element={tag:08X}", 1024))
        return dict(found)
    except Exception:  # noqa: BLE001 - what a value of any form makes of pydicom
        value = raw.value if isinstance(raw.value, bytes) else b""
        if int(tag) == CHARSET or len(value) > values.BULK_BYTES:
            return {"vr": "UN"}
        return values.binary("UN", value, 0)


def _plain(value: Any) -> Any:
    """The same in the types of JSON."""
    match value:
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case bool() | None:
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else values.not_finite(value)
        case _:
            return str(value)
