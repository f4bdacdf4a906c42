"""Quality: what a site's package has become since its previous upload, told to that site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catchment.core.finding import Severity
from catchment.studies.check import Facts
from catchment.studies.model import Problem

NAMED = 10  # categories of a column that are named for people
HALF = 0.5  # share of the previous total below which a fall is worth a warning


def compare(before: Facts, now: Facts) -> tuple[dict[str, Any], list[Problem]]:
    """The report, which names categories and so is for the site alone; findings do not."""
    columns: dict[str, Any] = {}
    new = vanished = 0
    for name in now.columns:
        old, own = (set(f.categories.get(name, {}).get("values", ())) for f in (before, now))
        counts = [f.categories.get(name, {}).get("distinct", 0) for f in (before, now)]
        listed = all("values" in f.categories.get(name, {}) for f in (before, now))
        columns[name] = {
            "distinct": {"before": counts[0], "now": counts[1]},
            "new": sorted(own - old) if listed else None,
            "vanished": sorted(old - own) if listed else None,
        }
        if listed:
            new += len(own - old)
            vanished += len(old - own)
    report = {
        "rows": {"before": before.rows, "now": now.rows},
        "total": {"before": before.total, "now": now.total},
        "columns": columns,
    }
    problems = []
    if now.total < HALF * before.total:
        problems.append(
            Problem(
                "total-fell",
                f"the total is {now.total:,}, after {before.total:,} in the previous upload",
                "look whether the export was complete; if not, upload again",
                Severity.WARNING,
            )
        )
    if vanished:
        problems.append(
            Problem(
                "categories-vanished",
                f"{vanished:,} categories of the previous upload are gone, {new:,} are new",
                "`quality` in the answer to the upload names them",
                Severity.NOTE,
            )
        )
    return report, problems


def words(report: Mapping[str, Any]) -> list[str]:
    """The report in lines for people: what has changed, column by column; empty without one."""
    if not report:
        return []
    lines = [
        f"{name} {report[name]['now']:,}, before {report[name]['before']:,}"
        for name in ("rows", "total")
        if report[name]["now"] != report[name]["before"]
    ]
    for name, column in report["columns"].items():
        told = [f"{how} {_listed(column[how])}" for how in ("new", "vanished") if column[how]]
        distinct = column["distinct"]
        if column["new"] is None and distinct["now"] != distinct["before"]:  # too many to name
            told = [f"{distinct['now']:,} values, before {distinct['before']:,}"]
        lines += [f"{name}: {'; '.join(told)}"] if told else []
    return lines or ["as in the previous upload"]


def _listed(values: Sequence[object]) -> str:
    more = len(values) - NAMED
    return ", ".join(map(str, values[:NAMED])) + (f" and {more:,} more" if more > 0 else "")
