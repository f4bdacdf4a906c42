"""What exports are made of: parts that workers finish, and the outputs that they become."""

from __future__ import annotations

import enum
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from catchment.core.errors import Invalid

MIB = 1_048_576  # bytes
DEFAULT_MAX_BYTES = 200 * MIB
DEFAULT_MULTIPLIER = 2


class Kind(enum.StrEnum):
    """What the lines of a file are: the records asked for, or what went wrong."""

    DATA = "data"
    ERROR = "error"


class Codec(enum.StrEnum):
    """How an output is stored."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Piece(NamedTuple):
    """Whole lines of a part that go to one output.

    Attributes:
        part: file name of the part in ``finished``.
        start: offset of the first byte, in the part as it reads uncompressed.
        size: bytes that it gives to the output; one more than the part holds where the final
            newline is missing and will be added.
    """

    part: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Rules:
    """How an output is filled.

    Attributes:
        max_bytes: of an output, uncompressed; a single longer line is an output of its own.
        multiplier: while workers stream, combine only when strictly more than
            ``multiplier * max_bytes`` are finished.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    multiplier: float = DEFAULT_MULTIPLIER

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise Invalid(f"expected a maximum of at least 1 byte, got {self.max_bytes}")
        if not (0 <= self.multiplier < math.inf):
            raise Invalid(f"expected a multiplier of 0 or more, got {self.multiplier}")


@dataclass(frozen=True, slots=True)
class Output:
    """One published file.

    Attributes:
        name: file name in the job's folder, with the suffix of its codec.
        size: bytes of the uncompressed lines; a bulk-data manifest's ``file_length``.
        stored: bytes of the file itself; equal to ``size`` where it is not compressed.
        count: records, that is lines.
        digest: ``sha256:<hex>`` of the uncompressed bytes.
    """

    name: str
    kind: Kind
    size: int
    stored: int
    count: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(**data | {"kind": Kind(data["kind"])})
