"""Parts in a store become outputs, with the ledger as the journal."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator

from catchment.core import compose
from catchment.core.errors import Conflict
from catchment.core.store import Range, Store
from catchment.exports import layout
from catchment.exports.batch import Batch, Part
from catchment.exports.book import Book, Made
from catchment.exports.codecs import compressor
from catchment.exports.job import Job
from catchment.exports.model import Codec, Kind, Output, Piece
from catchment.exports.plan import plan, ready


class Packer:
    """Combines the parts of one job as they come; the store copies the bytes.

    Batches are taken in by their numbers, whichever was finished first, and what may be made of
    them is made before the next one comes in. So which records stand in which output follows from
    the job alone, however fast its workers are and however often they crash.

    For each output it 1. marks its name, 2. composes the object, 3. enters it in the book with the
    parts that it took, 4. deletes those and the mark. A crash before 3 leaves a mark, by which an
    object that is not on record is known as ours and made anew; after 3 only deletions are left.
    """

    def __init__(self, job: Job, run: str, store: Store, book: Book) -> None:
        self._job = job
        self._store = store
        self._book = book
        self._location = layout.location(job.aggregate, run)
        self._staging = layout.staging(job.aggregate, run)
        self._parts: dict[Kind, dict[str, Part]] = {kind: {} for kind in Kind}
        self._plans: dict[Kind, Iterator[list[Piece]]] = {}
        self._totals = dict.fromkeys(Kind, 0)
        self._numbers = dict.fromkeys(Kind, 0)
        self._done = False
        self._taken: set[int] = set()  # batches, by number
        self._at = 0  # the next of them
        self._made: dict[Kind, deque[Made]] = {kind: deque() for kind in Kind}  # by a former packer
        for made in sorted(book.made, key=self._number):
            self._made[made.output.kind].append(made)
        mark = layout.begun("", "")
        self._begun = {
            stat.key.removeprefix(self._staging).removesuffix(mark)
            for stat in store.list(self._staging)
            if stat.key.endswith(mark)
        }

    def step(self, *, done: bool) -> Output | None:
        """Make at most one output; None where nothing may be combined now (see :func:`plan`).

        ``done`` says that all batches are in the book.
        """
        while True:
            for kind in Kind:
                if pieces := self._next(kind):
                    return self._make(kind, [self._parts[kind][piece.part] for piece in pieces])
            while self._at in self._taken:
                self._at += 1
            batch = self._book.batches.get(self._at)
            if batch is not None:
                self._take(batch)
            elif done and not self._done:
                self._done = True
                self._plans.clear()
            else:
                return None

    def _take_over(self) -> None:
        """Go on with a job of an earlier version, whose outputs took what had come by then."""
        for batch in self._book.batches.values():
            if batch.number not in self._taken:
                self._take(batch)
        for recorded in self._made.values():
            while recorded:
                self._strike(recorded.popleft())
        self._plans.clear()

    def _take(self, batch: Batch) -> None:
        self._taken.add(batch.number)
        for part in batch.parts:
            self._parts[part.kind][part.key] = part
            self._totals[part.kind] += part.size
            self._plans.clear()

    def _next(self, kind: Kind) -> list[Piece] | None:
        rules, done = self._job.rules, self._done
        if kind not in self._plans:
            if not ready(self._totals[kind], rules, done=done):
                return None
            pieces = [Piece(part.key, 0, part.size) for part in self._parts[kind].values()]
            self._plans[kind] = plan(pieces, rules, done=done)
        return next(self._plans[kind], None)

    def _make(self, kind: Kind, parts: list[Part]) -> Output:
        if self._made[kind]:
            known = self._made[kind][0]
            if set(known.parts) != {part.key for part in parts}:
                self._take_over()
            else:
                self._strike(self._made[kind].popleft())
            return known.output
        number = self._numbers[kind] + 1
        while (made := self._compose(kind, number, parts)) is None:
            number += 1  # somebody else's object has the name
        self._book.enter_output(self._job.contract, made)
        self._strike(made)
        return made.output

    def _compose(self, kind: Kind, number: int, parts: list[Part]) -> Made | None:
        """The output as an object that is not on record yet; None if the name is taken."""
        codec = self._job.codec
        name = layout.output_name(self._job.contract, number, kind, codec)
        target, mark = self._location + name, layout.begun(self._staging, name)
        if name in self._begun:  # by one that crashed; what is there is ours, and not on record
            self._store.delete(target)
        self._store.put(mark, b"", mode="overwrite")
        ranges = [Range(self._store, part.key, 0, part.size) for part in parts]
        try:
            if codec is Codec.NONE:
                composed = self._store.compose(target, ranges, digest=True)
                size = stored = composed.size
                digest = stored_digest = composed.digest or ""
            else:
                through = _Through(codec)
                stored = self._store.put(target, through.chunks(compose.stream(ranges))).size
                size, digest, stored_digest = through.size, through.digest, through.stored_digest
        except Conflict:
            self._store.delete(mark)
            return None
        lines = sum(part.lines for part in parts)
        output = Output(name, kind, size, stored, lines, digest)
        return Made(output, stored_digest, [part.key for part in parts])

    def _number(self, made: Made) -> int:
        name, kind = made.output.name, made.output.kind
        return layout.output_number(name, self._job.contract, kind) or 0

    def _strike(self, made: Made) -> None:
        """Count an output that is on record, and remove what it took."""
        kind = made.output.kind
        self._numbers[kind] = max(self._numbers[kind], self._number(made))
        for key in made.parts:
            self._totals[kind] -= self._parts[kind].pop(key).size
            self._store.delete(key)
        self._store.delete(layout.begun(self._staging, made.output.name))


class _Through:
    """Compresses chunks on their way, with the digests of both sides."""

    def __init__(self, codec: Codec) -> None:
        self.size = 0
        self._codec = codec
        self._digest = hashlib.sha256()
        self._stored_digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def stored_digest(self) -> str:
        return f"sha256:{self._stored_digest.hexdigest()}"

    def chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes | memoryview]:
        compress = compressor(self._codec)
        for chunk in chunks:
            self.size += len(chunk)
            self._digest.update(chunk)
            yield self._told(compress.compress(memoryview(chunk)))
        yield self._told(compress.flush())

    def _told(self, data: bytes | memoryview) -> bytes | memoryview:
        self._stored_digest.update(data)
        return data
