"""The files of a flat export: Zarr, NumPy, Parquet."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Buffer, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from catchment.arrays import document as documenting
from catchment.arrays import layout
from catchment.arrays.training import Windows
from catchment.arrays.zarr_store import CoreStore, documents, encode, open_array
from catchment.core.errors import Invalid
from catchment.core.progress import Event, Progress
from catchment.core.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Form = Literal["zarr", "npy", "parquet"]
TARGET = 4 << 20  # bytes of a Zarr chunk before compression
BLOCK = 32 << 20  # bytes that are held at a time
INDEX_ROWS = 1 << 16  # windows in a chunk of the index
INDEX = {"session": "string", "site": "string", "position": "int32"}


class Files:
    """Windows on their way into files."""

    def __init__(self, windows: Windows, target: Store, form: Form, progress: Progress) -> None:
        self.windows = windows
        self.target = target
        self.form = form
        self.progress = progress
        self.document = windows.parts[0].document
        self.total = len(windows)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self.dims: dict[str, list[str]] = {}
        for name in windows.variables:
            if name in INDEX:
                raise Invalid(
                    f"the export has an index of its own called {name}",
                    kind="reserved-variable",
                    hint="name the other variables: --variable NAME",
                )
            meta = self.document.arrays[name]
            # Dimensions that are ragged beside time are as long as in the longest session.
            found = [part.document.arrays[name]["shape"][2:] for part in windows.parts]
            self.shapes[name] = tuple(max(sizes) for sizes in zip(*found, strict=True))
            self.types[name] = meta["data_type"]
            self.dims[name] = list(meta["dimension_names"][2:])

    def write(self) -> None:
        """Write all of them."""
        match self.form:
            case "zarr":
                self._zarr()
            case "npy":
                self._npy()
            case _:
                schema = self._schema(list(self.shapes))
                data = self._parquet(schema, list(self.shapes))
                self.target.put("windows.parquet", data, mode="overwrite")

    # Blocks

    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Values of a variable, session after session, at most so many windows at a time."""
        for which, one in enumerate(self.windows.chosen):
            for some in _runs(one.windows, rows):
                start, stop = int(some[0]), int(some[-1]) + 1
                values = self.windows.read(which, name, start, stop)
                if len(some) < stop - start:
                    values = values[some - start]
                yield _stored(values)
            self.progress(
                Event(f"export {name}", "step", which + 1, len(self.windows.chosen), "sessions")
            )

    def _exact(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """The same, in blocks of exactly so many windows, but for the last."""
        waiting: list[np.ndarray] = []
        count = 0
        for block in self._blocks(name, rows):
            waiting.append(block)
            count += len(block)
            while count >= rows:
                joined = np.concatenate(waiting)
                yield joined[:rows]
                waiting, count = [joined[rows:]], count - rows
        if count:
            yield np.concatenate(waiting)

    def _index(self, name: str) -> np.ndarray:
        """A value for each window: ``session``, ``site`` or ``position``."""
        if name == "position":
            return self.windows.index[:, 1].astype("int32")
        values = [getattr(one.entry.row, name) for one in self.windows.chosen]
        found: np.ndarray = np.array(values, dtype=object)[self.windows.index[:, 0]]
        return found

    def _rows(self, name: str, size: int) -> int:
        each = math.prod(self.shapes[name]) * size_of(self.types[name])
        return max(1, size // max(1, each))

    # Zarr

    def _zarr(self) -> None:
        arrays: dict[str, Any] = {}
        for name, dtype in INDEX.items():
            meta = documenting.array(dtype, ["window"], [self.total],
                                     [max(1, min(self.total, INDEX_ROWS))],
                                     "" if dtype == "string" else 0, {})  # fmt: skip
            arrays[name] = meta
            for key, data in encode(name, meta, self._index(name)).items():
                self.target.put(key, data, mode="overwrite")
        for name, shape in self.shapes.items():
            rows = max(1, min(self._rows(name, TARGET), self.total))
            source = self.document.arrays[name]
            chunk = [rows, *(max(1, size) for size in shape)]
            meta = documenting.array(
                self.types[name], ["window", *self.dims[name]], [self.total, *shape], chunk,
                source["fill_value"], source["attributes"],
            )  # fmt: skip
            arrays[name] = meta
            self._fill(name, meta, rows)
        for name, described in self.document.schema.labels.items():
            values = np.array(
                described["values"],
                dtype=object if described["dtype"] == "string" else described["dtype"],
            )
            meta = documenting.array(
                described["dtype"], described["dims"], list(values.shape),
                [max(1, size) for size in values.shape],
                "" if described["dtype"] == "string" else 0,
                self.document.arrays[name]["attributes"],
            )  # fmt: skip
            arrays[name] = meta
            for key, data in encode(name, meta, values).items():
                self.target.put(key, data, mode="overwrite")
        for name, meta in arrays.items():
            self.target.put(f"{name}/{layout.ROOT}", json.dumps(meta).encode(), mode="overwrite")
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"coordinates": " ".join(INDEX)},
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": arrays,
            },
        }
        self.target.put(layout.ROOT, json.dumps(root).encode(), mode="overwrite")

    def _fill(self, name: str, meta: dict[str, Any], rows: int) -> None:
        def put(key: str, data: bytes) -> None:
            self.target.put(key, data, mode="overwrite")

        view = CoreStore(None, documents({name: meta}), put=put, delete=self.target.delete)
        array, start = open_array(view, name), 0
        for block in self._exact(name, rows):
            place: Any = (slice(start, start + len(block)), *(slice(0, n) for n in block.shape[1:]))
            array[place] = block
            start += len(block)

    # NumPy and Parquet

    def _npy(self) -> None:
        large = [n for n, shape in self.shapes.items() if shape and self.types[n] != "string"]
        for name in large:
            self.target.put(f"{name}.npy", self._npy_bytes(name), mode="overwrite")
        rest = [name for name in self.shapes if name not in large]
        data = self._parquet(self._schema(rest), rest)
        self.target.put("index.parquet", data, mode="overwrite")

    def _npy_bytes(self, name: str) -> Iterator[Buffer]:
        shape, dtype = self.shapes[name], np.dtype(self.types[name])
        header = io.BytesIO()
        described: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self.total, *shape),
        }
        np.lib.format.write_array_header_1_0(header, described)
        yield header.getvalue()
        for block in self._blocks(name, self._rows(name, BLOCK)):
            yield self._whole(name, block).astype(dtype, copy=False).tobytes()

    def _whole(self, name: str, block: np.ndarray) -> np.ndarray:
        """A block as long as the longest session along its other dimensions."""
        shape = (len(block), *self.shapes[name])
        if block.shape == shape:
            return block
        fill = np.nan if block.dtype.kind in "fc" else block.dtype.type()
        made = np.full(shape, fill, block.dtype)
        made[tuple(slice(0, size) for size in block.shape)] = block
        return made

    def _schema(self, names: list[str]) -> pa.Schema:
        import pyarrow as pa

        fields = [
            pa.field("session", pa.string()),
            pa.field("site", pa.string()),
            pa.field("position", pa.int32()),
        ]
        for name in names:
            shape, meta = self.shapes[name], {}
            text = self.types[name] == "string"
            kind = pa.string() if text else pa.from_numpy_dtype(np.dtype(self.types[name]))
            if shape:
                kind = pa.list_(kind, math.prod(shape))
                meta = {"shape": json.dumps(shape), "dims": json.dumps(self.dims[name])}
            meta["attributes"] = json.dumps(self.document.arrays[name]["attributes"])
            fields.append(pa.field(name, kind, metadata=meta))
        return pa.schema(fields)

    def _parquet(self, schema: pa.Schema, names: list[str]) -> Iterator[Buffer]:
        """The bytes of a Parquet file, row group by row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = _Sink()
        rows = min([self._rows(name, BLOCK) for name in names], default=1 << 20)
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for which, one in enumerate(self.windows.chosen):
                for some in _runs(one.windows, rows):
                    start, stop = int(some[0]), int(some[-1]) + 1
                    row = one.entry.row
                    columns: list[Any] = [
                        pa.array([row.session] * len(some)),
                        pa.array([row.site] * len(some)),
                        pa.array(some.astype("int32")),
                    ]
                    for name in names:
                        values = _stored(self.windows.read(which, name, start, stop)[some - start])
                        column = pa.array(self._whole(name, values).reshape(-1))
                        if self.shapes[name]:
                            size = math.prod(self.shapes[name])
                            column = pa.FixedSizeListArray.from_arrays(column, size)
                        columns.append(column.cast(schema.field(name).type))
                    writer.write_table(pa.table(columns, schema=schema))
                    yield sink.take()
                self.progress(
                    Event("export", "step", which + 1, len(self.windows.chosen), "sessions")
                )
        yield sink.take()


class _Sink(io.RawIOBase):
    """Takes what a writer writes, until somebody fetches it."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        block = bytes(data)
        self._blocks.append(block)
        return len(block)

    def take(self) -> bytes:
        """All that was written since the last time."""
        data = b"".join(self._blocks)
        self._blocks.clear()
        return data


def _runs(windows: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Positions, in pieces of which each spans at most so many."""
    while len(windows):
        count = int(np.searchsorted(windows, windows[0] + rows))
        yield windows[:count]
        windows = windows[count:]


def size_of(dtype: str) -> int:
    """Bytes of a value, or of a short text."""
    return 16 if dtype == "string" else np.dtype(dtype).itemsize


def _stored(values: np.ndarray) -> np.ndarray:
    """Moments as the numbers that a store keeps."""
    if values.dtype.kind == "M":
        return values.astype("datetime64[ms]").astype("int64")
    return values
