"""Appending along a dimension of positions, such as ``time``, and to stores that xarray made.

Chunks are written behind what readers see; the last chunk, where a new position shares it, is
replaced by one that has the same values and more. One object holds all metadata and replacing it
is the commit; a create-only record decides it. What is replaced or withdrawn moves what lies behind
it: see :mod:`catchment.arrays.flat_splice`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from catchment.arrays import flat_write, journal, plan
from catchment.arrays.content import text_of
from catchment.arrays.flat_log import GROWTH, SPLICE, FlatLog, Piece, brought, pieces
from catchment.arrays.flat_prepare import (
    Sent,
    along,
    check,
    check_chunks,
    digest_of,
    sent_of,
    with_dim,
)
from catchment.arrays.flat_splice import Splice
from catchment.arrays.foreign import Group
from catchment.arrays.journal import Holder
from catchment.arrays.look import Facts, Look
from catchment.arrays.model import Decision, Entry, OnConflict, Outcome, Row, Status, Step
from catchment.arrays.stack import Stack
from catchment.core.errors import Conflict, Invalid, NotFound

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, slots=True)
class Plan:
    """What an append comes to.

    Attributes:
        sent: what is to be written, if anything is.
        cut: the position behind what it takes the place of, which begins at the step's slot.
    """

    outcome: Outcome
    sent: Sent | None = None
    cut: int | None = None


class Flat:
    """A group that grows along one of its dimensions."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.store = stack.store
        self.log = FlatLog(stack.store)

    # Looking

    def entries(self) -> list[Entry]:
        """What was appended and stands there, as rows: a slot is the first position."""
        return [_entry(piece) for piece in pieces(self.log.records())]

    def commit(self) -> int:
        """The number of the commit that readers see; 0 where nothing of ours is there."""
        return self.log.state()[1]

    def find(self, session: str) -> tuple[str, Entry]:
        """Where a session stands, and along which dimension; NotFound (kind ``no-session``)."""
        group, _, _ = self.log.state()
        if group is None:
            raise _absent(self.store.url)
        for piece in pieces(self.log.records()):
            if piece.row.session == session:
                return piece.dim, _entry(piece)
        for dim, labels in group.dataset(self.store).coords.items():
            if labels.dims == (dim,) and labels.dtype.kind in "OUST":
                have = [text_of(label) for label in labels.values]
                if session in have:
                    return str(dim), Entry(have.index(session), Status.PRESENT, Row(session, 1, ""))
        raise plan.no_session(self.store.url, session)

    def session(self, session: str) -> xr.Dataset:
        """What stands there of a session, lazily; NotFound (kind ``no-session``)."""
        dim, entry = self.find(session)
        group, _, _ = self.log.state()
        assert group is not None  # noqa: S101 - find() looked
        stop = entry.slot + entry.row.n_windows
        return group.dataset(self.store).isel({dim: slice(entry.slot, stop)})

    def verify(self, *, quick: bool = False, repair: bool = False) -> tuple[int, int, list[str]]:
        """How many appends and positions, and what is wrong."""
        if repair:
            with self.stack.writing():
                self.log.heal()
                self._release()
        group, number, pending = self.log.state()
        if group is None:
            raise _absent(self.store.url)
        wrong = [
            f"commit {record['number']} is not shown (the next append shows it)"
            for record in pending
        ]
        if self.log.uncleaned(group):
            wrong.append("values that were withdrawn are left (the next append deletes them)")
        found = pieces(record for record in self.log.records() if record["number"] <= number)
        for piece in found if not quick else ():
            stored = self.log.stored_or_none(group, piece)
            if stored is None or stored != (piece.stored_hash or stored):
                what = "cannot be read" if stored is None else "does not hold what was appended"
                wrong.append(f"commit {piece.number} {what}")
        return len(found), sum(piece.stop - piece.start for piece in found), wrong

    # Writing

    def append(
        self,
        dataset: xr.Dataset,
        dim: str,
        *,
        chunks: Mapping[str, int] | None = None,
        on_conflict: OnConflict = "error",
        dry_run: bool = False,
        facts: Facts | None = None,
    ) -> Outcome:
        """Append a dataset: all of it is visible afterwards, or nothing.

        Raises:
            Conflict: ``session-differs``; ``claim-held`` while a writer elsewhere is at work.
            Invalid: ``chunks-fixed``, ``bad-chunks``, ``replace-not-possible``; ``store-changed``
                where somebody else wrote to the store while an append of ours was interrupted.
        """
        plan.check_choice(on_conflict)
        look = Look(dataset, dim, (), facts or Facts())
        if dry_run:
            group, _, _ = self.log.state()
            return self._planned(look, group, chunks, on_conflict).outcome

        def attempt(group: Group | None, number: int, holder: Holder) -> Outcome | None:
            look.findings.clear()
            planned = self._planned(look, group, chunks, on_conflict)
            if (error := plan.conflict(planned.outcome.steps)) is not None:
                raise error
            if planned.sent is None:
                return replace(planned.outcome, dry_run=False)
            return self._write(planned, planned.sent, group, number + 1, chunks, holder, look)

        return self._when_free(attempt)

    def withdraw(self, session: str) -> tuple[Entry, int]:
        """Take a session's positions out, and its values out of the former chunks, too.

        What it was and how many positions it had. NotFound (kind ``no-session``) if there is none.
        """

        def attempt(group: Group | None, number: int, holder: Holder) -> tuple[Entry, int] | None:
            dim, entry = self.find(session)
            assert group is not None  # noqa: S101 - find() looked
            stop = entry.slot + entry.row.n_windows
            splice = self._splice(group, session, dim, entry.slot, stop)

            def make() -> dict[str, Any]:
                splice.carry_out(None)
                made = Group(group.version, splice.documents)
                return _record(number + 1, dim, entry.row, splice, group, made, 0, "")

            done = self.log.decide(number + 1, entry.row, holder, make)
            return (entry, splice.chunks) if done else None

        return self._when_free(attempt)

    def _when_free[T](self, attempt: Callable[[Group | None, int, Holder], T | None]) -> T:
        """What an attempt comes to, once no other writer is in its way."""
        end = time.monotonic() + self.stack.patience
        with self.stack.writing(), journal.holding() as holder:
            while True:
                done = attempt(*self.log.heal(), holder)
                if done is not None:
                    return done
                if time.monotonic() > end:
                    raise _held(self.store.url)
                time.sleep(random.uniform(0.02, 0.08))  # noqa: S311 - only spreads writers out

    def _planned(
        self,
        look: Look,
        group: Group | None,
        chunks: Mapping[str, int] | None,
        on_conflict: OnConflict,
    ) -> Plan:
        dim = look.append_dim
        existing = group.dataset(self.store) if group else None
        commit = group.commit if group else None
        dataset = with_dim(look, existing)
        if existing is not None and dim not in existing.dims:
            look.error(
                "append-dim-missing", dim, "the store has no such dimension",
                "append it to a new store as a session of its own, then this one: "
                f"catchment arrays append {self.store.url} NEW --session ID",
            )  # fmt: skip
        if not look.failed():
            check(look, dataset, existing, dim)
        if group is not None and not look.failed():
            check_chunks(group, chunks)
        base = Outcome(self.store.url, commit, (), look.findings, dry_run=True)
        if look.failed():
            return Plan(base)
        sent = sent_of(look, dataset, dim)
        if look.failed():
            return Plan(base)
        start = existing.sizes[dim] if existing is not None else 0
        step = Step(
            sent.session, Decision.APPEND, start, dataset.sizes[dim], sent.raw_bytes,
            content_hash=sent.content_hash,
        )  # fmt: skip
        there = self._there(sent, group, existing, dim)
        if there is None:
            return Plan(replace(base, steps=[step]), sent)
        start, stop, same = there
        if same:
            step = replace(step, decision=Decision.UNCHANGED, slot=start)
            return Plan(replace(base, steps=[step]))
        if on_conflict == "replace":
            assert group is not None  # noqa: S101 - the session is in it
            self._splice(group, sent.session, dim, start, stop)
            step = replace(step, decision=Decision.REPLACE, slot=start, earlier=start)
            return Plan(replace(base, steps=[step]), sent, stop)
        decision = Decision.SKIP if on_conflict == "skip" else Decision.CONFLICT
        step = replace(step, decision=decision, slot=None, earlier=start)
        return Plan(replace(base, steps=[step]))

    def _there(
        self, sent: Sent, group: Group | None, existing: xr.Dataset | None, dim: str
    ) -> tuple[int, int, bool] | None:
        """From where to where the session stands, and whether with the same content."""
        record = self.log.record_of(sent.session)
        if record is not None and group is not None:
            found = [brought(record)]
            if group.spliced > record["number"]:  # it may have moved
                now = pieces(self.log.records())
                found = [piece for piece in now if piece.number == record["number"]]
            for piece in found:
                if piece.stop > piece.start:
                    same = piece.row.content_hash == sent.content_hash and bool(piece.stored_hash)
                    return piece.start, piece.stop, same
        if not sent.labels or existing is None or dim not in existing.coords:
            return None
        have = [text_of(label) for label in existing[dim].values]
        if not set(have) & set(sent.labels):
            return None
        start = have.index(next(label for label in have if label in sent.labels))
        stop = start + len(sent.labels)
        there = existing.isel({dim: slice(start, stop)})
        same = digest_of(along(there, dim))[0] == sent.content_hash
        if have[start:stop] != list(sent.labels):
            stop = start  # in pieces, or not all of them
        return start, stop, same

    def _splice(self, group: Group, session: str, dim: str, start: int, stop: int) -> Splice:
        """Positions about to be changed; Invalid (``replace-not-possible``)."""
        why = ""
        if group.version == 2:
            why = "a store of format 2 has no other keys for its chunks"
        elif stop == start:
            why = "the store has only a part of these sessions, or has them in pieces"
        if why:
            raise Invalid(
                f"{session}: along {dim} it cannot be replaced or withdrawn: {why}",
                kind="replace-not-possible",
                hint="append all that shall stay to a new store, which has format 3: "
                f"catchment arrays append FILE NEW --append-dim {dim}",
            )
        return Splice(self.store, group, dim, start, stop)

    def _write(  # noqa: PLR0917 - what makes an append
        self,
        planned: Plan,
        sent: Sent,
        group: Group | None,
        number: int,
        chunks: Mapping[str, int] | None,
        holder: Holder,
        look: Look,
    ) -> Outcome | None:
        """Write and commit; None where another writer is at it, or was first."""
        outcome = planned.outcome
        (step,) = outcome.steps
        assert step.slot is not None  # noqa: S101 - it is to be appended
        dim, start, size = look.append_dim, step.slot, 0
        row = Row(sent.session, step.windows, sent.content_hash, site=look.facts.site or "",
                  transform=look.facts.transform or "")  # fmt: skip

        def make() -> dict[str, Any] | None:
            nonlocal size
            splice = None
            if group is not None and planned.cut is not None:
                splice = Splice(self.store, group, dim, start, planned.cut)
                size = splice.carry_out(sent)
                documents = splice.documents
            else:
                documents = dict(group.documents) if group else {}
                size = flat_write.grow(self.store, documents, sent.dataset, dim, group, chunks)
            made = Group(group.version if group else 3, documents)
            stored = flat_write.written(self.store, made, sent, dim, start)
            if not stored:
                look.error(
                    "encoding-loses", sent.session,
                    "the store's encoding cannot hold these values: read back, they differ",
                    "convert them to the store's units and types, or append to a new store: "
                    f"catchment arrays append {self.store.url} NEW" if group else
                    "let moments be moments (xarray.decode_cf), or call the attribute units "
                    "of numbers that are none something else",
                )  # fmt: skip
                return None
            if splice is not None and group is not None:
                return _record(number, dim, row, splice, group, made, step.windows, stored)
            return {
                "kind": GROWTH,
                "dim": dim,
                "start": start,
                "stop": start + step.windows,
                "row": row.to_json(),
                "stored_hash": stored,
                "before": group.digest if group else "",
                "version": made.version,
                "documents": _told(made.with_commit(number, group.spliced if group else 0)),
            }

        done = self.log.decide(number, row, holder, make)
        if done is None:
            return None
        if not done:
            refused = replace(step, decision=Decision.REFUSE, slot=None)
            return replace(outcome, steps=[refused], findings=look.findings, dry_run=False)
        return replace(outcome, commit=number, dry_run=False, written_bytes=size)

    def _release(self) -> None:
        """Free the claim of a writer that is gone."""
        number = self.commit()
        with journal.holding() as holder:
            journal.release_all(self.store, number + 1, holder)


