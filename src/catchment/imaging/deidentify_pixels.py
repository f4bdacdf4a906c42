"""Pixels of a file that is de-identified: who must look at them, and what is no picture in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from catchment.imaging import deidentify_table as table
from catchment.imaging.profile import Profile
from catchment.imaging.walk import BadFile

_OVERLAYS, _POSITION, _DATA = 0x6000, 0x0102, 0x3000  # group, and elements in it


def check_pictures(dataset: Any, profile: Profile) -> None:
    """BadFile (``burned-in``) where a person should look at the pixels first.

    What a file says is compared without regard to case and blanks: many do not keep to the form.
    """
    sop_class = f"{dataset.get('SOPClassUID') or ''}".strip()
    if "EncapsulatedDocument" in dataset or sop_class.startswith(table.AUDIO):
        raise BadFile("encapsulated-document")
    if "PixelData" not in dataset:
        return
    said = _words(dataset, "BurnedInAnnotation")
    modalities = _words(dataset, "Modality")
    labelled = "YES" in _words(dataset, "SpecimenLabelInImage") or (
        sop_class == table.SLIDES and not _words(dataset, "ImageType").isdisjoint(table.LABELLED)
    )
    doubtful = not modalities.isdisjoint(table.SHOWING) or f"{sop_class}.".startswith(table.SHOWN)
    looked_at = bool(modalities) and modalities <= profile.shown
    if "YES" in said or ((labelled or (doubtful and said != {"NO"})) and not looked_at):
        raise BadFile("burned-in")


def _words(dataset: Any, name: str) -> set[str]:
    """The values of an attribute, in capitals."""
    value = dataset.get(name) or ""
    values = [value] if isinstance(value, str) else list(value)
    return {str(one).strip().upper() for one in values} - {""}


def only_pixels(dataset: Any) -> None:
    """Take out overlays in the bits above the pixels', and bytes behind the last pixel.

    BadFile (``burned-in``) where overlays stand in pixels that are compressed, or in their own
    bits.
    """
    if "PixelData" not in dataset:
        return
    positions = _positions(dataset)
    meta = getattr(dataset, "file_meta", {})
    syntax = meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        if positions:
            raise BadFile("burned-in")
        return
    data = bytes(dataset.PixelData)
    expected = _expected(dataset)
    if expected is not None and len(data) > expected + expected % 2:
        data = data[:expected] + bytes(expected % 2)
    if positions:
        data = _cleared(data, dataset, positions)
    if data != dataset.PixelData:
        dataset.PixelData = data


def _positions(dataset: Any) -> list[int]:
    """Bits of the pixels in which overlays stand."""
    found = []
    for tag in dataset.keys():  # noqa: SIM118 - a dataset's iterator gives elements
        if tag.group & 0xFF00 == _OVERLAYS and tag.element == _POSITION:
            alone = (tag.group << 16 | _DATA) not in dataset
            if alone and (position := int(dataset[tag].value or 0)):
                found.append(position)
    return found


def _expected(dataset: Any) -> int | None:
    """Bytes of the pixels; None where the file does not say."""
    told = [dataset.get(name) for name in ("Rows", "Columns", "BitsAllocated")]
    if not all(told):
        return None
    rows, columns, bits = map(int, told)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    total = rows * columns * bits * samples * int(dataset.get("NumberOfFrames") or 1)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        total = total * 2 // 3
    return (total + 7) // 8


def _cleared(data: bytes, dataset: Any, positions: list[int]) -> bytes:
    allocated = int(dataset.get("BitsAllocated") or 0)
    stored = int(dataset.get("BitsStored") or allocated)
    if allocated not in (8, 16, 32) or not all(stored <= p < allocated for p in positions):
        raise BadFile("burned-in")
    order = "<" if dataset.original_encoding[1] else ">"
    kept = ~sum(1 << position for position in set(positions)) & ((1 << allocated) - 1)
    size = allocated // 8
    whole = len(data) // size * size
    pixels = np.frombuffer(data[:whole], f"{order}u{size}")
    cleared: bytes = (pixels & pixels.dtype.type(kept)).astype(pixels.dtype).tobytes()
    return cleared + data[whole:]
