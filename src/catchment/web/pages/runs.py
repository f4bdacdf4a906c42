"""Runs and findings: every run with its account, log and duration; every finding with its cure."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query

from catchment.core import capability
from catchment.core.account import Account
from catchment.core.ledger import Run
from catchment.core.ledger.views import Told
from catchment.web.pages.house import Asked
from catchment.web.pages.route import page

PAGE = 50
STATES = ("published", "unchanged", "running", "failed", "cancelled")
SEVERITIES = ("error", "warning", "note")

Name = Annotated[str, Query(max_length=200)]
Text = Annotated[str, Query(max_length=200, description="Looked for in what is told.")]


@page("/runs", "runs.html", part="rows")
def runs(ask: Asked, aggregate: Name = "", state: Name = "", before: Name = "") -> dict[str, Any]:
    """Runs, the newest first."""
    found = ask.workspace.ledger.runs(
        aggregate or None, state=state or None, before=before or None, limit=PAGE + 1
    )
    return {
        "runs": [of_run(one) for one in found[:PAGE]],
        "next": found[PAGE - 1].id if len(found) > PAGE else None,
        "aggregates": _aggregates(ask),
        "states": STATES,
        "aggregate": aggregate,
        "state": state,
    }


@page("/runs/{run}", "run.html")
def one_run(ask: Asked, run: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
    """A run: its account, its findings, what it made of contributions, and why it failed."""
    ledger = ask.workspace.ledger
    found = ledger.run(run)
    account = ledger.account(run)
    told = ask.views.findings(run=run, limit=PAGE)
    return {
        "run": of_run(found),
        "snapshot": ask.views.snapshot_of_run(found),
        "account": account.to_json(),
        "totals": totals(account),
        "findings": [of_finding(one) for one in told.findings],
        "more": told.next is not None,
        "log": [
            {
                "at": line.at.isoformat(),
                "site": site,
                "name": name if ask.visitor.may("steward") else "",
                "was": line.was,
                "to": line.to,
                "reason": line.reason,
            }
            for site, name, line in ask.views.moves(run)
        ],
    }


@page("/findings", "findings.html", part="rows")
def findings(  # noqa: PLR0917 - each narrows
    ask: Asked,
    site: Name = "",
    code: Name = "",
    severity: Name = "",
    aggregate: Name = "",
    q: Text = "",
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> dict[str, Any]:
    """Findings, the newest first, by site, code, severity, aggregate and text."""
    found = ask.views.findings(
        site=site or None,
        code=code or None,
        severity=severity or None,
        aggregate=aggregate or None,
        text=q or None,
        before=before,
        limit=PAGE,
    )
    return {
        "findings": [of_finding(one) for one in found.findings],
        "next": found.next,
        "sites": ask.views.sites(),
        "codes": ask.views.codes(),
        "severities": SEVERITIES,
        "aggregates": _aggregates(ask),
        "site": site,
        "code": code,
        "severity": severity,
        "aggregate": aggregate,
        "q": q,
    }


def of_run(run: Run) -> dict[str, Any]:
    """A run as lists show it; never its configuration, which may hold a path of somebody's."""
    ended = run.finished_at
    return {
        "id": run.id,
        "aggregate": run.aggregate,
        "state": run.state,
        "started_at": run.started_at.isoformat(),
        "finished_at": ended.isoformat() if ended else None,
        "error": dict(run.error) if run.error else None,
    }


def of_finding(one: Told) -> dict[str, Any]:
    """A finding as lists show it."""
    return {
        "id": one.id,
        "run": one.run,
        "aggregate": one.aggregate,
        "at": f"{one.run[:4]}-{one.run[4:6]}-{one.run[6:8]}",
        **one.finding.to_json(),
    }


def totals(account: Account) -> list[dict[str, Any]]:
    """The sums of an account by unit."""
    units = dict.fromkeys(line.unit for line, _ in account)
    return [{"unit": unit} | account.total(unit).to_json() for unit in units]


def _aggregates(ask: Asked) -> list[str]:
    return sorted({*ask.workspace.ledger.aggregates(), *capability.aggregates(ask.workspace)})
