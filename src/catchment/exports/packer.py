"""Parts in a store become outputs, with the ledger as the journal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from catchment.core import compose
from catchment.core.errors import Conflict, Corrupt
from catchment.core.ledger import Contribution, Ledger
from catchment.core.store import Range, Store
from catchment.exports import layout
from catchment.exports.batch import Batch, Part
from catchment.exports.codecs import compressor
from catchment.exports.job import Job, State
from catchment.exports.model import Codec, Kind, Output, Piece
from catchment.exports.plan import plan, ready


class Packer:
    """Combines the parts of one job as they come; the store copies the bytes.

    For each output it 1. marks its name, 2. composes the object, 3. records it in the ledger with
    the parts that it took, 4. deletes those and the mark. A crash before 3 leaves a mark, by which
    an unrecorded object is known as ours and made anew; after 3 only deletions are left to do.

    Attributes:
        outputs: every output of the job that is on record, with the digest of the stored bytes.
    """

    def __init__(self, job: Job, run: str, store: Store, ledger: Ledger) -> None:
        self.outputs: dict[Output, str] = {}
        self._job = job
        self._run = run
        self._store = store
        self._ledger = ledger
        self._location = layout.location(job.aggregate, run)
        self._staging = layout.staging(job.aggregate, run)
        self._parts: dict[Kind, dict[str, Part]] = {kind: {} for kind in Kind}
        self._plans: dict[Kind, Iterator[list[Piece]]] = {}
        self._totals = dict.fromkeys(Kind, 0)
        self._numbers = dict.fromkeys(Kind, 0)
        self._done = False
        self._begun: set[str] = set()

    def resume(self, batches: Iterable[Batch], outputs: Iterable[Contribution]) -> None:
        """Take up what an earlier coordinator of this job left."""
        for batch in batches:
            self.add(batch)
        for row in outputs:
            output = Output.from_json(row.meta["output"])
            self._note(output, row.meta["stored_digest"], row.meta["parts"])
            self._clean(output, row.meta["parts"])
        suffix = layout.begun("", "")
        self._begun = {
            stat.key.removeprefix(self._staging).removesuffix(suffix)
            for stat in self._store.list(self._staging)
            if stat.key.endswith(suffix)
        }

    def add(self, batch: Batch) -> None:
        """Take in the parts of a batch that is on record."""
        for part in batch.parts:
            self._parts[part.kind][part.key] = part
            self._totals[part.kind] += part.size
            self._plans.clear()

    def step(self, *, done: bool) -> Output | None:
        """Make at most one output; None where nothing may be combined now (see :func:`plan`)."""
        if done != self._done:
            self._done = done
            self._plans.clear()
        for kind in Kind:
            if pieces := self._next(kind):
                return self._make(kind, [self._parts[kind][piece.part] for piece in pieces])
        return None

    def _next(self, kind: Kind) -> list[Piece] | None:
        rules, done = self._job.rules, self._done
        if kind not in self._plans:
            if not ready(self._totals[kind], rules, done=done):
                return None
            pieces = [Piece(part.key, 0, part.size) for part in self._parts[kind].values()]
            self._plans[kind] = plan(pieces, rules, done=done)
        return next(self._plans[kind], None)

    def _make(self, kind: Kind, parts: list[Part]) -> Output:
        number = self._numbers[kind] + 1
        while (made := self._compose(kind, number, parts)) is None:
            number += 1  # somebody else's object has the name
        output, stored_digest = made
        taken = [part.key for part in parts]
        self._ledger.receive(
            self._job.aggregate,
            self._job.contract,
            f"{self._run}/{output.name}",
            output.digest,
            output.size,
            {"run": self._run, "output": output.to_json(), "parts": taken}
            | {"stored_digest": stored_digest},
            State.FINISHED,
        )
        self._note(output, stored_digest, taken)
        self._clean(output, taken)
        return output

    def _compose(self, kind: Kind, number: int, parts: list[Part]) -> tuple[Output, str] | None:
        """The output and the digest of its stored bytes; None if the name is taken."""
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
                stored, digest = composed.size, composed.digest or ""
                size, stored_digest = stored, digest
            else:
                through = _Through(codec)
                stored = self._store.put(target, through.chunks(compose.stream(ranges))).size
                size, digest, stored_digest = through.size, through.digest, through.stored_digest
        except Conflict:
            self._store.delete(mark)
            return None
        expected = sum(part.size for part in parts)
        if size != expected:
            raise Corrupt(
                f"{name}: expected {expected} bytes from its parts, got {size}", kind="short-source"
            )
        count = sum(part.lines for part in parts)
        return Output(name, kind, size, stored, count, digest), stored_digest

    def _note(self, output: Output, stored_digest: str, parts: Sequence[str]) -> None:
        self.outputs[output] = stored_digest
        number = layout.output_number(output.name, self._job.contract, output.kind) or 0
        self._numbers[output.kind] = max(self._numbers[output.kind], number)
        for key in parts:
            if part := self._parts[output.kind].pop(key, None):
                self._totals[output.kind] -= part.size

    def _clean(self, output: Output, parts: Iterable[str]) -> None:
        for key in (*parts, layout.begun(self._staging, output.name)):
            self._store.delete(key)


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
