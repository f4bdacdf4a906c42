"""Our chunks are those that Zarr would write: Zarr reads them, and passes over what is only fill."""

from __future__ import annotations

import numpy as np
import pytest

from catchment.arrays import document
from catchment.arrays.codec import encode
from catchment.arrays.zarr_store import CoreStore, documents, open_array
from catchment.arrays.zarr_store import encode as by_zarr

TYPES = ["float32", "float64", "int8", "int16", "int64", "uint8", "bool", "complex64", "string"]


def made(dtype, shape):
    random = np.random.default_rng(3)
    if dtype == "string":
        return np.array([f"é{n}" * n for n in range(int(np.prod(shape)))], dtype=object).reshape(
            shape
        )
    return (random.standard_normal(shape) * 9).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3), (3, 1), (1, 2)])
def test_zarr_reads_what_we_write(dtype, shape):
    meta = document.array(dtype, ["a", "b"], list(shape), [4, 3], document.fill_of_type(dtype), {})
    values = made(dtype, shape)
    objects = {"x/c/0/0": encode(values, meta, (4, 3))}
    found = open_array(CoreStore(None, documents({"x": meta}) | objects), "x")[...]
    assert np.array_equal(np.asarray(found), values)
    assert objects == by_zarr("x", meta, values)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_only_fill_is_not_written(dtype):
    meta = document.array(dtype, ["a"], [3], [4], document.fill_of_type(dtype), {})
    nothing = {"string": "", "bool": False, "complex64": complex(np.nan, np.nan)}.get(
        dtype, np.nan if dtype[0] == "f" else 0
    )
    values = np.full(3, nothing, dtype=object if dtype == "string" else dtype)
    assert encode(values, meta, (4,)) is None
    values[1] = "x" if dtype == "string" else 1
    assert encode(values, meta, (4,)) is not None
