"""Imaging as the workspace sees it: settings become a job, and what no snapshot needs is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from catchment.core.capability import Outcome, named
from catchment.core.collection import under_lease
from catchment.core.errors import Invalid
from catchment.core.finding import Finding
from catchment.core.ledger import Snapshot
from catchment.core.named_sections import ImagingSettings
from catchment.core.progress import Progress, silent
from catchment.core.settings import without_password
from catchment.core.store import Stat
from catchment.core.warehouse import follow, load
from catchment.core.warehouse.duck import DuckDBWarehouse
from catchment.core.workspace import Workspace
from catchment.imaging import layout
from catchment.imaging import run as runs
from catchment.imaging.export import INTERNAL
from catchment.imaging.job import House
from catchment.imaging.lambda_executor import open_lambda
from catchment.imaging.model import Job, Options, Provider
from catchment.imaging.profile import profile_of
from catchment.imaging.receive import listing, read_delivery, source_of
from catchment.imaging.shelf import parts_of
from catchment.imaging.snapshot import ImagingSnapshot, open_snapshot
from catchment.imaging.staging import SETTING


def run(
    workspace: Workspace,
    name: str,
    *,
    dry_run: bool = False,
    sync: bool = True,
    progress: Progress = silent,
) -> Outcome:
    """Bring ``imaging/<name>`` up to date, or say what waits; see :func:`runs.run`."""
    wanted = job(workspace, name, receives=sync)
    place = house(workspace, progress, dry_run=dry_run)
    if dry_run:
        return outcome(wanted, runs.plan_only(wanted, place))
    with compressing(workspace, name, place) as equipped:
        done = runs.run(wanted, equipped, sync=sync)
    if done.snapshot is not None:
        told = load_warehouse(workspace, name, done.snapshot)
        done = replace(done, findings=[*done.findings, *told])
    return outcome(wanted, done)


@contextmanager
def compressing(workspace: Workspace, name: str, place: House) -> Iterator[House]:
    """The same place, with the workers that pictures are made by."""
    spec = settings_of(workspace, name).compress
    if spec == "local":
        yield place
        return
    with open_lambda(spec, workspace.store, workspace.settings.s3.options()) as executor:
        yield replace(place, compressor=executor)


def sync(workspace: Workspace, name: str, *, progress: Progress = silent) -> Outcome:
    """Receive what the providers have, and leave its reading to a later run."""
    wanted = job(workspace, name, stages=False)
    return outcome(wanted, runs.sync_only(wanted, house(workspace, progress)))


def outcome(wanted: Job, done: runs.Outcome) -> Outcome:
    """What a run did, as commands tell it."""
    return Outcome(
        aggregate=wanted.aggregate,
        state=done.state,
        snapshot=done.snapshot.number if done.snapshot else None,
        location=done.snapshot.location if done.snapshot else None,
        account=done.account,
        findings=done.findings,
        details={"files": done.files} | _rows(done.snapshot),
    )


def load_warehouse(workspace: Workspace, name: str, snapshot: Snapshot) -> list[Finding]:
    """Make the warehouses of the settings, if there are any, show this snapshot."""
    shown = ImagingSnapshot(workspace.store, name, snapshot)
    path = settings_of(workspace, name).warehouse
    if path is not None:
        load(DuckDBWarehouse(Path(path)), snapshot.number, shown.relations)
    return follow(workspace, f"imaging/{name}", snapshot.number, shown.relations)


def orphans(workspace: Workspace, *, grace: timedelta, dry_run: bool = False) -> Iterator[str]:
    """Objects that no snapshot, delivery or running run needs; none while a run is at work."""
    for name in workspace.settings.imaging:
        wanted = job(workspace, name, receives=False, stages=False)
        find = partial(_left_over, workspace, wanted)
        yield from under_lease(workspace.ledger, wanted.aggregate, grace, find, dry_run=dry_run)


def _left_over(workspace: Workspace, wanted: Job) -> list[Stat]:
    name = wanted.name
    needed = set(_needed(workspace, wanted))
    found = [
        s
        for s in workspace.store.list(layout.home(name))
        if s.key not in needed and not s.key.startswith(layout.inboxes(name))
    ]
    # With a provenance: of a ledger that was lost. What its snapshots name is not known.
    return [] if any(s.key.endswith("/provenance.json") for s in found) else found


def sites(workspace: Workspace, name: str) -> dict[str, str]:
    """The digest of each provider's listing."""
    wanted = job(workspace, name, stages=False)
    place = house(workspace, dry_run=True)
    found: dict[str, str] = {}
    for one in wanted.providers:
        digest = listing(source_of(wanted, one, place), one)
        found[one.name] = f"{found[one.name]} {digest}" if one.name in found else digest
    return found


