"""What an append to a store of sessions comes to, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from catchment.arrays import document as documenting
from catchment.arrays import plan
from catchment.arrays.document import Document
from catchment.arrays.model import Decision, Entry, OnConflict, Outcome, Step
from catchment.arrays.prepare import Prepared
from catchment.core.finding import Finding, Severity


@dataclass(frozen=True, slots=True)
class Asked:
    """What an append is asked for.

    Attributes:
        chunks: of a new store; of one that is there they must be what they are.
        on_conflict: what becomes of a session that is there with other content.
        findings: what is known of the sessions already.
        dry_run: say what would be done; write nothing.
    """

    sessions: Sequence[Prepared]
    chunks: Mapping[str, int] | None = None
    on_conflict: OnConflict = "error"
    findings: Sequence[Finding] = ()
    dry_run: bool = False


def planned(
    url: str, document: Document | None, present: Mapping[str, Entry], asked: Asked
) -> tuple[Outcome, list[tuple[Prepared, Step]]]:
    """What an append comes to, and the sessions that it puts into the store.

    ``present`` are the sessions that the store shows, by id.
    """
    findings, sessions = list(asked.findings), asked.sessions
    if document is None and sessions:
        documenting.first(sessions[0], asked.chunks)  # says what is wrong with the chunks
        findings += plan.check_schema(sessions[0].schema, sessions[1:])
    elif document is not None:
        documenting.check_chunks(document, asked.chunks)
        findings += plan.check_schema(document.schema, sessions)
    refused = any(f.severity is Severity.ERROR for f in findings)
    made = plan.steps(sessions, present, document.size if document else 0, asked.on_conflict)
    if refused:
        made = [replace(step, decision=Decision.REFUSE, slot=None) for step in made]
    commit = document.commit if document else None
    outcome = Outcome(url, commit, made, findings, dry_run=asked.dry_run)
    todo = [
        (one, step)
        for one, step in zip(sessions, made, strict=True)
        if step.decision in (Decision.APPEND, Decision.REPLACE)
    ]
    return outcome, todo
