"""Exports as the workspace sees them: settings become a job, and what no job needs is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from catchment.core.account import Account
from catchment.core.capability import Outcome, named
from catchment.core.collection import under_lease
from catchment.core.errors import Invalid, NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.named_sections import ExportsSettings
from catchment.core.progress import Progress, silent
from catchment.core.provenance import NAME, check_store, seal_all
from catchment.core.store import Stat, Store
from catchment.core.workspace import Workspace
from catchment.exports import jobs, layout
from catchment.exports import run as runs
from catchment.exports.fhir import FhirSource
from catchment.exports.job import House, Job, read_members
from catchment.exports.model import Codec, Rules
from catchment.exports.ndjson import SUFFIXES, FileSource
from catchment.exports.sources import Source

MAX_FILE = 256 << 20  # bytes of a list of members


def run(
    workspace: Workspace,
    name: str,
    *,
    dry_run: bool = False,
    again: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Export ``exports/<name>``, or take up its open job; see :func:`runs.run`.

    A job that was published stands for the same members, source and settings, unless it is to be
    done ``again``: a server does not tell whether its records changed. Where the source could not
    give some members at that time, it is asked again.
    """
    wanted = job(workspace, name)
    ledger = workspace.ledger_to_read() if dry_run else workspace.ledger
    latest = ledger.latest(wanted.aggregate)
    if latest is None and not dry_run:  # perhaps the ledger was lost
        with ledger.holding(wanted.aggregate):
            runs.mend(workspace.store, ledger, wanted.aggregate)
        latest = ledger.latest(wanted.aggregate)
    ask = again or ledger.runs(wanted.aggregate, state="running")
    if latest is not None and not ask and _is_done(wanted, latest.provenance):
        check_store(workspace.store, latest, f"catchment exports run {name}")
        if not dry_run:
            seal_all(workspace.store, ledger, wanted.aggregate)
        return _outcome(ledger, latest, wanted, "unchanged")
    if dry_run:
        return _outcome(ledger, latest, wanted, "planned")
    state, seen = "published", latest.number if latest else 0

    def meanwhile() -> Snapshot | None:
        """Under the lease: what another run published since we looked."""
        nonlocal state
        newest = ledger.latest(wanted.aggregate)
        if again or newest is None or newest.number == seen:
            return None
        if not _is_done(wanted, newest.provenance):
            return None
        state = "unchanged"
        return newest

    published = runs.run(wanted, house(workspace, progress), meanwhile)
    return _outcome(ledger, published, wanted, state)


def _is_done(job: Job, published: Mapping[str, Any]) -> bool:
    links = published.get("base_url", job.base_url)  # nobody noted them before
    return (
        published["config"] == job.config()
        and links == job.base_url
        and not published.get("unavailable", 0)
    )


def orphans(workspace: Workspace, *, grace: timedelta, dry_run: bool = False) -> Iterator[str]:
    """Objects of jobs that have ended without publishing them; none while a job is at work."""
    ledger = workspace.ledger
    configured = {f"exports/{name}" for name in workspace.settings.exports}
    known = {name for name in ledger.aggregates() if name.startswith("exports/")}
    for aggregate in sorted(configured | known):
        find = partial(_left_over, ledger, workspace.store, aggregate)
        yield from under_lease(ledger, aggregate, grace, find, dry_run=dry_run)


def _left_over(ledger: Ledger, store: Store, aggregate: str) -> Iterator[Stat]:
    open_jobs = {record.id for record in ledger.runs(aggregate, state="running")}
    published = {snapshot.run for snapshot in ledger.snapshots(aggregate)}
    for job in store.folders(layout.staging(aggregate)):
        if job not in open_jobs:
            yield from store.list(layout.staging(aggregate, job))
    for job in store.folders(layout.location(aggregate)):
        stats = list(store.list(layout.location(aggregate, job)))
        # With a provenance it is whole: of a ledger that was lost, not of a crash.
        whole = any(stat.key.endswith(f"/{NAME}") for stat in stats)
        if job not in open_jobs | published and not whole:
            yield from stats