def shared(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The parts of the tables that are exported; never those of the files as received."""
    objects = snapshot.provenance["objects"]
    return [i for i in objects if i["role"] == "table" and i["table"] not in INTERNAL]


def verify(workspace: Workspace, name: str) -> list[str]:
    """What is wrong with the latest snapshot; see :meth:`ImagingSnapshot.verify`."""
    return open_snapshot(workspace.store, workspace.ledger_to_read(), name).verify()


def _needed(workspace: Workspace, wanted: Job) -> Iterator[str]:
    """Keys that something names: deliveries, what they hold, snapshots, their parts and images."""
    ledger, store, name = workspace.ledger, workspace.store, wanted.name
    for one in ledger.contributions(wanted.aggregate):
        yield layout.delivery_key(name, one.site, one.digest.removeprefix("sha256:"))
        digests = read_delivery(store, wanted, one, ["digest"])["digest"].to_pylist()
        yield from (layout.object_key(name, digest) for digest in digests if digest)
    for snapshot in ledger.snapshots(wanted.aggregate, provenance=True):
        yield f"{snapshot.location}provenance.json"
        if snapshot.expired_at is not None:
            continue
        shown = ImagingSnapshot(store, name, snapshot)
        yield from (part.key for part in parts_of(snapshot.provenance))
        yield from (key for key in shown["compressed_images"]["object"].to_pylist() if key)
        staged = shown["raw"]["stage_sha256"].to_pylist()
        yield from (layout.clean_key(name, digest) for digest in staged if digest)


def house(workspace: Workspace, progress: Progress = silent, *, dry_run: bool = False) -> House:
    """Where a job of the workspace works; a dry run makes no ledger where there is none."""
    return House(
        workspace.store,
        workspace.ledger_to_read() if dry_run else workspace.ledger,
        workspace.executor,
        workspace.open_store,
        progress=progress,
    )


def job(workspace: Workspace, name: str, *, receives: bool = True, stages: bool = True) -> Job:
    """The job of ``[imaging.<name>]``.

    It needs no providers where it receives nothing, and no secrets where it stages nothing.

    Raises:
        NotFound: kind ``no-aggregate``, ``no-profile``.
        Invalid: kind ``no-providers``, ``bad-since``, ``no-key``.
    """
    settings = settings_of(workspace, name)
    wanted = settings.deidentify if stages else None
    profile = None if wanted is None else profile_of(workspace.settings, wanted)
    if receives and not settings.providers and not settings.senders:
        raise Invalid(
            f"[imaging.{name}] names no provider",
            kind="no-providers",
            hint=f'add a line to [imaging.{name}.providers]: clinic = "folder or URL"',
        )
    return Job(
        name,
        (
            *(
                Provider(site, url, since=_since(settings.since))
                for site, url in sorted(settings.providers.items())
            ),
            *(
                Provider(site, workspace.store.url, layout.inbox(name, site), inbox=True)
                for site in sorted(settings.senders)
            ),
        ),
        Options(
            key=settings.key.get_secret_value().encode() if settings.key else b"",
            previews=settings.previews,
            archive="" if settings.archive == "none" else settings.archive,
            require_deidentified=settings.require_deidentified,
            profile=profile,
        ),
        config={
            key: without_password(value) if isinstance(value, str) else value
            for key, value in settings.model_dump(mode="json", exclude={"key"}).items()
        }
        | ({SETTING: profile.described()} if profile else {}),
    )


def settings_of(workspace: Workspace, name: str) -> ImagingSettings:
    """``[imaging.<name>]``; NotFound (kind ``no-aggregate``) if there is none."""
    return named(workspace.settings.imaging, "imaging", name)


def _since(text: str | None) -> str:
    try:
        return "" if text is None else datetime.fromisoformat(text).isoformat()
    except ValueError:
        raise Invalid(
            "'since' is no instant",
            kind="bad-since",
            hint="write it as 2026-11-21 or 2026-11-21T08:30:00+01:00",
        ) from None


def _rows(snapshot: Snapshot | None) -> dict[str, dict[str, int]]:
    if snapshot is None:
        return {}
    rows: dict[str, int] = {}
    for part in parts_of(snapshot.provenance):
        rows[part.table] = rows.get(part.table, 0) + part.rows
    return {"rows": rows}
