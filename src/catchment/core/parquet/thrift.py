"""The little of Thrift's compact protocol that Parquet footers need (THRIFT-110, compact spec).

Footers of wide tables hold thousands of ``ColumnChunk`` structs that are written alike. One of
them is walked byte by byte and leaves a *shape*: the sequence of literal bytes, numbers and
strings. The others are walked together, one numpy step for each item of the shape, and each is
taken only if every literal byte of the shape is there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Path = tuple[int, ...]

BOOL, I32, I64, BINARY, LIST, STRUCT = 1, 5, 6, 8, 9, 12
_NUMBER, _BYTES, _EIGHT = -1, -2, -3  # items of a shape; a literal byte is itself
_FEW = 12  # below so many structs a walk of each is faster than numpy
_MAX_DEPTH = 12


def varint(number: int) -> bytes:
    """ULEB128 of a number >= 0."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    if number < 1 << 21:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def i64(number: int) -> bytes:
    """A Thrift i32 or i64 >= 0: zigzag, then ULEB128."""
    return varint(number << 1)


def binary(data: bytes) -> bytes:
    """A Thrift binary or string: its length and the bytes."""
    return varint(len(data)) + data


def list_of(kind: int, count: int) -> bytes:
    """The header of a list of ``count`` elements."""
    return bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + varint(count)


def unsigned(buffer: bytes, at: int) -> tuple[int, int]:
    """The ULEB128 number at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def signed(buffer: bytes, at: int) -> tuple[int, int]:
    """The Thrift i16, i32 or i64 at a place, and the place behind it."""
    value, at = unsigned(buffer, at)
    return value >> 1 ^ -(value & 1), at


def structs(buffer: bytes, at: int) -> tuple[int, int]:
    """How many structs the list at a place has, and the place of the first."""
    head = buffer[at]
    if head & 15 != STRUCT:
        raise ValueError("expected a list of structs")
    return (head >> 4, at + 1) if head < 0xF0 else unsigned(buffer, at + 1)


class Field(NamedTuple):
    """Where a field's value stands in a shape: items ``[first, after)``; its Thrift type."""

    first: int
    after: int
    kind: int


class Walk:
    """One value, walked from ``start``: its shape, and where each item of it begins.

    Raises ValueError or IndexError where the bytes are no such value.
    """

    def __init__(self, buffer: bytes, start: int, kind: int = STRUCT) -> None:
        self.buffer = buffer
        self.shape: list[int] = []
        self.at: list[int] = [start]  # one more than items: the last is the end
        self.fields: dict[Path, Field] = {}
        self._value(kind, ())

    @property
    def end(self) -> int:
        """The first byte after the value."""
        return self.at[-1]

    def number(self, path: Path) -> int:
        """The integer field at a path. ValueError if there is none."""
        field = self.fields.get(path)
        if field is None or field.kind not in (I32, I64):
            raise ValueError(f"no integer field {path}")
        return signed(self.buffer, self.at[field.first])[0]

    def bytes(self, path: Path) -> bytes:
        """The value of the field at a path as it is written, for a string with its length."""
        field = self.fields[path]
        return self.buffer[self.at[field.first] : self.at[field.after]]

    def _item(self, code: int, after: int) -> None:
        if after > len(self.buffer):
            raise ValueError("a struct that does not end")
        self.shape.append(code)
        self.at.append(after)

    def _literal(self) -> int:
        byte = self.buffer[self.end]
        self._item(byte, self.end + 1)
        return byte

    def _literal_number(self) -> int:
        value, after = unsigned(self.buffer, self.end)
        while self.end < after:
            self._literal()
        return value

    def _struct(self, path: Path) -> None:
        if len(path) > _MAX_DEPTH:
            raise ValueError("structs too deep")
        last = 0
        while head := self._literal():
            if head >> 4:
                last += head >> 4
            else:
                last = signed(self.buffer, self.end)[0]
                self._literal_number()
            first = len(self.shape)
            self._value(head & 15, (*path, last))
            self.fields[*path, last] = Field(first, len(self.shape), head & 15)

    def _value(self, kind: int, path: Path) -> None:
        if kind in (BOOL, 2):  # true and false are the type itself
            return
        if kind in (3, 4, I32, I64):
            self._item(_NUMBER, unsigned(self.buffer, self.end)[1])
        elif kind == 7:
            self._item(_EIGHT, self.end + 8)
        elif kind == BINARY:
            length, after = unsigned(self.buffer, self.end)
            self._item(_BYTES, after + length)
        elif kind in (LIST, 10):
            head = self._literal()
            count = head >> 4
            if count == 15:
                count = self._literal_number()
            for _ in range(count):
                if head & 15 in (BOOL, 2):
                    self._literal()
                else:
                    self._value(head & 15, (*path, 0))
        elif kind == STRUCT:
            self._struct(path)
        else:
            raise ValueError(f"no such type: {kind}")


