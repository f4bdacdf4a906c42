"""Told: what sites, readers and people learn of a run, as the snapshot will say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from catchment.core.finding import Finding
from catchment.core.ledger import Contribution
from catchment.core.store import Store
from catchment.studies import check, layout, quality, views
from catchment.studies.catalog import Catalog, File
from catchment.studies.merge import Merged
from catchment.studies.model import Kind, Problem, State
from catchment.studies.plan import Place, Plan, Version


def results(store: Store, before: Catalog, made: Plan) -> list[Finding]:
    """Write what each site is told of its files, and give the findings of all."""
    told: dict[int, tuple[Contribution, dict[str, Any], list[Problem]]] = {}
    for one, problem in [*made.refused, *made.problems]:
        told.setdefault(one.id, (one, {}, []))[2].append(problem)
    for (kind, package, version, site), (one, facts) in made.current.items():
        _, report, problems = told.setdefault(one.id, (one, {}, []))
        report["rows"] = facts.rows
        cube = before.cubes.get((package, version))
        old = next((p for p in cube.merged.parts if p.site == site), None) if cube else None
        if kind == Kind.CUBE and old is not None and old.source != one.digest:
            where = layout.parts(before.study, package, version, site)
            known = check.formerly(store, where, old.source, Kind.CUBE)
            if known is not None:
                report["quality"], more = quality.compare(known, facts)
                problems += more
    findings = []
    for one, report, problems in told.values():
        found = [p.finding(one.site, one.meta["file"]) for p in problems]
        findings += found
        report["findings"] = [f.to_json() for f in found]
        key = layout.result(before.study, one.site, one.meta["transaction"], one.meta["file"])
        store.put(key, json.dumps(report, indent=1).encode(), mode="overwrite")
    return findings


def shown(
    made: Plan,
    merged: Mapping[Version, Merged],
    study: str,
    known: Mapping[int, Contribution],
    at: datetime,
) -> views.Views:
    """The views of what was decided: each contribution where its state is, and each release."""
    seen = views.Views()
    first: dict[int, State] = {}
    last: dict[int, State] = {}
    for move in made.moves:
        first.setdefault(move.contribution, State(move.expected))
        last[move.contribution] = State(move.to)
    problems = {one.id: problem for one, problem in made.refused}
    for number, was in first.items():
        one = known[number]
        problem = problems.get(number)
        told = None
        if problem is not None:
            finding = problem.finding(one.site, one.meta["file"]).to_json()
            told = {
                "time": at.isoformat(),
                "transaction": one.meta["transaction"],
                "study": study,
                "version": one.meta["version"],
                "digest": one.digest,
                "size": one.size,
                "kept": one.meta["key"] is not None,
            } | finding
        seen.move(one, was, last[number], at, told)
    for version, parts in made.parts.items():
        for csv in (False, True):
            key = layout.released(study, *version, csv=csv)
            if not parts:
                seen.hide(key)
            else:
                new = merged[version]
                seen.show(key, (new.csv if csv else new.released).key)
    return seen


def owners(before: Mapping[int, str], files: Mapping[Place, File], made: Plan) -> dict[int, str]:
    """The owner of each version's manifest: who was first, as long as its manifest is there."""
    sites: dict[int, set[str]] = {}
    for file in files.values():
        if file.kind is Kind.MANIFEST:
            sites.setdefault(file.version, set()).add(file.site)
    new = {place: one.id for place, (one, _) in made.current.items()}

    def age(version: int, site: str) -> tuple[bool, int, str]:
        """Those that stood before come first, then by receipt."""
        received = new.get((Kind.MANIFEST.value, "manifest", version, site))
        return received is not None, received or 0, site

    return {
        version: before[version]
        if before.get(version) in known
        else min(known, key=lambda site: age(version, site))
        for version, known in sites.items()
    }
