"""Studies as the workspace sees them: one to bring up to date, and what no snapshot needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from catchment.core import provenance
from catchment.core.account import Account
from catchment.core.capability import Outcome
from catchment.core.collection import under_lease
from catchment.core.errors import Conflict, NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.progress import Progress, silent
from catchment.core.provenance import NAME
from catchment.core.store import Stat, Store
from catchment.core.workspace import Workspace
from catchment.studies import layout, library
from catchment.studies import scan as scans
from catchment.studies.catalog import studies
from catchment.studies.merge import Policy
from catchment.studies.model import Staged, Upload


def run(
    workspace: Workspace, name: str, *, dry_run: bool = False, progress: Progress = silent
) -> Outcome:
    """Bring ``studies/<name>`` up to date: process all that has arrived and waits.

    Conflict (kind ``lease-held``) while another worker is at it.
    """
    house = library.house(workspace, progress, dry_run=dry_run)
    ledger = house.ledger
    before = ledger.latest(layout.aggregate(name))
    if dry_run:
        return _outcome(name, ledger, before, "planned", list(scans.arrived(house, name)))
    done = scan(workspace, name, progress=progress)
    for error in done.failed.values():
        raise error
    if done.busy:
        raise Conflict(
            f"studies/{name}: another worker is at it",
            kind="lease-held",
            hint=f"catchment status studies/{name}",
        )
    after = ledger.latest(layout.aggregate(name))
    changed = after is not None and (before is None or after.number != before.number)
    outcome = _outcome(name, ledger, after, "published" if changed else "unchanged", done.uploads)
    return replace(outcome, findings=[*done.strays, *outcome.findings])


def scan(
    workspace: Workspace, study: str | None = None, *, progress: Progress = silent
) -> scans.Scanned:
    """Bring to an answer all that has arrived and waits, of one study or of all.

    Uploads that the site API knows of keep their transaction, and give their lock back.
    """
    return scans.scan(library.house(workspace, progress), study)


def _outcome(
    name: str,
    ledger: Ledger,
    snapshot: Snapshot | None,
    state: str,
    uploads: Sequence[Upload | Staged],
) -> Outcome:
    return Outcome(
        aggregate=layout.aggregate(name),
        state=state,
        snapshot=snapshot.number if snapshot else None,
        location=snapshot.location if snapshot else None,
        account=ledger.account(snapshot.run) if snapshot else Account(),
        findings=ledger.findings(run=snapshot.run) if snapshot else (),
        details={"uploads": [f"{one.site}/{one.filename}" for one in uploads]},
    )


def orphans(workspace: Workspace, *, grace: timedelta, dry_run: bool = False) -> Iterator[str]:
    """Objects of merges and snapshots that were never published; none while a run is at work.

    What sites sent is history and never an orphan.
    """
    ledger = workspace.ledger
    for study in studies(ledger):
        find = partial(_left_over, ledger, workspace.store, study)
        yield from under_lease(ledger, layout.aggregate(study), grace, find, dry_run=dry_run)


def _left_over(ledger: Ledger, store: Store, study: str) -> Iterator[Stat]:
    known = _known(ledger, study)
    for prefix in (layout.snapshots(study), layout.merges_of(study)):
        left = [stat for stat in store.list(prefix) if stat.key not in known]
        # With a provenance it is whole, and somebody's: not of a crash.
        whole = tuple(s.key.removesuffix(NAME) for s in left if s.key.endswith(f"/{NAME}"))
        yield from (stat for stat in left if not stat.key.startswith(whole))


def sites(workspace: Workspace, name: str) -> dict[str, str]:
    """The uploads of each site that wait to be processed; of the others nothing is new."""
    waiting: dict[str, list[str]] = {}
    for one in scans.arrived(library.house(workspace, dry_run=True), name):
        waiting.setdefault(one.site, []).append(one.transaction)
    return {site: ",".join(sorted(found)) for site, found in sorted(waiting.items())}


def shared(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What small cells are suppressed in; never the merge that it is made of."""
    return [item for item in snapshot.provenance["objects"] if item["role"] == "released"]


def verify(workspace: Workspace, name: str) -> list[str]:
    """What is wrong with the latest snapshot; see :func:`catchment.core.provenance.verify`."""
    latest = workspace.ledger_to_read().latest(layout.aggregate(name))
    if latest is None:
        raise NotFound(
            f"studies/{name} has no snapshot yet",
            kind="no-snapshot",
            hint=f"catchment run studies/{name}",
        )
    return provenance.verify(workspace.store, latest)


def _known(ledger: Ledger, study: str) -> set[str]:
    """Keys that a snapshot names; the seal and the entry of each, too."""
    known: set[str] = set()
    for snapshot in ledger.snapshots(layout.aggregate(study), provenance=True):
        known.add(snapshot.location + NAME)
        for told in snapshot.provenance["objects"]:
            key = told["key"]
            known.add(key)
            if told["role"] == "released":
                place = key.rpartition("/")[0]
                policy = Policy.from_json(snapshot.provenance["config"])
                known.add(f"{place}/entry-{policy.label}.json")
    return known
