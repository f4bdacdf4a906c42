"""A series as one array in patient orientation, with its spacing in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from catchment.core.errors import Invalid
from catchment.imaging.codecs import Array, read_frames
from catchment.imaging.compress import header_of

TOLERANCE = 0.01  # of the mean distance of slices, by which one may differ; of direction cosines


@dataclass(frozen=True, slots=True)
class Volume:
    """Rescaled values (Hounsfield units for CT), and where they are in the patient.

    Its axes are those of the patient, as near as the slices lie to them: from the feet to the head,
    from front to back, from right to left.

    Attributes:
        array: values by z, y and x.
        spacing: millimetres from one to the next, along each axis.
        origin: place of the first value, x, y, z in the patient's coordinates (LPS), in mm.
        directions: unit vectors along the axes in these coordinates, one a row.
    """

    array: Array
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    directions: Array


class _Slice(NamedTuple):
    position: Array
    pixels: Array


def volume(files: Sequence[bytes]) -> Volume:
    """The volume of the files of one series: of one frame each, parallel, evenly spaced.

    Invalid (kind ``no-volume``) says what keeps them from being one.
    """
    if not files:
        raise _no("there are no images")
    headers = [header_of(data) for data in files]
    orientation = _numbers(headers[0], 0x00200037, 6)
    spacing = _numbers(headers[0], 0x00280030, 2)
    columns, rows = orientation[:3], orientation[3:]
    normal = np.cross(columns, rows)
    slices = []
    for data, header in zip(files, headers, strict=True):
        if not np.allclose(_numbers(header, 0x00200037, 6), orientation, atol=TOLERANCE):
            raise _no("its images are not parallel")
        if not np.allclose(_numbers(header, 0x00280030, 2), spacing, rtol=1e-4):
            raise _no("its images have several pixel spacings")
        frames = [frame.pixels for frame in read_frames(data)]
        if len(frames) != 1 or frames[0].ndim != 2:
            raise _no("an image has several frames or colours")
        slices.append(_Slice(_numbers(header, 0x00200032, 3), _rescaled(frames[0], header)))
    slices.sort(key=lambda one: float(one.position @ normal))
    if len({one.pixels.shape for one in slices}) != 1:
        raise _no("its images have several sizes")
    return _turned(
        np.stack([one.pixels for one in slices]),
        (_distance(slices, normal, headers[0]), float(spacing[0]), float(spacing[1])),
        slices[0].position,
        np.stack([normal, rows, columns]),
    )


def _turned(array: Array, spacing: Sequence[float], origin: Array, directions: Array) -> Volume:
    """The same values with axes in the order, and of the sign, of the patient's z, y and x."""
    left, order = [0, 1, 2], []
    for axis in (2, 1, 0):
        nearest = max(left, key=lambda own: abs(float(directions[own, axis])))
        left.remove(nearest)
        order.append(nearest)
    array, directions = array.transpose(order), directions[order]
    spacing = [spacing[own] for own in order]
    for own, axis in enumerate((2, 1, 0)):
        if directions[own, axis] < 0:
            origin = origin + directions[own] * spacing[own] * (array.shape[own] - 1)
            array, directions[own] = np.flip(array, own), -directions[own]
    return Volume(
        np.ascontiguousarray(array),
        (spacing[0], spacing[1], spacing[2]),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        directions,
    )


def _distance(slices: Sequence[_Slice], normal: Array, header: Any) -> float:
    if len(slices) == 1:
        found = header.values(0x00180050)
        return float(found[0]) if found and isinstance(found[0], int | float) else 1.0
    gaps = np.diff([float(one.position @ normal) for one in slices])
    if gaps.min() <= 0 or np.ptp(gaps) > TOLERANCE * gaps.mean():
        raise _no("slices are missing, or there are several at one place")
    return float(gaps.mean())


def _rescaled(pixels: Array, header: Any) -> Array:
    slope, intercept = header.values(0x00281053), header.values(0x00281052)
    if not slope and not intercept:
        return pixels
    factor, offset = (slope or [1.0])[0], (intercept or [0.0])[0]
    return (pixels * np.float32(factor) + np.float32(offset)).astype(np.float32)


def _numbers(header: Any, tag: int, count: int) -> Array:
    found = header.values(tag)
    if not found or len(found) != count or not all(isinstance(x, int | float) for x in found):
        raise _no("an image does not say where it is in the patient")
    return np.array(found, np.float64)


def _no(why: str) -> Invalid:
    return Invalid(f"the series is no volume: {why}", kind="no-volume")
