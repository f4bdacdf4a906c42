"""Take rows out of column chunks that are a dictionary and references to it, without its values.

Where every value of the rows that leave is also one of a row that stays, a chunk keeps its
dictionary page and its statistics; only the references are written anew. Those of many columns are
read at once: a page of references does not say which column it is of, so the pages of all columns
with references of one width are read as one column of integers. The values of the rows that leave
are read likewise, from the dictionaries of all columns of one type.

Chunks are untrusted: what is not exactly as expected is left to the decoder of whole values, which
reads it or refuses it by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catchment.core.parquet.footer import Column, Group
from catchment.core.parquet.thrift import I32, Alike, Buffer, Ints, Path, i64
from catchment.tables.decode import Part
from catchment.tables.fill import booleans, numbers, truths
from catchment.tables.pages import (
    CODECS,
    DATA,
    DATA_V2,
    DICTIONARY,
    PAGE_ROWS,
    PLAIN,
    REFERENCES,
    TYPES,
    Chunk,
    all_there,
    identity,
    packed_parts,
    page,
    page_head,
    plain_pages,
    read_pages,
    references,
    some_there,
    together,
)

_MOST = 1 << 16  # values of a dictionary
_TOGETHER = 1 << 19  # references that are read at once, but for those of a single column
_RUN = 16  # rows that are quicker copied than chosen
_NULLS, _STATISTICS = (3, 12, 3), (3, 12)
_PAGES: tuple[tuple[int, Path, Path], ...] = (  # of references: kind, where count and encoding are
    (DATA, (5, 1), (5, 2)),
    (DATA_V2, (8, 1), (8, 4)),
)


class Thinned(NamedTuple):
    """Chunks of the rows that stay, and of those that leave.

    Attributes:
        chosen: which columns of the part they are of, ascending.
        stay: their bytes, and the row group that they are; ``leave``: likewise.
    """

    chosen: list[int]
    stay: tuple[bytes, Group]
    leave: tuple[bytes, Group]


class _Chunk(NamedTuple):
    """A chunk that is a dictionary and references. Places are those in the bytes of all chunks.

    Attributes:
        number: which of the chunks it is.
        start: of the dictionary's page.
        body: of the dictionary, behind the header of its page.
        pages: of the data pages.
        end: of the chunk.
        size: bytes of the dictionary, uncompressed.
        values: in the dictionary.
        codec: of its pages.
    """

    number: int
    start: int
    body: int
    pages: int
    end: int
    size: int
    values: int
    codec: int

    @property
    def width(self) -> int:
        """Bits of a reference."""
        return max(1, (self.values - 1).bit_length())


class _New(NamedTuple):
    """What becomes of a chunk.

    Attributes:
        pages: data pages of the rows that stay.
        size: their bytes uncompressed.
        nulls: among the rows that stay.
        leave: what the rows that leave refer to; -1: nothing.
    """

    pages: list[bytes]
    size: int
    nulls: int
    leave: Ints


def thin(
    part: Part, chosen: Sequence[int], kinds: Sequence[pa.DataType], removed: Ints
) -> Thinned | None:
    """Those of the chosen columns that need no decoder, without the removed rows.

    Args:
        part: some rows of it stay, some leave.
        chosen: columns that the table stores as the site does, ascending.
        kinds: the types of all columns.
        removed: the rows that leave.

    Raises ArrowException, OSError or ValueError where pages turn out damaged.
    """
    flat = [number for number in chosen if _is_flat(part.columns[number])]
    if not flat:
        return None
    part = part.only(flat)
    found = _Thinner(part, part.read(), [kinds[number] for number in flat], removed).thinned()
    return found and found._replace(chosen=[flat[number] for number in found.chosen])


def _is_flat(column: Column) -> bool:
    return len(column.elements) == 1 and column.leaves[0].physical_type in TYPES


class _Thinner:
    """The work on some flat columns of one row group; their chunks' bytes are at hand."""

    def __init__(
        self, part: Part, data: bytes, kinds: Sequence[pa.DataType], removed: Ints
    ) -> None:
        self.columns = part.columns
        self.group = group = part.group
        self.data = data
        self.kinds = kinds
        self.removed = removed
        self.stays = np.ones(group.rows, np.bool_)
        self.stays[removed] = False
        self.rows = group.rows - len(removed)  # that stay
        self.runs = _runs(removed, group.rows)  # of them; None: too many to be taken one by one
        self.structs = Buffer(group.body)
        self.alike = self.structs.structs(np.append(0, group.ends[:-1]))

    def thinned(self) -> Thinned | None:
        new = {
            chunk: one
            for bundle in self._bundles(self._find())
            for chunk, one in zip(bundle, self._thin(bundle), strict=True)
            if one is not None
        }
        if not new:
            return None
        new = dict(sorted(new.items()))
        return Thinned(
            [chunk.number for chunk in new],
            together(self._staying(new), self.rows),
            together(self._leaving(new), len(self.removed)),
        )

    def _find(self) -> list[_Chunk]:
        """The chunks that are a dictionary and references to it, as their pages' headers say."""
        heads = Buffer(self.data)
        end = np.cumsum(self.group.length)
        start = end - self.group.length
        codec, body, pages, size, count = (np.full(len(start), -1) for _ in range(5))
        for alike in self.alike:
            codec[alike.lanes] = self.structs.signed(alike.first((3, 4)))
        for alike in heads.structs(start):
            if _has(alike, (1,), (2,), (3,), (7, 1), (7, 2)):
                lanes = alike.lanes
                is_one = heads.signed(alike.first((1,))) == DICTIONARY
                is_one &= heads.signed(alike.first((7, 2))) == PLAIN
                body[lanes] = alike.at[-1]
                pages[lanes] = body[lanes] + heads.signed(alike.first((3,)))
                size[lanes] = heads.signed(alike.first((2,)))
                count[lanes] = np.where(is_one, heads.signed(alike.first((7, 1))), -1)
        good = np.isin(codec, list(CODECS)) & (count >= 0) & (count <= _MOST)
        good &= count * 2 <= self.group.rows  # else some value is likely to leave
        good &= (size >= 0) & (size <= self.group.size) & (body <= pages) & (pages < end)
        good &= self._are_references(heads, pages, end, good)
        columns = (np.arange(len(start)), start, body, pages, end, size, count, codec)
        return [_Chunk(*row) for row in np.stack(columns, axis=1)[good].tolist()]

    def _are_references(
        self, heads: Buffer, start: Ints, end: Ints, chunks: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which of the chunks have data pages of references, for exactly all rows."""
        good = chunks.copy()
        at = start.copy()
        rows = np.zeros(len(at), np.int64)
        while len(lanes := np.flatnonzero(good & (at < end))):
            good[lanes] = False
            for alike in heads.structs(at[lanes]):
                some = lanes[alike.lanes]
                for kind, values, encoding in _PAGES:
                    if not _has(alike, (1,), (3,), values, encoding):
                        continue
                    length, count = (heads.signed(alike.first(p)) for p in ((3,), values))
                    fits = heads.signed(alike.first((1,))) == kind
                    fits &= heads.signed(alike.first(encoding)) == REFERENCES
                    good[some] = fits & (length >= 0) & (count > 0) & (count <= self.group.rows)
                    at[some] = alike.at[-1] + length
                    rows[some] += count
        found: NDArray[np.bool_] = good & (at == end) & (rows == self.group.rows)
        return found

    def _bundles(self, chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
        """Those whose references can be read as one column."""
        bundles: defaultdict[tuple[int, int, int], list[_Chunk]] = defaultdict(list)
        for chunk in chunks:
            levels = self._column(chunk).leaves[0].max_definition_level
            bundle = bundles[chunk.codec, levels, chunk.width]
            if bundle and (len(bundle) + 1) * self.group.rows > _TOGETHER:
                yield bundle.copy()
                bundle.clear()
            bundle.append(chunk)
        yield from bundles.values()

    def _column(self, chunk: _Chunk) -> Column:
        return self.columns[chunk.number]

    def _thin(self, bundle: Sequence[_Chunk]) -> Iterator[_New | None]:
        """What becomes of each chunk; None if some value is one of rows that leave only."""
        codes, there = self._references(bundle)
        leave = codes[:, self.removed].astype(np.int64)
        kept = self._staying_rows(codes)
        if there is None:
            kept = kept.ravel()
        else:
            leave[~there[:, self.removed]] = -1
            there = self._staying_rows(there)
            kept = kept[there]
        counts, levels = self._levels(bundle[0], there, len(bundle))
        ends = np.cumsum(counts.sum(axis=1)).tolist()
        bits = packed_parts(kept, counts.ravel().tolist(), bundle[0].width)
        rest = iter(zip(counts.ravel().tolist(), levels, bits, strict=True))
        first = 0
        for number, (chunk, after) in enumerate(zip(bundle, ends, strict=True)):
            pages = list(islice(rest, counts.shape[1]))
            if self._are_kept(chunk, leave[number], kept[first:after]):
                yield self._new(chunk, pages, after - first, leave[number])
            else:
                yield None
            first = after

    def _references(
        self, bundle: Sequence[_Chunk]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Of each chunk the references of all rows, and which rows have one; None: all."""
        first, shape = bundle[0], (len(bundle), self.group.rows)
        array = read_pages(
            pa.int32(),
            first.codec,
            [self.data[chunk.pages : chunk.end] for chunk in bundle],
            shape[0] * shape[1],
            nullable=self._column(first).leaves[0].max_definition_level > 0,
            dictionary=identity(first.codec, first.width),
        )
        found = np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array)]
        codes = found.astype(np.uint8 if first.width <= 8 else np.uint16).reshape(shape)
        return codes, truths(array).reshape(shape) if array.null_count else None

    def _staying_rows[T: np.generic](self, values: NDArray[T]) -> NDArray[T]:
        """The columns of an array that are of rows that stay."""
        if self.runs is None:
            return values[:, self.stays]
        return np.concatenate([values[:, run] for run in self.runs], axis=1)

    def _levels(
        self, first: _Chunk, there: NDArray[np.bool_] | None, chunks: int
    ) -> tuple[Ints, list[bytes]]:
        """Of each page of each chunk how many rows have a value, and the levels that say which."""
        nullable = self._column(first).leaves[0].max_definition_level > 0
        starts = range(0, self.rows, PAGE_ROWS)
        rows = [min(PAGE_ROWS, self.rows - start) for start in starts]
        if there is None:
            counts = np.tile(np.array(rows), (chunks, 1))
            return counts, [all_there(n) if nullable else b"" for n in rows] * chunks
        pages = [there[:, start : start + PAGE_ROWS] for start in starts]
        counts = np.stack([np.count_nonzero(page, axis=1) for page in pages], axis=1)
        some = [some_there(page) for page in pages]
        return counts, [
            all_there(n) if count == n else some[number][chunk]
            for chunk, counted in enumerate(counts.tolist())
            for number, (count, n) in enumerate(zip(counted, rows, strict=True))
        ]

    def _are_kept(self, chunk: _Chunk, leave: Ints, kept: NDArray[Any]) -> bool:
        """Whether each value that leaves also stays. ValueError for one that there is not."""
        greatest = max(int(kept.max()) if len(kept) else -1, int(leave.max()))
        if greatest >= chunk.values:
            raise ValueError("a reference to a value that is not in the dictionary")
        return _all_occur(leave, kept)

    def _new(
        self, chunk: _Chunk, parts: Sequence[tuple[int, bytes, bytes]], values: int, leave: Ints
    ) -> _New:
        """The chunk of which each page has so many values, these levels and packed references."""
        pages, size = [], 0
        for start, (count, levels, bits) in zip(range(0, self.rows, PAGE_ROWS), parts, strict=True):
            body = references(levels, count, bits, chunk.width)
            rows = min(PAGE_ROWS, self.rows - start)
            data, length = page(DATA, chunk.codec, body, rows, REFERENCES)
            pages.append(data)
            size += length
        return _New(pages, size, self.rows - values, leave)

    def _staying(self, new: dict[_Chunk, _New]) -> Iterator[Chunk]:
        """The chunks of the rows that stay."""
        statistics = self._statistics({chunk.number: one.nulls for chunk, one in new.items()})
        for chunk, one in new.items():
            yield Chunk(
                self._column(chunk),
                chunk.codec,
                self.rows,
                chunk.body - chunk.start + chunk.size + one.size,
                self.data[chunk.start : chunk.pages],
                one.pages,
                statistics.get(chunk.number, b""),
            )

    def _leaving(self, new: dict[_Chunk, _New]) -> Iterator[Chunk]:
        """The chunks of the rows that leave: the dictionaries of one type are read at once."""
        alike: defaultdict[tuple[pa.DataType, int, int], list[_Chunk]] = defaultdict(list)
        for chunk in new:
            levels = self._column(chunk).leaves[0].max_definition_level
            alike[self.kinds[chunk.number], chunk.codec, levels].append(chunk)
        found: dict[_Chunk, tuple[bytes, int]] = {}
        for (kind, codec, levels), chunks in alike.items():
            codes = np.stack([new[chunk].leave for chunk in chunks])
            values = self._values(kind, codec, chunks, codes)
            pages = plain_pages(values, len(self.removed), codec, nullable=levels > 0)
            found.update(zip(chunks, pages, strict=True))
        for chunk in new:
            page, size = found[chunk]
            column, rows = self._column(chunk), len(self.removed)
            yield Chunk(column, chunk.codec, rows, size, b"", [page])

    def _values(
        self, kind: pa.DataType, codec: int, chunks: Sequence[_Chunk], codes: Ints
    ) -> pa.Array:
        """What some references of each chunk, -1 for none, mean; the chunks are of one type."""
        pages = [
            page_head(DATA, c.size, c.pages - c.body, c.values, PLAIN) + self.data[c.body : c.pages]
            for c in chunks
            if c.values
        ]
        counts = np.array([chunk.values for chunk in chunks])
        total = int(counts.sum())
        values = read_pages(kind, codec, pages, total) if pages else pa.nulls(0, kind)
        there = booleans((codes >= 0).ravel()).buffers()[1]
        places = numbers((codes + (np.cumsum(counts) - counts)[:, None]).ravel()).buffers()[1]
        return values.take(pa.Array.from_buffers(pa.int64(), codes.size, [there, places]))

    def _statistics(self, nulls: dict[int, int]) -> dict[int, bytes]:
        """The statistics of chunks, where they have any, with new counts of nulls."""
        found = {}
        for alike in self.alike:
            if _STATISTICS not in alike.fields:
                continue
            first, after = alike.first(_STATISTICS), alike.after(_STATISTICS)
            told = _NULLS in alike.fields
            befores = self.structs.slices(first, alike.first(_NULLS) if told else after)
            behinds = self.structs.slices(alike.after(_NULLS) if told else after, after)
            for index, before, behind in zip(alike.lanes.tolist(), befores, behinds, strict=True):
                if index in nulls:
                    found[index] = before + (i64(nulls[index]) if told else b"") + behind
        return found


def _has(alike: Alike, *paths: Path) -> bool:
    """Whether the structs have these fields, as integers."""
    return all(path in alike.fields and alike.fields[path].kind == I32 for path in paths)


def _all_occur(codes: Ints, among: NDArray[Any]) -> bool:
    """Whether each code, but -1, is also among the others."""
    wanted = set(codes.tolist()) - {-1}
    if among.itemsize == 1:
        data = among.tobytes()
        return all(code in data for code in wanted)
    seen = np.zeros(_MOST, np.bool_)
    seen[among] = True
    return bool(seen[list(wanted)].all())


def _runs(removed: Ints, rows: int) -> list[slice] | None:
    """The rows between the removed ones, which ascend; None where these are many."""
    if len(removed) * _RUN > rows:
        return None
    bounds = zip([0, *(removed + 1).tolist()], [*removed.tolist(), rows], strict=True)
    return [slice(start, end) for start, end in bounds if start < end]
