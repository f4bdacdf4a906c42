"""Where datasets of transforms go: at once, or staged by a worker for a coordinator to commit."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from catchment.arrays import journal, plan
from catchment.arrays.document import Document, check_chunks
from catchment.arrays.journal import Holder
from catchment.arrays.look import Facts
from catchment.arrays.model import Decision, OnConflict, Step
from catchment.arrays.prepare import Prepared, prepare
from catchment.arrays.schema import Schema, differences
from catchment.arrays.stack import Stack, Staged
from catchment.arrays.transform.model import Piece
from catchment.core.errors import Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown
from catchment.core.store import Store, open_store

SUFFIX = ".zarr"
DEEPEST = 4  # names in the key of a store
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def below(store: Store, key: str) -> Store:
    """The store at a key of another, reached in the same way."""
    return open_store(f"{store.url.rstrip('/')}/{key}", **getattr(store, "options", {}))


class Refused(Invalid):
    """A dataset that cannot be appended; its findings say why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        worst = next(f for f in findings if f.severity is Severity.ERROR)
        super().__init__(f"{worst.where}: {worst.message}", kind=worst.code, hint=worst.hint)
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How sessions that go to one store key are divided among stores.

    Attributes:
        period: ``month`` or ``year`` of the recording's start; empty: none.
        schema: sessions of another schema get a store of their own; else they are refused.
        max_sessions: of one store; the next ones go to another. 0: no end.
    """

    period: str = ""
    schema: bool = True
    max_sessions: int = 0

    def key(self, store_key: str, start: float) -> str:
        """The key of the store for a time."""
        if not self.period:
            return store_key
        moment = None
        with suppress(OverflowError, ValueError):  # NaN, or of no year that there is
            moment = datetime.fromtimestamp(start / 1000, UTC)
        name = "undated" if moment is None else f"{moment:%Y}"
        if moment is not None and self.period == "month":
            name = f"{moment:%Y-%m}"
        return with_part(store_key, name)


def check_key(store_key: str) -> str:
    """A key that a transform gives; Invalid (kind ``bad-store-key``) if it is no name below."""
    parts = store_key.split("/")
    if len(parts) > DEEPEST or not all(map(_NAME.fullmatch, parts)) or parts[-1] == SUFFIX:
        raise Invalid(
            f"expected the key of a store below the destination, got {shown(store_key)}",
            kind="bad-store-key",
            hint=f"use names of A-Z a-z 0-9 . _ -, at most {DEEPEST}, between slashes",
        )
    if not store_key.endswith(SUFFIX):
        raise Invalid(
            f"expected the key of a store to end in {SUFFIX}, got {shown(store_key)}",
            kind="bad-store-key",
            hint="else nobody finds it",
        )
    return store_key


def with_part(store_key: str, part: str) -> str:
    """``windows.zarr`` becomes ``windows.<part>.zarr``."""
    return f"{store_key.removesuffix(SUFFIX)}.{part}{SUFFIX}"


def apart(base: str, schema: Schema, own: Schema, site: str, session: str) -> tuple[str, Finding]:
    """The key of the store for a session that does not go with another's, and why."""
    key = with_part(base, own.fingerprint[:8])
    reasons = list(differences(schema, own))
    told = "; ".join(f"{where}: {text} [{code}]" for code, where, text in reasons[:4])
    more = f" and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return key, Finding(
        site,
        Severity.WARNING,
        "own-partition",
        session,
        f"does not go with {base}, so it joins {key}: {told}{more}",
        "bring channels, rates and units into line, if it shall join the others",
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """What a worker did with one dataset.

    Attributes:
        key: of the store that it went to.
        staged: its chunks, which the coordinator makes visible; None where there is nothing to do.
        windows: positions that came.
        schema: where there is no store yet, and none is made.
    """

    key: str
    step: Step
    staged: Staged | None
    windows: int
    raw_bytes: int
    schema: Schema | None = None


class _Seen(threading.local):
    """Stores that this thread saw within one run: what stands in them need not be learnt again."""

    def __init__(self) -> None:
        self._run = ""
        self._stacks: dict[str, Stack] = {}

    def stack(self, holder: Holder, store: Store) -> Stack:
        """The one of that store; another run may find another store at the same place."""
        if self._run != holder.token:
            self._run, self._stacks = holder.token, {}
        return self._stacks.setdefault(store.url, Stack(store))


_seen = _Seen()


