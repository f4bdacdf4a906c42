"""The root document of a store: the metadata of all arrays, in the one object that is replaced."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from catchment.arrays import layout
from catchment.arrays.content import CLOCK, json_value
from catchment.arrays.openable import check_document
from catchment.arrays.schema import Schema
from catchment.core.errors import Corrupt, Invalid

if TYPE_CHECKING:
    import numpy as np

    from catchment.arrays.prepare import Prepared

FORMAT = 1
SECTION = "catchment"
TARGET = 4 << 20  # bytes of a chunk before compression
MOST_WINDOWS = 4096  # in a chunk
CODEC: dict[str, Any] = {"name": "zstd", "configuration": {"level": 0, "checksum": True}}

# Arrays of one dimension that every store of sessions has: type and fill value.
FACTS: dict[str, tuple[str, Any]] = {
    "session": ("string", ""),
    "n_windows": ("int32", 0),
    "site": ("string", ""),
    "start": ("float64", "NaN"),
    "content_hash": ("string", ""),
    "schema": ("string", ""),
    "source": ("string", ""),
    "transform": ("string", ""),
    "status": ("int8", 0),
}
EMPTY = {"string": "", "bool": False, "int64": 0, "float64": "NaN"}


@dataclass(frozen=True, slots=True)
class Document:
    """A root document, whole, as it stands in the store or is about to."""

    root: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Of the bytes of a ``zarr.json``.

        Invalid if another made it (``not-our-store``), or a later version (``store-newer``).
        """
        try:
            root = json.loads(data)
            found = root["attributes"][SECTION]["format"]
            if isinstance(found, int) and found > FORMAT:
                raise Invalid(
                    f"expected a store of sessions of format {FORMAT} or older, got {found}",
                    kind="store-newer",
                    hint="pip install --upgrade catchment",
                )
            if found != FORMAT:
                raise KeyError
            root["consolidated_metadata"]["metadata"]
        except (KeyError, TypeError, ValueError, RecursionError):
            raise Invalid(
                "a zarr.json stands there that this program did not write",
                kind="not-our-store",
                hint="append its sessions to a new store: catchment arrays append OLD NEW",
            ) from None
        return cls(root)

    def dumps(self) -> bytes:
        """The one byte form: the same document gives the same bytes."""
        return json.dumps(self.root, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def section(self) -> Mapping[str, Any]:
        """What is ours among the attributes."""
        found: Mapping[str, Any] = self.root["attributes"][SECTION]
        return found

    @property
    def commit(self) -> int:
        """The number of the commit that it shows."""
        return int(self.section["commit"])

    @property
    def family(self) -> int:
        """How the keys of rows are spelt."""
        return int(self.section["family"])

    @property
    def generation(self) -> int:
        """How often the store was rechunked; says how the keys of chunks are spelt."""
        return int(self.section.get("generation", 0))

    @property
    def schema(self) -> Schema:
        """What every session has in common."""
        return Schema.from_json(self.section["schema"])

    @property
    def append_dim(self) -> str:
        """The dimension that grows."""
        return str(self.section["schema"]["append_dim"])

    @property
    def chunks(self) -> dict[str, int]:
        """By dimension, as fixed when the store was made."""
        return dict(self.section["chunks"])

    @property
    def arrays(self) -> Mapping[str, Any]:
        """The metadata of each array."""
        found: Mapping[str, Any] = self.root["consolidated_metadata"]["metadata"]
        return found

    @property
    def size(self) -> int:
        """Slots that are visible."""
        return int(self.arrays["session"]["shape"][0])

    def rows(self) -> list[str]:
        """Arrays that have the append dimension only."""
        dims = [self.append_dim]
        return [n for n, meta in self.arrays.items() if meta["dimension_names"] == dims]

    def slotted(self) -> list[str]:
        """Arrays with a chunk, or several, for each session."""
        first, rows = self.append_dim, set(self.rows())
        return [
            name
            for name, meta in self.arrays.items()
            if meta["dimension_names"][:1] == [first] and name not in rows
        ]

    def grown(
        self,
        *,
        commit: int,
        size: int,
        ragged: Mapping[str, int],
        family: int | None = None,
        rechunked: Mapping[str, Any] | None = None,
    ) -> Self:
        """The document that shows more slots, longer sessions, rows or chunks under other keys."""
        root = deepcopy(dict(self.root))
        section = root["attributes"][SECTION]
        section["commit"] = commit
        if family is not None:
            section["family"] = family
        rows = set(self.rows())
        if rechunked is not None:
            section |= {"generation": rechunked["generation"], "chunks": rechunked["chunks"]}
            for name in self.slotted():
                _rechunk(root["consolidated_metadata"]["metadata"][name], rechunked)
        for name, meta in root["consolidated_metadata"]["metadata"].items():
            for axis, dim in enumerate(meta["dimension_names"]):
                if dim == self.append_dim:
                    meta["shape"][axis] = size
                elif dim in ragged:
                    meta["shape"][axis] = max(meta["shape"][axis], ragged[dim])
            if family is not None and name in rows:
                meta["chunk_key_encoding"] = layout.key_encoding(family)
        return type(self)(root)


def _rechunk(meta: dict[str, Any], rechunked: Mapping[str, Any]) -> None:
    """Other chunks, under other keys, in an array's metadata."""
    shape = meta["chunk_grid"]["configuration"]["chunk_shape"]
    for axis, dim in enumerate(meta["dimension_names"][1:], 1):
        shape[axis] = rechunked["chunks"].get(dim, shape[axis])
    meta["chunk_key_encoding"] = layout.slot_encoding(rechunked["generation"])


def first(prepared: Prepared, chunks: Mapping[str, int] | None) -> tuple[Document, dict[str, Any]]:
    """The document of a new store, of no session yet, and its small objects: the labels' values.

    The objects are base64 by key, so that a commit record can hold them. Invalid: kind
    ``bad-chunks``; ``not-openable`` if plain readers could not open such a store.
    """
    schema = prepared.schema
    dims = _chunks(prepared, chunks or {})
    arrays: dict[str, Any] = {}
    for name, (dtype, fill) in FACTS.items():
        fill = schema.fingerprint if name == "schema" else fill  # noqa: PLW2901 - never changes
        if name == "transform":
            fill = prepared.row.transform  # noqa: PLW2901 - what is filled needs no chunk
        arrays[name] = array(
            dtype, [schema.append_dim], [0], [layout.ROWS], fill, _fact_attributes(name)
        )
    for name, variable in prepared.variables.items():
        described = schema.variables[name]
        own = [str(dim) for dim in variable.dims]
        shape = [0 if d in schema.ragged else schema.sizes[d] for d in own]
        chunk = [dims.get(d, max(1, s)) for d, s in zip(own, shape, strict=True)]
        arrays[name] = array(
            described["dtype"], [schema.append_dim, *own], [0, *shape], [1, *chunk],
            fill_of_type(described["dtype"]), _attributes(variable.attrs),
        )  # fmt: skip
    for name in prepared.row.values:
        dtype = schema.variables[name]["dtype"]
        arrays[name] = array(dtype, [schema.append_dim], [0], [layout.ROWS], EMPTY[dtype], {})
    objects: dict[str, bytes] = {}
    for name, variable in prepared.labels.items():
        meta, data = _label(name, variable, schema)
        arrays[name] = meta
        objects |= data
    attributes = {
        SECTION: {
            "format": FORMAT,
            "commit": -1,
            "family": 0,
            "schema": schema.to_json(),
            "fingerprint": schema.fingerprint,
            "chunks": dims,
        },
        "coordinates": " ".join(name for name in ("n_windows", CLOCK) if name in arrays),
    }
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    document = Document(root)
    check_document(document, objects)
    return document, {key: base64.b64encode(value).decode() for key, value in objects.items()}


def _chunks(prepared: Prepared, wanted: Mapping[str, int]) -> dict[str, int]:
    """Positions in a chunk along each ragged dimension, and along others where asked for."""
    schema = prepared.schema
    chosen = chosen_chunks(schema, wanted)
    for dim in schema.ragged:
        rows = [
            math.prod(schema.sizes[str(d)] for d in v.dims if str(d) not in schema.ragged)
            * v.dtype.itemsize
            for v in prepared.variables.values()
            if dim in v.dims
        ]
        lazily = [v.chunksizes[dim][0] for v in prepared.variables.values() if dim in v.chunksizes]
        if lazily and dim not in chosen:
            chosen[dim] = max(1, *lazily)
        if rows and dim not in chosen:
            present = max(1, prepared.ragged_sizes.get(dim, 1))
            power = 1 << (present - 1).bit_length()
            chosen[dim] = max(1, min(TARGET // max(rows), max(64, power), MOST_WINDOWS))
    return chosen


def chosen_chunks(schema: Schema, wanted: Mapping[str, int]) -> dict[str, int]:
    """Sizes that a store can have; Invalid (kind ``bad-chunks``) for others."""
    known = {*schema.ragged, *schema.sizes}
    for dim, size in wanted.items():
        if dim == schema.append_dim and size == 1:
            continue
        if dim not in known or size < 1:
            raise Invalid(
                f"chunks: expected positive sizes for {', '.join(sorted(known)) or 'no dimension'},"
                f" got {dim}={size}",
                kind="bad-chunks",
                hint=f"along {schema.append_dim} a chunk is one session",
            )
    chosen = {dim: min(size, schema.sizes.get(dim, size)) for dim, size in wanted.items()}
    chosen.pop(schema.append_dim, None)
    return chosen


def check_chunks(document: Document, chunks: Mapping[str, int] | None) -> None:
    """Invalid (kind ``chunks-fixed``) if other chunks are asked for than the store has."""
    sizes = document.schema.sizes
    have = {document.append_dim: 1, **sizes, **document.chunks}
    for dim, size in (chunks or {}).items():
        fixed = have.get(dim)
        if fixed is not None and min(size, sizes.get(dim, size)) != fixed:
            raise Invalid(
                f"the store has chunks of {fixed} along {dim}, got {size}",
                kind="chunks-fixed",
                hint=f"leave it out, or: catchment arrays rechunk STORE --chunks {dim}={size}",
            )


def array(  # noqa: PLR0917 - the fields of the format
    dtype: str,
    dims: Iterable[str],
    shape: list[int],
    chunk: list[int],
    fill: Any,
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """An array's metadata, as Zarr writes them."""
    serializer: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if dtype == "string":
        serializer = {"name": "vlen-utf8", "configuration": {}}
    elif dtype in ("int8", "uint8", "bool"):
        serializer = {"name": "bytes"}
    return {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": layout.key_encoding(0),
        "fill_value": fill,
        "codecs": [serializer, CODEC],
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def fill_of_type(dtype: str) -> Any:
    """The fill value of a type, as metadata say it."""
    if dtype == "string":
        return ""
    if dtype == "bool":
        return False
    if dtype.startswith("complex"):
        return ["NaN", "NaN"]
    return "NaN" if dtype.startswith("float") else 0


def _fact_attributes(name: str) -> dict[str, Any]:
    if name == "start":
        return {"units": "ms", "epoch": "1970-01-01T00:00:00Z"}
    if name == "status":
        return {
            "flag_values": [0, 1, 2, 3],
            "flag_meanings": "present replaced withdrawn abandoned",
        }
    return {}


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """A variable's attributes that JSON can say."""
    plain = {}
    for name, value in attrs.items():
        with suppress(TypeError, ValueError):
            plain[str(name)] = json_value(value)
    return plain


def _label(name: str, variable: Any, schema: Schema) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metadata and objects of labels, made by Zarr itself in memory."""
    import numpy as np

    from catchment.arrays.zarr_store import encode

    described = schema.labels[name]
    values: np.ndarray = np.asarray(variable.values)
    if described["dtype"] == "string":
        values = np.array([str(v) for v in described["values"]], dtype=object)
    shape = list(values.shape)
    dtype = described["dtype"]
    meta = array(dtype, described["dims"], shape, [max(1, s) for s in shape], fill_of_type(dtype),
                  _attributes(variable.attrs))  # fmt: skip
    return meta, encode(name, meta, values)


def objects(record: Mapping[str, Any]) -> Iterable[tuple[str, bytes]]:
    """The small objects that a commit record holds, by key."""
    for key, data in record.get("objects", {}).items():
        yield key, base64.b64decode(data)


def corrupt(message: str) -> Corrupt:
    """The error of a store that contradicts itself."""
    return Corrupt(message, kind="store-contradicts", hint="catchment arrays verify STORE --repair")