def sites(workspace: Workspace, name: str) -> dict[str, str]:
    """Digest of the job's contract, members and source; a server does not tell what it has."""
    wanted = job(workspace, name)
    told = json.dumps(wanted.config(), sort_keys=True)
    return {wanted.contract: f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"}


def shared(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The lines that were asked for, and their manifest; not what went wrong."""
    return [item for item in snapshot.provenance["objects"] if item["role"] in {"data", "manifest"}]


def verify(workspace: Workspace, name: str) -> list[str]:
    """What is wrong with the latest published job; see :func:`jobs.verify`."""
    ledger = workspace.ledger_to_read()
    latest = ledger.latest(f"exports/{name}")
    if latest is None:
        raise NotFound(
            f"exports/{name} has no snapshot yet", kind="no-snapshot", hint="catchment exports run"
        )
    return jobs.verify(workspace.store, ledger, jobs.status(ledger, latest.run))


def house(workspace: Workspace, progress: Progress = silent) -> House:
    """Where a job of the workspace works."""
    wanted = workspace.settings.executor
    return House(
        workspace.store,
        workspace.ledger,
        workspace.executor,
        progress=progress,
        shared=wanted.kind in ("threads", "processes"),
    )


def job(workspace: Workspace, name: str) -> Job:
    """The job of ``[exports.<name>]``.

    Raises:
        NotFound: kind ``no-aggregate``, ``no-members``, or the file of members.
        Invalid: kind ``bad-member``, ``bad-name``.
    """
    settings = settings_of(workspace, name)
    source = _source(workspace, settings)
    if settings.members is None:
        members, repeated = tuple(source.members() or ()), 0
    else:
        folder, _, file = settings.members.rpartition("/")
        try:
            data = workspace.open_store(folder).read(file, length=MAX_FILE + 1)
        except NotFound:
            raise NotFound(
                f"members: there is no {file} in {folder}",
                kind="no-file",
                hint="set members (--members) to a file that is there",
            ) from None
        if len(data) > MAX_FILE:
            raise Invalid(f"{file}: expected at most {MAX_FILE} bytes, got more", kind="too-large")
        members, repeated = read_members(data.decode("utf-8-sig", "replace").splitlines())
    if not members:
        listed = settings.members is not None
        raise NotFound(
            f"exports/{name} has no members: "
            + ("their file names nobody" if listed else f"no records lie below {settings.files}"),
            kind="no-members",
            hint="write their ids into the file of members, one a line"
            if listed
            else f"put files there whose names end in {', '.join(SUFFIXES)}",
        )
    return Job(
        name,
        settings.contract,
        source,
        members,
        repeated,
        Rules(settings.max_bytes, settings.multiplier),
        Codec(settings.codec),
        settings.batch,
        settings.threshold,
        settings.base_url,
    )


def settings_of(workspace: Workspace, name: str) -> ExportsSettings:
    """``[exports.<name>]``; NotFound (kind ``no-aggregate``) if there is none."""
    return named(workspace.settings.exports, "exports", name)


def _source(workspace: Workspace, settings: ExportsSettings) -> Source:
    if settings.fhir is None:
        return FileSource(workspace.open_store(settings.files or ""), settings.type)
    certificate = None
    if settings.certificate is not None:
        certificate = (settings.certificate, settings.certificate_key or settings.certificate)
    return FhirSource(
        settings.fhir,
        settings.type,
        settings.search,
        settings.parameters,
        settings.page,
        settings.token.get_secret_value() if settings.token else None,
        certificate,
        settings.authority,
        settings.retries,
    )


def _outcome(ledger: Ledger, snapshot: Snapshot | None, job: Job, state: str) -> Outcome:
    details: dict[str, object] = {
        "members": len(job.members),
        "batches": len(job.batches()),
        "source": job.source.describe(),
    }
    if snapshot is None:
        return Outcome(job.aggregate, state, None, None, Account(), (), details)
    return Outcome(
        aggregate=job.aggregate,
        state=state,
        snapshot=snapshot.number,
        location=snapshot.location,
        account=ledger.account(snapshot.run),
        findings=ledger.findings(run=snapshot.run),
        details=details | {"job": snapshot.run, "outputs": snapshot.provenance["outputs"]},
    )
