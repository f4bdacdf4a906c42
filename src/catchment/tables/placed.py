"""Where an input stands in a table: what a later merge needs to copy it from there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
import pyarrow as pa

from catchment.core.errors import Corrupt
from catchment.core.parquet.footer import Group

ENGINE = f"4, pyarrow {pa.__version__}"  # what decides the bytes of a table besides its inputs

_ARRAYS = ("ends", "start", "length", "size", "slots", "offsets")


@dataclass(frozen=True)
class Placed:
    """An input's row groups in the files that a merge has made.

    Attributes:
        schema: serialized; the unified columns that come from the input, in the table's order.
        groups: their chunks in the table.
        removed: their chunks in the file of removed rows.
    """

    schema: bytes
    groups: tuple[Group, ...]
    removed: tuple[Group, ...]

    def dumps(self) -> bytes:
        """The stored form; made once."""
        return self._stored

    @cached_property
    def _stored(self) -> bytes:
        groups = [*self.groups, *self.removed]
        pieces = [self.schema]
        for group in groups:
            pieces += [group.body, *(getattr(group, name).tobytes() for name in _ARRAYS)]
        header = {
            "engine": ENGINE,
            "rows": [group.rows for group in groups],
            "kept": len(self.groups),
            "sizes": [len(piece) for piece in pieces],
        }
        return b"".join([json.dumps(header).encode(), b"\n", *pieces])

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """The inverse. Corrupt (kind ``placed-unreadable``) if it is not one of this engine."""
        try:
            text, _, body = data.partition(b"\n")
            header = json.loads(text)
            if header["engine"] != ENGINE or sum(header["sizes"]) != len(body):
                raise ValueError(header["engine"])
            ends = accumulate(header["sizes"], initial=0)
            schema, *pieces = [body[start:end] for start, end in pairwise(ends)]
            groups = tuple(
                _group(rows, *pieces[at : at + 1 + len(_ARRAYS)])
                for rows, at in zip(
                    header["rows"], range(0, len(pieces), 1 + len(_ARRAYS)), strict=True
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(
                f"expected an input's places in a table, written by engine {ENGINE!r}",
                kind="placed-unreadable",
                hint="run with --full",
            ) from error
        return cls(schema, groups[: header["kept"]], groups[header["kept"] :])


def _group(rows: int, body: bytes, *arrays: bytes) -> Group:
    return Group(rows, body, *(np.frombuffer(array, np.int64) for array in arrays))
