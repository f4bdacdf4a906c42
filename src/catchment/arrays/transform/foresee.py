"""What a dry run foresees: the slots and stores of sessions that come behind each other.

Workers of a dry run write nothing, so each finds the stores as they are: without the sessions of
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from catchment.arrays.model import Decision
from catchment.arrays.plan import unlike
from catchment.arrays.schema import Schema
from catchment.arrays.transform.model import Session, TransformResult
from catchment.arrays.transform.sinks import Partitioning, Refused, Sent, apart
from catchment.arrays.transform.worker import Done
from catchment.core.errors import Invalid
from catchment.core.finding import Finding


def foreseen(
    done: Sequence[Done], order: Sequence[Session], partitioning: Partitioning
) -> list[Done]:
    """The same in order of the sessions, as a run would find that they go together."""
    places = {session.id: place for place, session in enumerate(order)}
    ahead = _Ahead(partitioning)
    return [ahead.one(d) for d in sorted(done, key=lambda d: places[d.session.id])]


@dataclass
class _Ahead:
    """Stores as they would be.

    Attributes:
        schemas: of stores that are not there yet, by key.
        slots: the next one, by key.
    """

    partitioning: Partitioning
    schemas: dict[str, Schema] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)

    def one(self, done: Done) -> Done:
        """A session with its stores and slots; refused where a run would refuse it."""
        findings: list[Finding] = []
        try:
            sent = [self._placed(done, one, findings) for one in done.sent]
        except Refused as refused:
            error = Invalid(refused.message, kind=refused.kind, hint=refused.hint)
            failed = TransformResult("failed")
            return Done(done.session, failed, (), refused.findings, error)
        return replace(done, sent=sent, findings=[*done.findings, *findings])

    def _placed(self, done: Done, sent: Sent, findings: list[Finding]) -> Sent:
        key, own = sent.key, sent.schema
        if own is not None:
            base = self.schemas.setdefault(key, own)
            if base.fingerprint != own.fingerprint:
                session, site = sent.step.session, done.session.site
                if not self.partitioning.schema:
                    raise Refused(list(unlike(base, own, site, session)))
                key, finding = apart(key, base, own, site, session)
                findings.append(finding)
                self.schemas.setdefault(key, own)
        step = sent.step
        if step.slot is not None and step.decision in (Decision.APPEND, Decision.REPLACE):
            slot = self.slots.get(key, step.slot)
            step = replace(step, slot=slot)
            self.slots[key] = slot + 1
        return replace(sent, key=key, step=step)
