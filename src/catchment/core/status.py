"""What a workspace holds, from its ledger: the facts of ``catchment status``, ready for JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from catchment.core.errors import NotFound
from catchment.core.ledger import Ledger, Run
from catchment.core.ledger.standing import Whole
from catchment.core.ledger.views import Views

RUNS = 5  # newest runs that are told of each aggregate


def status(
    ledger: Ledger, configured: Collection[str], wanted: str | None = None
) -> list[dict[str, Any]]:
    """One entry for each aggregate of the settings or the ledger, or for the wanted one only.

    ``contributions`` counts them by state; ``findings`` are those of the newest finished run, and
    where it had nothing to look at, those of the latest snapshot's.
    NotFound (kind ``no-aggregate``) if the wanted one is in neither.
    """
    names = sorted({*ledger.aggregates(), *configured})
    if wanted is not None and wanted not in names:
        raise NotFound(
            f"nothing is called {wanted!r}, expected one of: {', '.join(names) or 'none'}",
            kind="no-aggregate",
            hint="catchment status",
        )
    asked = [name for name in names if wanted in (None, name)]
    found = Views(ledger).wholes(asked, RUNS)
    return [_describe(name, found.get(name) or Whole()) for name in asked]


def _describe(aggregate: str, one: Whole) -> dict[str, Any]:
    snapshot, lease = one.snapshot, one.lease
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
        "runs": [_run(run) for run in one.runs],
        "contributions": one.states,
        "findings": [finding.to_json() for finding in one.findings],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "state": run.state,
        "started_at": run.started_at.isoformat(),
        "finished_at": run.finished_at and run.finished_at.isoformat(),
        "error": run.error,
    }
