"""Assembly: a merge is put together of what sites sent, as it stands, and of what must be summed.

Of each site's part the blocks are copied (see :mod:`.blocks`); loose rows, and the rows of all
sites together, are brought into one order and written between them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from catchment.core.errors import NotFound
from catchment.core.executor import bounded_map
from catchment.core.parquet.footer import MAGIC, Group, assemble
from catchment.core.parquet.parse import parse_file
from catchment.core.store import Segment, Store
from catchment.studies import blocks, coded, once, parquet
from catchment.studies import columns as types
from catchment.studies.blocks import LOOSE, Blocks
from catchment.studies.model import COUNT, SITE, Column, Object, Part

REPORTED = "sites"  # how many sites have a row of all sites together
_AHEAD = 4  # stretches of text that wait to be written
_LOOSE = b"loose"  # in the footer of the totals: row groups of the merge that are no blocks


class _Source(NamedTuple):
    """Rows that go into a merge.

    Attributes:
        columns: of categories, as dictionary arrays.
        counts: of each row.
        sites: place of each loose row's site among the parts; -1 of all others.
        weights: how many sites the row adds to its total: 1 of a part that is new, -1 of one that
            leaves, as many as it has of a row of all sites; 0 of rows that are in these already.
    """

    columns: dict[str, list[pa.Array]]
    counts: coded.Ints
    sites: coded.Codes
    weights: coded.Codes


class Before(NamedTuple):
    """A former merge of the same columns: its parts, and where its objects are."""

    parts: tuple[Part, ...]
    merged: str
    totals: str


class _Stretch(NamedTuple):
    """What comes next in a merge: a block of a part, or else loose rows in order."""

    part: int  # its place; -1: loose rows
    piece: int
    rows: coded.Ints


class Work:
    """One merge at work. In memory are the rows of all sites together, and the loose ones."""

    def __init__(
        self, store: Store, place: str, parts: tuple[Part, ...], kinds: dict[str, str]
    ) -> None:
        self.store = store
        self.place = place
        self.parts = parts
        self.types = kinds
        self.blocks = [self._blocks(part) for part in parts]

    def read(self, before: Before | None) -> None:
        """Sum what changed, and bring all rows but those of blocks into one order."""
        sources = self._sources(before)
        rows = coded.unify([source.columns for source in sources], self.types)
        counts = np.concatenate([source.counts for source in sources])
        sites = np.concatenate([source.sites for source in sources])
        weights = np.concatenate([source.weights for source in sources])
        del sources

        # What the sites had before, less what left, and what came.
        summed = np.flatnonzero(weights)
        keys = rows.take(summed).keys()
        by = np.argsort(keys)
        keys = keys[by]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        del keys
        summed = summed[by]
        weights = weights[summed]
        reported = np.add.reduceat(weights, starts)
        amounts = counts[summed]
        amounts *= np.sign(weights)
        total = np.add.reduceat(amounts, starts)
        del by, weights, amounts
        there = np.flatnonzero(reported > 0)
        there = there[np.argsort(-total[there], kind="stable")]
        first = summed[starts[there]]
        self.reported = reported[there].astype(np.int32)
        self.summed = total[there]

        kept = np.flatnonzero(sites >= 0)
        own, self.all = rows.take(kept).only_used(rows.take(first))
        every = {n: np.concatenate([self.all.codes[n], own.codes[n]]) for n in own.names}
        names = pa.array([part.site for part in self.parts], pa.string())
        every[SITE] = np.concatenate([np.full(len(first), -1, np.int32), sites[kept]])
        self.rows = coded.Coded({**own.values, SITE: names}, every)
        self.counts = np.concatenate([self.summed, counts[kept]])
        # All sites together come first, then the sites in falling order of name.
        ranks = np.where(every[SITE] < 0, 0, len(self.parts) - every[SITE]).astype(np.int32)
        order = coded.order(self.counts, ranks)
        self.stretches = list(self._stretches(order, self.counts[order], ranks[order]))

    @property
    def many(self) -> int:
        """Rows of the merge."""
        return len(self.summed) + sum(part.rows for part in self.parts)

    @property
    def total(self) -> int:
        """The greatest count."""
        return int(self.summed[0])

    def described(self) -> dict[str, Column]:
        """The columns, where nothing is to be hidden."""
        found = {COUNT: Column("integer", len(np.unique(self.summed)))}
        for name, values in self.all.values.items():
            found[name] = Column(types.chart_type(name, str(values.type)), len(values))
        found[SITE] = Column("string", len(self.parts))
        return found

    def merged(self) -> Object:
        """Write the merge."""
        return once.compose(self.store, f"{self.place}merged.parquet", self._file)

    def csv(self, key: str) -> Object:
        """Write the merge as CSV."""
        return once.compose(self.store, key, self._lines)

    def totals(self) -> Object:
        """Write how many sites have each of the rows of all sites together, in their order.

        And which row groups of the merge hold these rows, and the loose ones.
        """
        batch = pa.record_batch([pa.array(self.reported)], [REPORTED])
        loose = [n for n, stretch in enumerate(self.stretches) if stretch.part < 0]
        schema = batch.schema.with_metadata({_LOOSE: json.dumps(loose).encode()})
        key = f"{self.place}totals.parquet"
        return parquet.write(self.store, key, lambda: [batch], schema)

    def _file(self) -> Iterator[Segment]:
        yield MAGIC
        numbers = {COUNT: self.counts}
        schema = coded.batch(numbers, self.rows, slice(0, 0)).schema
        position = len(MAGIC)
        groups: list[Group] = []
        for part, piece, rows in self.stretches:
            if part < 0:
                table = [coded.batch(numbers, self.rows, rows)]
                data = b"".join(parquet.encoded(table, schema, groups=True))
                (group,) = parse_file(data).groups
                yield from (data[at : at + length] for at, length in group.extents())
            else:
                source = self.blocks[part]
                group = source.stored.groups[piece]
                yield from source.ranges(group)
            groups.append(group.moved(position))
            position += int(group.length.sum())
        yield assemble(self.blocks[0].stored.columns, groups)

    def _lines(self) -> Iterator[Segment]:
        lines = coded.Lines(self.rows)
        counts = pa.array(self.counts)

        def made(one: _Stretch) -> Segment:
            if one.part < 0:
                return b"".join(lines.of(counts, one.rows))
            return self.blocks[one.part].lines[one.piece]

        yield lines.header
        with ThreadPoolExecutor(2) as ahead:  # while earlier ones are written
            yield from bounded_map(ahead, made, self._short(), _AHEAD)

    def _short(self) -> Iterator[_Stretch]:
        """The same stretches, those of loose rows cut."""
        for one in self.stretches:
            if one.part < 0:
                for some in range(0, len(one.rows), coded.CHUNK):
                    yield one._replace(rows=one.rows[some : some + coded.CHUNK])
            else:
                yield one

    def _stretches(
        self, order: coded.Ints, counts: coded.Ints, ranks: coded.Codes
    ) -> Iterator[_Stretch]:
        """Blocks between loose rows, which are in this order and have these counts and ranks."""
        found = sorted(
            (-piece.cnt, len(self.parts) - place, number, place)
            for place, source in enumerate(self.blocks)
            for number, piece in enumerate(source.stored.pieces)
            if piece.cnt != LOOSE
        )
        falling = -counts
        done = 0
        for count, rank, number, place in found:
            low, high = np.searchsorted(falling, [count, count + 1])
            at = int(low + np.searchsorted(ranks[low:high], rank))
            yield from self._loose(order[done:at])
            yield _Stretch(place, number, order[:0])
            done = at
        yield from self._loose(order[done:])

    @staticmethod
    def _loose(order: coded.Ints) -> Iterator[_Stretch]:
        for start, stop, _ in blocks.even(0, len(order)):
            yield _Stretch(-1, -1, order[start:stop])

    def _sources(self, before: Before | None) -> list[_Source]:
        """What stands, what leaves, and what comes."""
        if before is None:
            return [self._new(place) for place in range(len(self.parts))]
        old, now = ({part.site: part for part in parts} for parts in (before.parts, self.parts))
        stays = {s for s in old.keys() & now.keys() if old[s].digest == now[s].digest}
        with ThreadPoolExecutor(2) as threads:
            standing = threads.submit(self._standing, before, stays)
            leaving = threads.map(self._leaving, (old[site] for site in old if site not in stays))
            new = (n for n, part in enumerate(self.parts) if part.site not in stays)
            coming = threads.map(self._new, new)
            if (stands := standing.result()) is not None:
                return [stands, *leaving, *coming]
        return self._sources(None)

    def _standing(self, before: Before, stays: set[str]) -> _Source | None:
        """The rows of all sites together, and the loose ones of sites that did not change.

        None where the former merge is of a format that does not tell which rows these are.
        """
        with blocks.opened(self.store, before.totals) as file:
            told = (file.metadata.metadata or {}).get(_LOOSE)
            if told is None:
                return None
            loose = json.loads(told)
            reported = file.read()[REPORTED].to_numpy()
        types = {**self.types, SITE: "string"}
        with blocks.opened(self.store, before.merged, types) as file:
            columns, numbers = coded.read(file, types, [COUNT], loose)
        known = coded.unify([{SITE: columns.pop(SITE)}], {SITE: "string"})
        place = {part.site: number for number, part in enumerate(self.parts)}
        names = known.values[SITE].to_pylist()
        places = np.array([place[n] if n in stays else -1 for n in names] + [-1], np.int32)
        weights = np.zeros(len(numbers[COUNT]), np.int32)
        weights[known.codes[SITE] < 0] = reported
        return _Source(columns, numbers[COUNT], places[known.codes[SITE]], weights)

    def _leaving(self, part: Part) -> _Source:
        columns, counts = self._blocks(part).read(self.types)
        away = np.full(len(counts), -1, np.int32)
        return _Source(columns, counts, away, away)

    def _new(self, place: int) -> _Source:
        source = self.blocks[place]
        columns, counts = source.read(self.types)
        sites = np.full(len(counts), place, np.int32)
        for piece in source.stored.pieces:
            if piece.cnt != LOOSE:
                sites[piece.start : piece.stop] = -1
        return _Source(columns, counts, sites, np.ones(len(counts), np.int32))

    def _blocks(self, part: Part) -> Blocks:
        """A part in blocks, with the columns of this merge; else it is written anew."""
        own = Blocks(self.store, part.key)
        if own.cut and list(coded.plain(part.columns).items()) == list(self.types.items()):
            return own
        told = hashlib.sha256(json.dumps(list(self.types.items())).encode()).hexdigest()
        key = f"{part.key.removesuffix('.parquet')}-{told[:32]}.parquet"
        try:
            self.store.head(key)
        except NotFound:
            columns, counts = own.read(self.types)
            rows = coded.unify([columns], self.types)
            order = np.lexsort((rows.keys(), -counts))
            blocks.write(self.store, key, counts[order], rows.take(order), part.site, text=False)
        return Blocks(self.store, key)
