"""Chunks of our own arrays as bytes: what Zarr would write, without its machinery.

Arrays that this program makes have one pipeline, little-endian bytes or text of any length, then
Zstandard; :mod:`catchment.arrays.document` spells it. A test compares with what Zarr reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from catchment.arrays.document import CODEC


def encode(values: np.ndarray, meta: Mapping[str, Any], shape: Sequence[int]) -> bytes | None:
    """A chunk of that shape, which the values fill up to its edges; None if all of it is fill.

    Zarr reads an absent chunk as fill, so one that is nothing else is not written.
    """
    fill = fill_of(meta)
    text = meta["data_type"] == "string"
    if _is_fill(values, fill, text=text):
        return None
    if values.shape != tuple(shape):
        whole = np.full(shape, fill, dtype=object if text else values.dtype)
        whole[tuple(slice(0, size) for size in values.shape)] = values
        values = whole
    if text:
        data: Any = _texts().encode(np.array(values.reshape(-1), dtype=object))
    else:
        data = np.ascontiguousarray(values)
    return bytes(_zstd().encode(data))


def decode(data: bytes, meta: Mapping[str, Any], shape: Sequence[int]) -> np.ndarray:
    """The values of a chunk; ValueError, RuntimeError or TypeError where it is none."""
    plain = _zstd().decode(data)
    if meta["data_type"] == "string":
        found: np.ndarray = np.asarray(_texts().decode(plain), dtype=object)
    else:
        found = np.frombuffer(plain, dtype=np.dtype(meta["data_type"]).newbyteorder("<"))
    return found.reshape(shape)


def fill_of(meta: Mapping[str, Any]) -> Any:
    """The fill value as a value."""
    fill = meta["fill_value"]
    if isinstance(fill, list):
        return complex(math.nan, math.nan)
    return math.nan if fill == "NaN" else fill


def _is_fill(values: np.ndarray, fill: Any, *, text: bool) -> bool:
    if text:
        return all(value == fill for value in values.reshape(-1))
    if values.dtype.kind in "fc" and math.isnan(abs(fill)):
        # Bit by bit: there are many NaN, and readers of what is absent get this one.
        plain = np.ascontiguousarray(values).reshape(-1)
        absent = np.full(1, fill, values.dtype).tobytes()
        if plain[:1].tobytes() != absent:
            return False
        return bool((plain.view(f"V{values.dtype.itemsize}") == np.void(absent)).all())
    return not (values != fill).any()


@cache
def _zstd() -> Any:
    from numcodecs.zstd import Zstd

    return Zstd(**CODEC["configuration"])


@cache
def _texts() -> Any:
    from numcodecs import VLenUTF8

    return VLenUTF8()
