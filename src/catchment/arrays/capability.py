"""Arrays as the workspace sees them: settings become a job, and what no session needs is found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from catchment.arrays import catalog
from catchment.arrays import verify as verification
from catchment.arrays.foreign import kind_of
from catchment.arrays.stack import Stack
from catchment.arrays.transform import run as runs
from catchment.arrays.transform.discovery import Choice, Naming, discover
from catchment.arrays.transform.job import House, Job
from catchment.arrays.transform.sinks import Partitioning, below
from catchment.arrays.transform.worker import load
from catchment.core import provenance
from catchment.core.capability import Outcome, named
from catchment.core.collection import under_lease
from catchment.core.errors import NotFound
from catchment.core.ledger import Snapshot
from catchment.core.named_sections import ArraysSettings
from catchment.core.passwords import kept_key
from catchment.core.progress import Progress, silent
from catchment.core.store import Stat, Store
from catchment.core.workspace import Workspace


def run(
    workspace: Workspace,
    name: str,
    *,
    dry_run: bool = False,
    choice: Choice | None = None,
    batch: int | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Bring ``arrays/<name>`` up to date with its recordings; see :func:`runs.run`."""
    wanted = job(workspace, name, choice=choice, dry_run=dry_run)
    ledger = workspace.ledger_to_read() if dry_run else workspace.ledger
    house = House(workspace.store, ledger, workspace.executor, progress=progress)
    if batch is not None:
        house = replace(house, window=batch)
    report = runs.run(wanted, house, dry_run=dry_run)
    return Outcome(
        aggregate=wanted.aggregate,
        state=report.state,
        snapshot=report.snapshot.number if report.snapshot else None,
        location=report.snapshot.location if report.snapshot else None,
        account=report.account,
        findings=report.findings,
        details={
            "sessions": report.sessions,
            "stores": list(report.snapshot.provenance.get("stores", ())) if report.snapshot else [],
            "output": wanted.output,
        },
    )


def orphans(workspace: Workspace, *, grace: timedelta, dry_run: bool = False) -> Iterator[str]:
    """Chunks in slots that were given up, none while a run is at work."""
    for name in workspace.settings.arrays:
        find = partial(_left_over, workspace.store, output_prefix(name))
        yield from under_lease(workspace.ledger, f"arrays/{name}", grace, find, dry_run=dry_run)


def _left_over(store: Store, prefix: str) -> Iterator[Stat]:
    folder = below(store, prefix.rstrip("/"))
    for key in catalog.keys(folder):
        for chunk in _orphans(Stack(below(folder, key))):
            yield store.head(f"{prefix}{key}/{chunk}")


def _orphans(stack: Stack) -> Iterator[str]:
    if kind_of(stack.store) == "group":
        return
    document, _ = stack.look()
    if document is not None and document.commit:
        yield from verification.orphans(stack, document)


def sites(workspace: Workspace, name: str) -> Mapping[str, str]:
    """By site, a digest of the recordings that are there now."""
    wanted = job(workspace, name, dry_run=True)
    transform = load(wanted.transform)
    found: dict[str, hashlib._Hash] = {}
    sessions = discover(wanted.source, transform.SOURCE_PREFIX, transform.SUFFIXES, wanted.naming)
    for session in sessions:
        if not isinstance(session, str):
            text = f"{session.key} {session.version}\n"
            found.setdefault(session.site, hashlib.sha256()).update(text.encode())
    return {site: digest.hexdigest()[:16] for site, digest in sorted(found.items())}


def shared(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The catalog of sessions; the stores themselves only grow, and are no snapshot's own."""
    return [item for item in snapshot.provenance["objects"] if item["role"] == "catalog"]


def verify(workspace: Workspace, name: str) -> list[str]:
    """Every store is what its commits say, and the catalog of the snapshot is what stores hold."""
    settings_of(workspace, name)
    ledger = workspace.ledger_to_read()
    latest = ledger.latest(f"arrays/{name}")
    if latest is None:
        raise NotFound(
            f"arrays/{name} has no snapshot yet",
            kind="no-snapshot",
            hint=f"catchment arrays transform {name}",
        )
    folder = below(workspace.store, output_prefix(name).rstrip("/"))
    wrong: list[str] = []
    present: set[tuple[str, str, str]] = set()
    for key in catalog.keys(folder):
        verdict = verification.verify(Stack(below(folder, key)))
        wrong += [f"{key}: {fault}" for fault in verdict.wrong]
    for place in catalog.Catalog.build(folder).sessions:
        present.add((place.store, place.session, place.content_hash))
    damaged = provenance.verify(workspace.store, latest)
    if damaged:
        return wrong + damaged
    (entry,) = latest.provenance["objects"]
    sessions = catalog.Catalog.parse(workspace.store.read(entry["key"])).sessions
    for place in sessions:
        if (place.store, place.session, place.content_hash) not in present:
            wrong.append(f"{place.store}: {place.session} is not as the snapshot says")
    if ledger.account(latest.run).total("sessions").kept > len(sessions):
        wrong.append("the account keeps more sessions than the catalog has")
    return wrong


def job(
    workspace: Workspace, name: str, *, choice: Choice | None = None, dry_run: bool = False
) -> Job:
    """The job of ``[arrays.<name>]``; NotFound (kind ``no-aggregate``)."""
    settings = settings_of(workspace, name)
    return Job(
        name=name,
        transform=settings.transform,
        options=settings.options,
        source=workspace.open_store(settings.recordings),
        output=output_prefix(name),
        naming=Naming(
            _key(workspace, name, settings, dry_run=dry_run),
            settings.session_ids == "names",
            settings.site or name,
        ),
        partitioning=Partitioning(
            "" if settings.partition == "none" else settings.partition,
            settings.partition_by_schema,
            settings.max_sessions or 0,
        ),
        on_conflict=settings.on_conflict,
        choice=choice or Choice(),
    )


def _key(workspace: Workspace, name: str, settings: ArraysSettings, *, dry_run: bool) -> bytes:
    if settings.pseudonym_key is not None:
        return settings.pseudonym_key.get_secret_value().encode()
    place = f"_private/arrays/{name}.key"
    if dry_run:
        return _read_or_zero(workspace.store, place)
    return kept_key(workspace.store, place)


def _read_or_zero(store: Store, place: str) -> bytes:
    """The key, or any, where none was made yet: a dry run writes nothing."""
    try:
        return store.read(place)
    except NotFound:
        return bytes(32)


def output_prefix(name: str) -> str:
    """Prefix of the stores of ``[arrays.<name>]`` below the workspace's store."""
    return f"arrays/{name}/"


def settings_of(workspace: Workspace, name: str) -> ArraysSettings:
    """``[arrays.<name>]``; NotFound (kind ``no-aggregate``) if there is none."""
    return named(workspace.settings.arrays, "arrays", name)