@dataclass
class StagingSink:
    """Stages datasets in a worker; the coordinator holds the lease and commits."""

    destination: Store
    holder: Holder
    transform: str
    partitioning: Partitioning
    on_conflict: OnConflict
    dry_run: bool = False
    asked: set[str] = field(default_factory=set)  # keys of stores, as the transform names them
    sent: list[Sent] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def append(self, piece: Piece) -> str:
        """Stage every session of the dataset; Refused if one cannot be kept."""
        check_key(piece.store_key)
        facts, session = Facts(transform=self.transform), piece.session
        url = f"{self.destination.url}/{piece.store_key}"
        self.asked |= {piece.store_key, url}
        if session is not None:
            facts = replace(facts, session=session.id, site=session.site, source=session.id)
        if self._by_positions(piece, facts):
            return url
        sessions, found = prepare(piece.dataset, append_dim=piece.append_dim, facts=facts)
        if session is not None:
            found = [replace(f, where=f"{session.id}: {f.where}") for f in found]
        if any(f.severity is Severity.ERROR for f in found):
            raise Refused(found)
        self.findings += found
        for one in sessions:
            self._send(one, self.partitioning.key(piece.store_key, one.row.start), piece.chunks)
        return url

    def _by_positions(self, piece: Piece, facts: Facts) -> bool:
        """Append to a store that grows by positions, at once: there slots cannot be staged."""
        from catchment.arrays import api
        from catchment.arrays.flat import Flat

        store = below(self.destination, piece.store_key)
        if not api.by_positions(store, piece.dataset, piece.append_dim):
            return False
        outcome = Flat(Stack(store)).append(
            piece.dataset, piece.append_dim, chunks=piece.chunks, on_conflict=self.on_conflict,
            dry_run=self.dry_run, facts=facts,
        )  # fmt: skip
        if outcome.refused:
            raise Refused(outcome.findings)
        self.findings += outcome.findings
        self.sent += [
            Sent(piece.store_key, step, None, step.windows, step.raw_bytes)
            for step in outcome.steps
        ]
        return True

    def _send(self, one: Prepared, key: str, chunks: Mapping[str, int] | None) -> None:
        key, stack, document = self._place(one, key)
        if document is None and not self.dry_run:
            document = stack.make(one, chunks)
        if document is not None:
            check_chunks(document, chunks)
        known = stack.known(document).present if document else {}
        size = document.size if document else 0
        (step,) = plan.steps([one], known, size, self.on_conflict)
        if (error := plan.conflict([step])) is not None:
            raise error
        staged = None
        todo = step.decision in (Decision.APPEND, Decision.REPLACE)
        if todo and document is not None and not self.dry_run:
            staged = stack.stage(document, one, self.holder, earlier=step.earlier)
            step = replace(step, slot=staged.claim.slot)
        new = one.schema if document is None else None
        self.sent.append(Sent(key, step, staged, one.row.n_windows, one.raw_bytes, new))

    def _place(self, one: Prepared, key: str) -> tuple[str, Stack, Document | None]:
        """The store for a session: that of the key, of its schema, or the next when it is full."""
        stack = self._stack(key)
        document, _ = stack.look()
        if document is not None and document.schema.fingerprint != one.schema.fingerprint:
            if not self.partitioning.schema:
                raise Refused(list(plan.check_schema(document.schema, [one])))
            key, told = apart(key, document.schema, one.schema, one.row.site, one.row.session)
            self.findings.append(told)
            stack = self._stack(key)
            document, _ = stack.look()
        number = 1
        first = key
        while (
            self.partitioning.max_sessions
            and document is not None
            and journal.next_slot(stack.store, document) >= self.partitioning.max_sessions
            and one.row.session not in stack.known(document).present
        ):
            number += 1
            key = with_part(first, f"{number:04}")
            stack = self._stack(key)
            document, _ = stack.look()
        return key, stack, document

    def _stack(self, key: str) -> Stack:
        return _seen.stack(self.holder, below(self.destination, key))


@dataclass
class DirectSink:
    """Appends at once, for transforms that are called by hand."""

    destination: Store
    transform: str
    on_conflict: OnConflict = "error"

    def append(self, piece: Piece) -> str:
        """Append the dataset; Refused if it cannot be kept."""
        from catchment.arrays import api

        store = below(self.destination, check_key(piece.store_key))
        facts: dict[str, Any] = {}
        if piece.session is not None:
            facts = {"session": piece.session.id, "site": piece.session.site}
        outcome = api.append(
            piece.dataset, store, append_dim=piece.append_dim, chunks=piece.chunks,
            on_conflict=self.on_conflict, transform=self.transform, **facts,
        )  # fmt: skip
        if outcome.refused:
            raise Refused(outcome.findings)
        return store.url
