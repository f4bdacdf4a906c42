"""What the ledger remembers of one job: its batches and its outputs, each entered once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

from catchment.core.ledger import Contribution, Delivery, Ledger, Move, Run
from catchment.exports.batch import Batch
from catchment.exports.job import State
from catchment.exports.model import Output


class Made(NamedTuple):
    """An output, with what the ledger alone needs to know of it.

    Attributes:
        stored_digest: ``sha256:<hex>`` of the bytes as stored.
        parts: keys of the parts that it took.
    """

    output: Output
    stored_digest: str
    parts: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Plain types, for the ledger."""
        return self._asdict() | {"output": self.output.to_json()}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(Output.from_json(data["output"]), data["stored_digest"], data["parts"])


class Book:
    """The entries of one open job.

    Attributes:
        batches: by number.
        made: outputs in the order of their making.
    """

    def __init__(self, ledger: Ledger, record: Run) -> None:
        self.batches: dict[int, Batch] = {}
        self.made: list[Made] = []
        self._ledger = ledger
        self._record = record
        self._rows: list[Contribution] = []
        for row in ledger.contributions(record.aggregate, state=State.FINISHED):
            if row.meta["run"] == record.id:
                self._note(row)

    def enter_batch(self, site: str, batch: Batch) -> Batch:
        """The batch as it is on record, where another coordinator may have been first."""
        name = f"{self._record.id}/batch-{batch.number:06}"
        # A batch is one thing, whoever read it: not known by the digest of what was read.
        digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        size = sum(part.size for part in batch.parts)
        self._enter(Delivery(site, name, digest, size, {"batch": batch.to_json()}))
        return self.batches[batch.number]

    def enter_output(self, site: str, made: Made) -> None:
        """Put an output on record: from here on its parts are used."""
        name = f"{self._record.id}/{made.output.name}"
        delivery = Delivery(site, name, made.output.digest, made.output.size, made.to_json())
        self._enter(delivery)

    def moves(self, to: State) -> list[Move]:
        """Every entry to its last state."""
        return [Move(row.id, State.FINISHED, to) for row in self._rows]

    def _enter(self, delivery: Delivery) -> None:
        delivery = replace(delivery, meta={"run": self._record.id, **delivery.meta})
        (row,) = self._ledger.receive_many(self._record.aggregate, [delivery], State.FINISHED)
        self._note(row)

    def _note(self, row: Contribution) -> None:
        self._rows.append(row)
        if "batch" in row.meta:
            batch = Batch.from_json(row.meta["batch"])
            self.batches[batch.number] = batch
        else:
            self.made.append(Made.from_json(row.meta))
