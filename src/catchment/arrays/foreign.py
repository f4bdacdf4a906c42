"""Zarr groups that are no stores of sessions: what plain xarray made, and what grows by positions.

All their metadata stand together in one object: the consolidated root ``zarr.json`` (format 3) or
``.zmetadata`` (format 2). Readers take them from there, so replacing that object is a commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from catchment.arrays import layout
from catchment.arrays.document import SECTION
from catchment.arrays.zarr_store import DOCUMENTS, CoreStore
from catchment.core.errors import Invalid, NotFound
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr

TOGETHER_2 = ".zmetadata"


@dataclass(frozen=True, slots=True)
class Group:
    """The metadata of a group, whole.

    Attributes:
        version: of the format, 2 or 3.
        documents: by key, each as its own object has it, or would.
        digest: of the object that holds them all; empty where there is none.
    """

    version: int
    documents: Mapping[str, bytes] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def of(cls, store: Store) -> Self | None:
        """The group that stands in a store; None where there is none.

        Invalid (kind ``not-our-store``) if it cannot be read.
        """
        for version, key in ((3, layout.ROOT), (2, TOGETHER_2), (2, ".zgroup")):
            try:
                data = store.read(key)
            except NotFound:
                continue
            try:
                return cls._parse(store, version, key, data)
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
                raise Invalid(
                    f"{key} is no metadata of a Zarr group",
                    kind="not-our-store",
                    hint="name another place",
                ) from None
        return None

    @classmethod
    def _parse(cls, store: Store, version: int, key: str, data: bytes) -> Self:
        told = json.loads(data)
        digest = hashlib.sha256(data).hexdigest()
        if key == TOGETHER_2:
            return cls(2, {k: _dumps(v) for k, v in told["metadata"].items()}, digest)
        if version == 3 and told["node_type"] != "group":
            raise ValueError
        arrays = told.pop("consolidated_metadata", None) if version == 3 else None
        documents = {key: _dumps(told)}
        if arrays is not None:
            for name, meta in arrays["metadata"].items():
                documents[f"{name}/{layout.ROOT}"] = _dumps(meta)
            return cls(version, documents, digest)
        # Nothing holds them together yet.
        names = [layout.ROOT] if version == 3 else [".zarray", ".zattrs"]
        if version == 2:
            _take(store, ".zattrs", documents)
        for folder in store.folders(""):
            for name in names:
                _take(store, f"{folder}/{name}", documents)
        return cls(version, documents, "")

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the group."""
        if self.version == 3:
            found: dict[str, Any] = json.loads(self.documents[layout.ROOT]).get("attributes", {})
            return found
        data = self.documents.get(".zattrs")
        return json.loads(data) if data else {}

    @property
    def _section(self) -> Mapping[str, Any]:
        """What is ours among the attributes."""
        section = self.attributes.get(SECTION)
        return section if isinstance(section, dict) else {}

    @property
    def commit(self) -> int:
        """The number of our last commit that it shows; 0 where there is none."""
        number = self._section.get("commit")
        return number if isinstance(number, int) else 0

    @property
    def spliced(self) -> int:
        """The number of our last commit that changed positions; 0 where there is none."""
        number = self._section.get("spliced")
        return number if isinstance(number, int) else 0

    def with_commit(self, number: int, spliced: int = 0) -> Group:
        """The same, saying which commit it shows, and which was the last that moved positions."""
        attributes = self.attributes
        attributes[SECTION] = {"commit": number} | ({"spliced": spliced} if spliced else {})
        documents = dict(self.documents)
        if self.version == 3:
            root = json.loads(documents[layout.ROOT]) | {"attributes": attributes}
            documents[layout.ROOT] = _dumps(root)
        else:
            documents[".zattrs"] = _dumps(attributes)
        return Group(self.version, documents)

    def together(self) -> tuple[str, bytes]:
        """Key and bytes of the object that holds all."""
        if self.version == 2:
            metadata = {key: json.loads(data) for key, data in sorted(self.documents.items())}
            return TOGETHER_2, _dumps({"zarr_consolidated_format": 1, "metadata": metadata})
        root = json.loads(self.documents[layout.ROOT])
        arrays = {
            key.removesuffix(f"/{layout.ROOT}"): json.loads(data)
            for key, data in sorted(self.documents.items())
            if key != layout.ROOT
        }
        consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
        return layout.ROOT, _dumps(root | {"consolidated_metadata": consolidated})

    def dataset(self, store: Store, *, decode: bool = True) -> xr.Dataset:
        """What it shows, lazily; later commits do not change it."""
        import xarray as xr

        found: xr.Dataset = xr.open_zarr(
            Overlay(store, dict(self.documents)), consolidated=False, zarr_format=self.version,
            chunks=None, decode_cf=decode,
        )  # fmt: skip
        return found

    def chunks(self) -> dict[str, dict[str, int]]:
        """Sizes of chunks by array and dimension."""
        found = {}
        for key, data in self.documents.items():
            name, _, last = key.rpartition("/")
            told = json.loads(data)
            if last == ".zarray":
                attributes = json.loads(self.documents.get(f"{name}/.zattrs", b"{}"))
                dims = attributes.get("_ARRAY_DIMENSIONS", [])
                found[name] = dict(zip(dims, told["chunks"], strict=False))
            elif last == layout.ROOT and told.get("node_type") == "array":
                shape = told["chunk_grid"]["configuration"]["chunk_shape"]
                found[name] = dict(zip(told.get("dimension_names") or [], shape, strict=False))
        return found


def kind_of(store: Store) -> str:
    """``sessions`` where a store of sessions is, ``group`` for any other; empty where none is."""
    try:
        told = json.loads(store.read(layout.ROOT))
        section = told["attributes"].get(SECTION)
    except NotFound:
        return "group" if any(_there(store, key) for key in (TOGETHER_2, ".zgroup")) else ""
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return "group"  # what is wrong with it is said when it is read
    return "sessions" if isinstance(section, dict) and "format" in section else "group"


class Overlay(CoreStore):
    """A group whose metadata are in memory: those that are written stay there, chunks go out."""

    def __init__(self, store: Store, documents: dict[str, bytes], *, writes: bool = False) -> None:
        self.sizes: dict[str, int] = {}  # of chunks that were written, by key

        def put(key: str, data: bytes) -> None:
            if key.rpartition("/")[2] in DOCUMENTS:
                documents[key] = data
            else:
                store.put(key, data, mode="overwrite")
                self.sizes[key] = len(data)

        def delete(key: str) -> None:
            if documents.pop(key, None) is None and key.rpartition("/")[2] not in DOCUMENTS:
                store.delete(key)

        super().__init__(
            store, documents, put=put if writes else None, delete=delete if writes else None
        )
        self._whole = store, documents

    def __reduce__(self) -> tuple[Any, ...]:
        return Overlay, self._whole

    def with_read_only(self, read_only: bool = False) -> CoreStore:  # noqa: FBT001, FBT002 - Zarr's
        """The same store for reading."""
        return Overlay(*self._whole, writes=not read_only and self._put is not None)

    async def list(self) -> AsyncIterator[str]:
        """Keys of metadata: chunks are not looked for."""
        for key in list_of(self._whole[1]):
            yield key


def list_of(documents: Mapping[str, bytes]) -> list[str]:
    """Keys, as they are now."""
    return list(documents)


def _there(store: Store, key: str) -> bool:
    try:
        store.head(key)
    except NotFound:
        return False
    return True


def _take(store: Store, key: str, documents: dict[str, bytes]) -> None:
    try:
        documents[key] = store.read(key)
    except NotFound:
        return


def _dumps(told: Any) -> bytes:
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