def _record(  # noqa: PLR0917 - the fields of a record
    number: int, dim: str, row: Row, splice: Splice, group: Group, made: Group, length: int,
    stored: str,
) -> dict[str, Any]:  # fmt: skip
    """Of positions that others took the place of, or nothing."""
    return {
        "kind": SPLICE,
        "dim": dim,
        "start": splice.start,
        "stop": splice.stop,
        "length": length,
        "row": row.to_json(),
        "stored_hash": stored,
        "before": group.digest,
        "version": made.version,
        "documents": _told(made.with_commit(number, number)),
        "former": _told(group),
    }


def _entry(piece: Piece) -> Entry:
    """A piece as a row; a part of it may have been taken out."""
    row = replace(piece.row, n_windows=piece.stop - piece.start)
    return Entry(piece.start, Status.PRESENT, row)


def _told(group: Group) -> dict[str, Any]:
    return {key: json.loads(data) for key, data in group.documents.items()}


def _absent(url: str) -> NotFound:
    return NotFound(
        f"there is no store at {url}", kind="no-store",
        hint="catchment arrays append FILE STORE makes one",
    )  # fmt: skip


def _held(url: str) -> Conflict:
    return Conflict(
        f"{url}: another writer is at work",
        kind="claim-held",
        hint=f"wait; if it is gone for good: catchment arrays verify {url} --repair",
    )
