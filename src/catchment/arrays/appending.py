"""Appending to a stacked store: many writers write chunks at once, and commit one after another."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from catchment.arrays import journal, plan
from catchment.arrays.chunks import Written
from catchment.arrays.decide import Asked
from catchment.arrays.document import Document
from catchment.arrays.journal import Holder
from catchment.arrays.model import Decision, Outcome, Step
from catchment.arrays.prepare import Prepared
from catchment.arrays.stack import ATTEMPTS, Stack, Staged
from catchment.core.errors import Conflict

TURN = 30.0  # seconds to wait for the writers of the slots before ours

Todo = Sequence[tuple[Prepared, Step]]


def append(stack: Stack, asked: Asked) -> Outcome:
    """Append sessions; see :meth:`Stack.append`."""
    document, behind = stack.look()
    if asked.dry_run:
        return stack.planned(document, asked)[0]
    written, staged = Written(), list[Staged]()
    with journal.holding() as holder:
        try:
            for _ in range(ATTEMPTS):
                if document is None or behind:
                    with stack.writing():
                        document = stack.heal()
                outcome, todo = stack.planned(document, asked)
                if outcome.refused:
                    return outcome
                if (error := plan.conflict(outcome.steps)) is not None:
                    raise error
                if not todo:
                    return replace(outcome, written_bytes=written.stored)
                if document is None:
                    with stack.writing():
                        document = stack.make(asked.sessions[0], asked.chunks)
                staged = _stage(stack, document, todo, holder, written)
                made = _commit(stack, asked, todo, staged, holder)
                if made is not None:
                    done, staged = staged, []
                    return _told(outcome, done, made, written)
                document, behind = stack.look()
        finally:
            for one in staged:
                journal.release(stack.store, one.claim, one.row, holder)
    raise Conflict(
        f"{stack.store.url}: other writers were first {ATTEMPTS} times",
        kind="commits-lost",
        hint="run the same command again, with the ledger that the other writers use",
    )


def _stage(
    stack: Stack, document: Document, todo: Todo, holder: Holder, written: Written
) -> list[Staged]:
    staged: list[Staged] = []
    for one, step in todo:
        avoid = frozenset(s.claim.slot for s in staged)
        staged.append(stack.stage(document, one, holder, avoid=avoid, earlier=step.earlier))
    written.stored += sum(s.written.stored for s in staged)
    written.resumed += sum(s.written.resumed for s in staged)
    return staged


def _commit(
    stack: Stack, asked: Asked, todo: Todo, staged: Sequence[Staged], holder: Holder
) -> Document | None:
    """Commit when it is our turn; None where others changed what is to be done, or were first."""
    end, queues = time.monotonic() + TURN, stack.queues
    while True:
        with stack.writing():
            document = stack.heal()
            if document is None:
                return None
            waits = queues and time.monotonic() < end and _others(stack, document, staged, holder)
            if not waits:
                # Somebody may have sent the same sessions since we looked.
                _, now = stack.planned(document, replace(asked, chunks=None))
                wanted = {one.row.session: step.earlier for one, step in todo}
                if {one.row.session: step.earlier for one, step in now} != wanted:
                    return None
                return stack.commit(document, staged)
        time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - only spreads writers out


def _others(stack: Stack, document: Document, staged: Sequence[Staged], holder: Holder) -> bool:
    """Whether somebody is still at work on a slot before ours."""
    ours = {one.claim.slot for one in staged}
    return any(
        slot not in ours and journal.is_claimed(stack.store, slot, holder)
        for slot in range(document.size, min(ours))
    )


def _told(
    outcome: Outcome, staged: Sequence[Staged], document: Document, written: Written
) -> Outcome:
    slots = {s.row.session: s.claim.slot for s in staged}
    steps = [
        replace(step, slot=slots[step.session])
        if step.decision in (Decision.APPEND, Decision.REPLACE)
        else step
        for step in outcome.steps
    ]
    return replace(
        outcome,
        commit=document.commit,
        steps=steps,
        dry_run=False,
        written_bytes=written.stored,
        resumed_chunks=written.resumed,
    )
