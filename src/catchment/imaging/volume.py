"""A series as one array in patient orientation, with its spacing in millimetres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from catchment.core.errors import Invalid
from catchment.imaging.codecs import Array, read_frames, shape_of, stored_only
from catchment.imaging.compress import header_of
from catchment.imaging.functional import Frames

BESIDE = 0.5  # of a pixel, by which a slice may stand beside the first
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
    orientation: Array
    spacing: Array
    thickness: float | None
    pixels: Array


def volume(files: Sequence[bytes]) -> Volume:
    """The volume of the files of one series, parallel and evenly spaced.

    Files may have a frame each, or many with functional groups that say where each one is
    (PS3.3 C.7.6.16), also where a series is split into several of these.

    Invalid (kind ``no-volume``) says what keeps them from being one.
    """
    slices = [one for data in files for one in _slices(data)]
    if not slices:
        raise _no("there are no images")
    first = slices[0]
    columns, rows = first.orientation[:3], first.orientation[3:]
    normal = np.cross(columns, rows)
    for one in slices:
        if not np.allclose(one.orientation, first.orientation, atol=TOLERANCE):
            raise _no("its images are not parallel")
        if not np.allclose(one.spacing, first.spacing, rtol=1e-4):
            raise _no("its images have several pixel spacings")
    slices.sort(key=lambda one: float(one.position @ normal))
    if len({one.pixels.shape for one in slices}) != 1:
        raise _no("its images have several sizes")
    moved = np.array([one.position - slices[0].position for one in slices])
    beside = moved - np.outer(moved @ normal, normal)
    if np.abs(beside @ np.stack([rows, columns], 1)).max() > BESIDE * first.spacing.min():
        raise _no("its slices do not stand straight behind each other (a tilted gantry)")
    return _turned(
        np.stack([one.pixels for one in slices]),
        (_distance(slices, normal), float(first.spacing[0]), float(first.spacing[1])),
        slices[0].position,
        np.stack([normal, rows, columns]),
    )


def _slices(data: bytes) -> Iterator[_Slice]:
    """Each frame of a file, with its place."""
    header = header_of(data)
    told, shape = Frames(header), shape_of(header)
    pixels = [stored_only(frame.pixels, shape) for frame in read_frames(data)]
    if len(pixels) > 1 and told.told != len(pixels):
        raise _no(f"an image has {len(pixels)} frames and says of {told.told} where they are")
    for number, frame in enumerate(pixels):
        if frame.ndim != 2:
            raise _no("an image has colours")
        thickness = told.values(0x00180050, number)
        yield _Slice(
            _numbers(told.values(0x00200032, number), 3),
            _numbers(told.values(0x00200037, number), 6),
            _numbers(told.values(0x00280030, number), 2),
            float(thickness[0]) if thickness and _is_number(thickness[0]) else None,
            _rescaled(frame, told, number),
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


def _distance(slices: Sequence[_Slice], normal: Array) -> float:
    if len(slices) == 1:
        return slices[0].thickness or 1.0
    gaps = np.diff([float(one.position @ normal) for one in slices])
    if gaps.min() <= 0 or np.ptp(gaps) > TOLERANCE * gaps.mean():
        raise _no("slices are missing, or there are several at one place")
    return float(gaps.mean())


def _rescaled(pixels: Array, told: Frames, number: int) -> Array:
    slope, intercept = told.values(0x00281053, number), told.values(0x00281052, number)
    if not slope and not intercept:
        return pixels
    factor, offset = (slope or [1.0])[0], (intercept or [0.0])[0]
    if not (_is_number(factor) and _is_number(offset)):
        raise _no("an image does not say what its values mean")
    return (pixels * np.float32(factor) + np.float32(offset)).astype(np.float32)


def _numbers(found: list[Any] | None, count: int) -> Array:
    if not found or len(found) != count or not all(map(_is_number, found)):
        raise _no("an image does not say where it is in the patient")
    return np.array(found, np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _no(why: str) -> Invalid:
    return Invalid(f"the series is no volume: {why}", kind="no-volume")
