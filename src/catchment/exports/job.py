"""A job: who is asked for, where, and how the outputs are made; and the house it works in."""

from __future__ import annotations

import enum
import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from catchment.core.errors import Invalid
from catchment.core.ledger import Ledger
from catchment.core.progress import Progress, silent
from catchment.core.store import Store
from catchment.exports import layout
from catchment.exports.model import Codec, Rules
from catchment.exports.sources import Source

# An id of FHIR (R4, section 2.24.0.1), or the key of a file.
_MEMBER = re.compile(r"[A-Za-z0-9._/+-]{1,200}")


class State(enum.StrEnum):
    """Of a contribution: a batch of members, or an output."""

    FINISHED = "finished"  # whole, and part of a job that goes on
    PUBLISHED = "published"
    DISCARDED = "discarded"  # its job was cancelled, or failed


NEXT = {
    State.FINISHED: {State.PUBLISHED, State.DISCARDED},
    State.PUBLISHED: set[State](),
    State.DISCARDED: set[State](),
}


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        name: of the aggregate, ``exports/<name>``.
        contract: site of the ledger's lines, and first part of the outputs' names.
        members: whose records are exported, each once.
        repeated: how many more times members were named.
        batch: members in a batch.
        threshold: share of members that may fail; one more stops the job.
        base_url: what the manifest puts before the outputs' names; empty: they are relative.
    """

    name: str
    contract: str
    source: Source
    members: tuple[str, ...]
    repeated: int = 0
    rules: Rules = field(default_factory=Rules)
    codec: Codec = Codec.NONE
    batch: int = 100
    threshold: float = 0.01
    base_url: str = ""

    def __post_init__(self) -> None:
        layout.check(self.contract, "contract")

    @property
    def aggregate(self) -> str:
        """As the ledger knows it."""
        return f"exports/{self.name}"

    def config(self) -> dict[str, Any]:
        """What makes two jobs the same one, so that the second goes on where the first stopped.

        Holds no member: they are known by their number and the digest of all of them.
        """
        digest = hashlib.sha256("\n".join(self.members).encode()).hexdigest()
        return {
            "contract": self.contract,
            "source": self.source.describe(),
            "members": {"count": len(self.members), "digest": f"sha256:{digest}"},
            "batch": self.batch,
            "threshold": self.threshold,
            "codec": self.codec.value,
            **asdict(self.rules),
        }

    def batches(self) -> list[tuple[str, ...]]:
        """The members, by batch."""
        return [
            self.members[start : start + self.batch]
            for start in range(0, len(self.members), self.batch)
        ]


@dataclass(frozen=True, slots=True)
class House:
    """Where a job works.

    Attributes:
        shared: the executor's workers see this machine's files.
        window: batches under way or waiting.
        lease: how long the ledger keeps the job for a coordinator that does not move any more.
    """

    store: Store
    ledger: Ledger
    executor: Executor
    progress: Progress = silent
    shared: bool = True
    window: int = 2 * (os.cpu_count() or 1)
    lease: timedelta = timedelta(seconds=60)


def read_members(lines: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Members of a text, one a line, each once in the order given; and how many were repeated.

    Blank lines and those that begin with ``#`` are passed over. Invalid (kind ``bad-member``) tells
    the number of a line that is no id; the line itself is not shown.
    """
    members: dict[str, None] = {}
    named = 0
    for number, line in enumerate(lines, 1):
        member = line.strip()
        if not member or member.startswith("#"):
            continue
        if not _MEMBER.fullmatch(member):
            raise Invalid(
                f"line {number} of the members is not an id: expected up to 200 of "
                "A-Z a-z 0-9 . _ / + -",
                kind="bad-member",
            )
        named += 1
        members[member] = None
    return tuple(members), named - len(members)
