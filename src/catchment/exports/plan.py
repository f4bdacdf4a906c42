"""Which pieces make the next outputs: pure decisions, no effects."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from catchment.exports.model import Piece, Rules


def ready(total: int, rules: Rules, *, done: bool) -> bool:
    """Whether ``total`` finished bytes of one kind may be combined now (the start rule)."""
    return total > 0 if done else total > rules.multiplier * rules.max_bytes


def pack(pieces: Iterable[Piece], max_bytes: int) -> Iterator[list[Piece]]:
    """First-fit-decreasing: the outputs that take all pieces, in the order of their making.

    Each output takes the largest piece left, then again and again the largest that still fits
    (an equal fit is a fit). A piece above the maximum is an output of its own. Equal sizes are
    taken in order of name and offset. O(n log n) for all outputs; lazy, so that a caller who stops
    early does not pay for the rest.
    """
    queue = sorted(pieces, key=lambda piece: (-piece.size, piece.part, piece.start))
    sizes = [-piece.size for piece in queue]  # ascending, for bisect
    left = list(range(len(queue) + 1))  # left[i]: a step towards the first piece left at i or after

    def find(i: int) -> int:
        while left[i] != i:
            left[i] = left[left[i]]
            i = left[i]
        return i

    while (i := find(0)) < len(queue):
        room = max_bytes
        output = []
        while i < len(queue):
            output.append(queue[i])
            left[i] = i + 1
            room += sizes[i]
            i = find(bisect_left(sizes, -room, lo=i + 1))
        yield output


def plan(pieces: Iterable[Piece], rules: Rules, *, done: bool) -> Iterator[list[Piece]]:
    """The outputs of one kind that may be made now: packed, for as long as the start rule holds."""
    known = list(pieces)
    total = sum(piece.size for piece in known)
    for output in pack(known, rules.max_bytes):
        if not ready(total, rules, done=done):
            return
        yield output
        total -= sum(piece.size for piece in output)


def cut(chunks: Iterable[bytes], max_bytes: int) -> Iterator[int]:
    """Sizes of the pieces of a part, cut after whole lines, in order.

    Each piece is as large as the maximum allows, or one single line above it. The last one counts
    the newline that will be added where the part does not end with one. Time is that of a search
    for newlines near the cuts and in each chunk, not that of looking at each line.

    Args:
        chunks: the part's bytes, uncompressed.
        max_bytes: of a piece.
    """
    at = start = end = 0  # of the chunk, of the piece, of the last line that is whole in the piece
    newline = True
    for chunk in filter(None, chunks):
        while True:
            limit = start + max_bytes - at
            if (found := chunk.rfind(b"\n", max(start - at, 0), max(limit, 0))) >= 0:
                end = at + found + 1
            if limit >= len(chunk):
                break
            if end <= start:  # one line above the maximum: whole, wherever it ends
                if (found := chunk.find(b"\n", max(limit, 0))) < 0:
                    break
                end = at + found + 1
            yield end - start
            start = end
        at += len(chunk)
        newline = chunk.endswith(b"\n")
    rest = at - start + (not newline)
    if rest > max_bytes and end > start:
        yield end - start
        rest -= end - start
    if rest:
        yield rest
