"""What a composition is made of: rules for segments that hold for every kind of storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from catchment.core.errors import Corrupt, Invalid
from catchment.core.store import Mode, Range, Segment, Stat, Store

PART = 5 << 20  # bytes; S3 takes no smaller part, but for the last
COPY_PART = 512 << 20  # bytes; S3 copies up to 5 GiB at once, several smaller ones side by side
MAX_PARTS = 10_000  # of one S3 object


def joined(segments: Iterable[Segment], most: int | None = None) -> Iterator[Segment]:
    """The same bytes in fewer segments: ranges that touch become one.

    One that has ``most`` bytes is given at once: it does not wait for the next to touch it.

    Invalid (kind ``bad-range``) if a range has a negative start or length.
    """
    last: Range | None = None
    for segment in segments:
        if not isinstance(segment, Range):
            if last is not None:
                yield last
                last = None
            yield segment
            continue
        store, key, start, length = segment
        if start < 0 or length < 0:
            raise Invalid(f"a range of {key!r} has a negative start or length", kind="bad-range")
        if last is None:
            last = segment
        elif last.store is store and last.key == key and last.start + last.length == start:
            last = Range(store, key, last.start, last.length + length)
        else:
            yield last
            last = segment
        if most is not None and last.length >= most:
            yield last
            last = None
    if last is not None:
        yield last


def stream(segments: Iterable[Segment]) -> Iterator[bytes]:
    """The bytes of the segments in order, read through this process."""
    for segment in joined(segments):
        if not isinstance(segment, Range):
            yield segment
            continue
        left = segment.length
        for chunk in segment.store.stream(segment.key, start=segment.start, length=segment.length):
            left -= len(chunk)
            yield chunk
        if left:
            raise short(segment.key, segment.start + segment.length)


def short(key: str, expected: int) -> Corrupt:
    """The error for a source that ends before its range does; ``expected`` bytes at least."""
    return Corrupt(
        f"{key!r} is shorter than the {expected} bytes that a composition expects of it",
        kind="short-source",
        hint="the object changed or was damaged after it was recorded",
    )


def copy(store: Store, source: str, target: str, mode: Mode) -> Stat:
    """A copy is the composition of one range."""
    store.compose(target, [Range(store, source, 0, store.head(source).size)], mode=mode)
    return store.head(target)


def plan_parts(
    segments: Iterable[Segment], copyable: Callable[[Range], bool]
) -> list[list[Segment]]:
    """The parts of an S3 upload that gives the segments' bytes, in order.

    A part that is one copyable range of ``PART`` bytes or more can be copied by the storage; the
    bytes of any other must be sent. Every part but the last has at least ``PART`` bytes.
    """
    segments = list(joined(segments))
    least = PART
    while len(parts := _parts(segments, copyable, least)) > MAX_PARTS:
        least *= 2
    return parts


def _parts(
    segments: list[Segment], copyable: Callable[[Range], bool], least: int
) -> list[list[Segment]]:
    parts: list[list[Segment]] = []
    open_part: list[Segment] = []
    size = 0
    for whole in segments:
        segment = whole
        while length := (segment.length if isinstance(segment, Range) else len(segment)):
            if not size and isinstance(segment, Range) and length >= least and copyable(segment):
                parts += ([piece] for piece in _split(segment, max(least, COPY_PART)))
                break
            taken, segment = _cut(segment, min(length, least - size))
            open_part.append(taken)
            size += min(length, least - size)
            if size == least:
                parts.append(open_part)
                open_part, size = [], 0
    if open_part:
        parts.append(open_part)
    return parts


def _cut(segment: Segment, size: int) -> tuple[Segment, Segment]:
    """The first bytes of a segment, and the rest."""
    if not isinstance(segment, Range):
        return segment[:size], segment[size:]
    store, key, start, length = segment
    return Range(store, key, start, size), Range(store, key, start + size, length - size)


def _split(segment: Range, most: int) -> Iterator[Range]:
    """Pieces of nearly the same length, none above the most: so that no small one is left over."""
    store, key, start, length = segment
    count = -(-length // most)
    ends = [length * n // count for n in range(count + 1)]
    for low, high in pairwise(ends):
        yield Range(store, key, start + low, high - low)
