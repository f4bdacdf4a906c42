"""Frames as pictures of eight bits: rescale, window and colours as PS3.3 C.11 says, by table."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from catchment.imaging.codecs import Array, CannotDecode, Frame, Shape, stored_only
from catchment.imaging.functional import Frames

QUALITY = 90  # of JPEG
TABLE = 1 << 16


class Window(NamedTuple):
    """How stored values become grey.

    Attributes:
        center, width: of the window, in rescaled values; None: from the least to the greatest.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.
        inverse: small values are bright.
    """

    slope: float = 1.0
    intercept: float = 0.0
    center: float | None = None
    width: float | None = None
    function: str = "LINEAR"
    inverse: bool = False


def window_of(told: Frames, frame: int = 0) -> Window:
    """The first window of a frame, with its rescaling."""

    def real(tag: int) -> float | None:
        found = told.values(tag, frame)
        value = found[0] if found else None
        return float(value) if isinstance(value, int | float) else None

    def text(tag: int) -> str:
        found = told.values(tag, frame)
        return str(found[0]) if found else ""

    slope = real(0x00281053)
    inverse = text(0x00280004) == "MONOCHROME1" or text(0x20500020) == "INVERSE"
    function = text(0x00281056) or "LINEAR"
    width = real(0x00281051)
    least = 1.0 if function == "LINEAR" else 0.0
    good = width is not None and (width >= least if function == "LINEAR" else width > least)
    return Window(
        1.0 if slope in (None, 0.0) else slope,
        real(0x00281052) or 0.0,
        real(0x00281050) if good else None,
        width if good else None,
        function,
        inverse,
    )


def grey(pixels: Array, shape: Shape, window: Window) -> Array:
    """Stored values of one frame as eight bits."""
    if pixels.dtype.itemsize <= 2 and pixels.dtype.kind in "iu":
        if window.center is None:
            low, high = _extremes(stored_only(pixels, shape))
            window = _spanning(window, low, high)
        table = _table(window, min(shape.stored, 16), shape.signed)
        return table[
            pixels.astype(np.uint16 if pixels.dtype.kind == "u" else np.int16, copy=False).view(
                np.uint16
            )
        ]
    values = pixels.astype(np.float64)
    if window.center is None:
        low, high = _extremes(values[np.isfinite(values)])
        window = _spanning(window, low, high)
    return _eight(np.nan_to_num(values * window.slope + window.intercept), window)


def _extremes(values: Array) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _spanning(window: Window, low: float, high: float) -> Window:
    """The window from one stored value to the other."""
    ends = sorted((low * window.slope + window.intercept, high * window.slope + window.intercept))
    width = max(ends[1] - ends[0], 1e-9)
    return window._replace(center=(ends[0] + ends[1]) / 2, width=width, function="LINEAR_EXACT")


@lru_cache(64)
def _table(window: Window, stored: int, signed: bool) -> Array:  # noqa: FBT001 - part of the key
    """Eight bits for each of the 65,536 patterns of 16 bits."""
    values = np.arange(TABLE, dtype=np.int64) & ((1 << stored) - 1)
    if signed:
        half = 1 << (stored - 1)
        values = (values ^ half) - half
    made = _eight(values * window.slope + window.intercept, window)
    made.setflags(write=False)
    return made


def _eight(values: Array, window: Window) -> Array:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, rounded to the nearest of 0 to 255."""
    center, width = window.center or 0.0, window.width or 1.0
    if window.function == "SIGMOID":
        scaled = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif window.function == "LINEAR_EXACT":
        scaled = (values - center) / width + 0.5
    else:
        scaled = (
            (values - (center - 0.5)) / (width - 1) + 0.5
            if width > 1
            else (values > center - 0.5).astype(np.float64)
        )
    made = (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)
    return 255 - made if window.inverse else made


def picture(frame: Frame, shape: Shape, window: Window, data: bytes) -> Array:
    """Eight bits a sample: grey (rows, columns) or RGB (rows, columns, 3)."""
    pixels = frame.pixels
    if frame.photometric == "PALETTE COLOR":
        return _palette(pixels, data)
    if pixels.ndim == 2:
        return grey(pixels, shape, window)
    if frame.photometric.startswith("YBR"):
        from pydicom.pixels.processing import convert_color_space

        pixels = convert_color_space(_to_eight(pixels, shape), "YBR_FULL", "RGB")
    return _to_eight(pixels, shape)


def _to_eight(pixels: Array, shape: Shape) -> Array:
    if pixels.dtype == np.uint8:
        return pixels
    return (pixels.astype(np.int64) >> max(shape.stored - 8, 0)).clip(0, 255).astype(np.uint8)


def _palette(pixels: Array, data: bytes) -> Array:
    import pydicom
    from pydicom.pixels.processing import apply_color_lut

    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    made = np.asarray(apply_color_lut(pixels, dataset))
    return (made >> 8).astype(np.uint8) if made.dtype.itemsize > 1 else made


def jpeg(pixels: Array) -> bytes:
    """The picture as JPEG. CannotDecode (``too-large``) where JPEG has no room for it."""
    from PIL import Image

    if max(pixels.shape[:2]) > 65_500:
        raise CannotDecode("too-large")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def sheet(pictures: list[Array], tile: int = 192, across: int = 6) -> bytes:
    """Pictures side by side, as PNG."""
    from PIL import Image

    rows = max(1, -(-len(pictures) // across))
    canvas = Image.new("RGB", (tile * min(across, max(len(pictures), 1)), tile * rows))
    for number, pixels in enumerate(pictures):
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        image.thumbnail((tile, tile))
        left, top = tile * (number % across), tile * (number // across)
        canvas.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()