class Alike(NamedTuple):
    """Structs of one shape.

    Attributes:
        lanes: which of the starts they are, ascending.
        at: ``[items + 1, lanes]`` where each item begins; the last row holds the ends.
    """

    fields: dict[Path, Field]
    lanes: Ints
    at: Ints

    def first(self, path: Path) -> Ints:
        """Where the value of a field begins, in each struct."""
        places: Ints = self.at[self.fields[path].first]
        return places

    def after(self, path: Path) -> Ints:
        """Where the value of a field ends, in each struct."""
        places: Ints = self.at[self.fields[path].after]
        return places


class Buffer:
    """Bytes in which many structs are read together."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self._bytes = np.frombuffer(data + bytes(2), np.uint8)  # a walk may end just behind

    def find(self, byte: int) -> Ints:
        """Where a byte stands."""
        found: Ints = np.flatnonzero(self._bytes[: self.size] == byte)
        return found

    def byte(self, at: Ints) -> NDArray[np.uint8]:
        """The bytes at these places; 0 behind the end."""
        return self._bytes[np.minimum(at, self.size)]

    def after_number(self, at: Ints) -> Ints:
        """The places behind the numbers that begin at these places."""
        more = self.byte(at) > 127
        while more.any():
            at = at + more
            more &= self.byte(at) > 127
        return at + 1

    def unsigned(self, at: Ints) -> Ints:
        """The ULEB128 numbers at these places; only the lowest 63 bits count."""
        byte = self.byte(at).astype(np.int64)
        value = byte & 127
        shift = 7
        while (more := byte > 127).any() and shift < 63:
            at = at + 1
            byte = np.where(more, self.byte(at), 0).astype(np.int64)
            value |= (byte & 127) << shift
            shift += 7
        return value

    def signed(self, at: Ints) -> Ints:
        """The zigzag numbers at these places."""
        value = self.unsigned(at)
        number: Ints = value >> 1 ^ -(value & 1)
        return number

    def slices(self, first: Ints, after: Ints) -> list[bytes]:
        """The bytes of each range."""
        data = self.data
        return [data[a:b] for a, b in zip(first.tolist(), after.tolist(), strict=True)]

    def structs(self, starts: Ints) -> list[Alike]:
        """The structs at these places, by shape. Places where there is none are left out."""
        found = []
        left = np.arange(len(starts))
        while len(left):
            try:
                walk = Walk(self.data, int(starts[left[0]]))
            except (ValueError, IndexError):
                left = left[1:]
                continue
            if len(left) < _FEW:
                same = np.arange(len(left)) == 0
                at = np.array(walk.at)[:, None]
            else:
                at, same = self._replay(walk.shape, starts[left])
                at = at[:, same]
            found.append(Alike(walk.fields, left[same], at))
            left = left[~same]
        return found

    def _replay(self, shape: list[int], at: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        rows = np.empty((len(shape) + 1, len(at)), np.int64)
        rows[0] = at
        same = np.ones(len(at), np.bool_)
        for row, code in enumerate(shape, 1):
            if code >= 0:
                same &= self._bytes[at] == code
                at = at + 1
            elif code == _EIGHT:
                at = at + 8
            else:
                after = self.after_number(at)
                wide = after - at > 9
                if wide.any():  # the walk takes 64 bits, and nothing is as long as 2**63
                    fits = (after - at == 10) & ((code == _NUMBER) | (self.byte(at + 9) == 0))
                    same &= ~wide | fits
                at = after
                if code == _BYTES:
                    at = at + np.minimum(self.unsigned(rows[row - 1]), self.size)
            rows[row] = at = np.minimum(at, self.size + 1)
        return rows, same & (at <= self.size)


SLOT = 8  # bytes kept free in a template for one file offset below 2**55
OPEN = b"\x80" * (SLOT - 1) + b"\x00"  # what is there until then: 0, at full length


def fill_slots(template: bytes, slots: Ints, numbers: Ints) -> bytes:
    """The template with each free slot replaced by the zigzag ULEB128 of its number >= 0."""
    out = np.frombuffer(bytearray(template), np.uint8)
    value = numbers << 1
    spread = np.zeros((len(value), SLOT), np.uint8)
    used = np.ones((len(value), SLOT), np.bool_)
    for place in range(SLOT):
        part = value >> (7 * place)
        spread[:, place] = (part & 127) | np.where(part > 127, 128, 0)
        if place:
            used[:, place] = part > 0
    places = slots[:, None] + np.arange(SLOT)
    out[places] = spread
    keep = np.ones(len(out), np.bool_)
    keep[places] = used
    return out[keep].tobytes()
