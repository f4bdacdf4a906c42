"""What Dagster shows of a run: accounts, bytes, durations, and a picture of each site's part."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import dagster as dg

from catchment.core.account import Account
from catchment.core.capability import Outcome
from catchment.core.finding import Severity
from catchment.core.ledger import Ledger, Run

_WIDTH, _BAR = 480, 14  # pixels of the picture's bars
_COLORS = {"kept": "#3a7d44", "dropped": "#d9a441", "quarantined": "#b3423a"}


def of_outcome(ledger: Ledger, outcome: Outcome) -> dict[str, Any]:
    """Metadata of an asset that was brought up to date."""
    told: dict[str, Any] = {"state": outcome.state, "location": outcome.location or ""}
    if outcome.snapshot is not None:
        snapshot = ledger.snapshot(outcome.aggregate, outcome.snapshot)
        objects = snapshot.provenance.get("objects", ())
        told["snapshot"] = outcome.snapshot
        told["bytes"] = sum(item["size"] for item in objects)
        told["seconds"] = _seconds(ledger.run(snapshot.run))
    errors = sum(finding.severity is Severity.ERROR for finding in outcome.findings)
    told |= {"findings": len(outcome.findings), "errors": errors}
    return told | of_account(outcome.account)


def of_account(account: Account) -> dict[str, Any]:
    """The account as a table, and as a picture."""
    columns = ("site", "part", "unit", "received", "kept", "dropped", "quarantined")
    records = [
        dg.TableRecord(
            {
                **line._asdict(),
                "received": balance.received,
                "kept": balance.kept,
                "dropped": balance.dropped.total(),
                "quarantined": balance.quarantined.total(),
            }
        )
        for line, balance in account
    ]
    if not records:
        return {}
    schema = dg.TableSchema(
        [dg.TableColumn(name, "string" if name in columns[:3] else "int") for name in columns]
    )
    return {
        "account": dg.MetadataValue.table(records, schema=schema),
        "shares": dg.MetadataValue.md(_picture([dict(r.data) for r in records])),
    }


def listed(lines: Iterable[str]) -> dg.MetadataValue[Any]:
    """A list of names, the first hundred of them."""
    some = list(islice(lines, 100))
    return dg.MetadataValue.md("\n".join(f"- `{line}`" for line in some) or "none")


def digest(digests: Iterable[str]) -> str:
    """One digest of many."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _seconds(run: Run) -> float:
    if run.finished_at is None:
        return 0.0
    return (run.finished_at - run.started_at).total_seconds()


def _picture(lines: Iterable[Mapping[str, Any]]) -> str:
    """Bars of what became of each site's records, as an SVG image in Markdown."""
    sites: dict[tuple[str, str], dict[str, int]] = {}
    for line in lines:
        bar = sites.setdefault((line["site"], line["unit"]), dict.fromkeys(_COLORS, 0))
        for fate in _COLORS:
            bar[fate] += line[fate]
    parts = []
    for row, ((site, unit), bar) in enumerate(sorted(sites.items())):
        y, x, total = row * (_BAR + 4), 220.0, sum(bar.values())
        label = html.escape(f"{site}: {total:,} {unit}")
        parts.append(f'<text x="0" y="{y + 11}" font-size="11">{label}</text>')
        for fate, color in _COLORS.items():
            width = _WIDTH * bar[fate] / total if total else 0
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>'
            )
            x += width
    size = f'width="{_WIDTH + 220}" height="{len(sites) * (_BAR + 4)}"'
    image = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'
    code = base64.b64encode(image.encode()).decode()
    return f"![kept, dropped and quarantined by site](data:image/svg+xml;base64,{code})"
