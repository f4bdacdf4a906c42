"""What a workspace holds, from its ledger: the facts of ``catchment status``, ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from catchment.core.errors import NotFound
from catchment.core.ledger import Ledger, Run

RUNS = 5  # newest runs that are told of each aggregate


def status(
    ledger: Ledger, configured: Collection[str], wanted: str | None = None
) -> list[dict[str, Any]]:
    """One entry for each aggregate of the settings or the ledger, or for the wanted one only.

    ``contributions`` counts them by state; ``findings`` are those of the newest finished run.
    NotFound (kind ``no-aggregate``) if the wanted one is in neither.
    """
    names = sorted({*ledger.aggregates(), *configured})
    if wanted is not None and wanted not in names:
        raise NotFound(
            f"nothing is called {wanted!r}, expected one of: {', '.join(names) or 'none'}",
            kind="no-aggregate",
            hint="catchment status",
        )
    return [_describe(ledger, name) for name in names if wanted in (None, name)]


def _describe(ledger: Ledger, aggregate: str) -> dict[str, Any]:
    snapshot = ledger.latest(aggregate)
    lease = ledger.lease(aggregate)
    runs = ledger.runs(aggregate, limit=RUNS)
    finished = next((run for run in runs if run.finished_at is not None), None)
    states: Counter[str] = Counter()
    for count in ledger.counts(aggregate):
        states[count.state] += count.contributions
    return {
        "aggregate": aggregate,
        "snapshot": snapshot
        and {
            "number": snapshot.number,
            "location": snapshot.location,
            "published_at": snapshot.published_at.isoformat(),
            "run": snapshot.run,
            "sealed": snapshot.sealed,
        },
        "lease": lease and {"holder": lease.holder, "expires_at": lease.expires_at.isoformat()},
        "runs": [_run(run) for run in runs],
        "contributions": dict(sorted(states.items())),
        "findings": [f.to_json() for f in ledger.findings(run=finished.id)] if finished else [],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "state": run.state,
        "started_at": run.started_at.isoformat(),
        "finished_at": run.finished_at and run.finished_at.isoformat(),
        "error": run.error,
    }
