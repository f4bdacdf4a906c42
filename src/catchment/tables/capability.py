"""Tables as the workspace sees them: settings become a job, and what no snapshot needs is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from catchment.core.capability import Outcome, named
from catchment.core.collection import under_lease
from catchment.core.errors import Invalid, NotFound
from catchment.core.finding import Finding
from catchment.core.ledger import Snapshot
from catchment.core.named_sections import TablesSettings
from catchment.core.names import shown
from catchment.core.progress import Progress, silent
from catchment.core.provenance import NAME
from catchment.core.settings import without_password
from catchment.core.store import Stat, check_prefix
from catchment.core.warehouse import follow
from catchment.core.workspace import Workspace
from catchment.tables import layout
from catchment.tables import run as runs
from catchment.tables.centers import read_centers, select_centers
from catchment.tables.criteria import read_criteria
from catchment.tables.datasets import find_datasets
from catchment.tables.identifiers import IdentifiersOptions, open_identifiers
from catchment.tables.job import House, Job
from catchment.tables.model import Options
from catchment.tables.snapshot import TableSnapshot, open_snapshot
from catchment.tables.sources import MappingSource, Source, TemplateSource

# What lies there and is not known to those that work there, they collect.
OTHERS = (layout.STAGING, "arrays/", "exports/", "imaging/", "studies/", "upload_staging/")
MAX_FILE = 64 * 1024 * 1024  # bytes of a center mapping or of criteria


def run(
    workspace: Workspace,
    name: str,
    *,
    dry_run: bool = False,
    full: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Bring ``tables/<name>`` up to date, or say what that would do; see :func:`runs.run`."""
    work = runs.plan_only if dry_run else runs.run
    done = work(job(workspace, name), house(workspace, progress, dry_run=dry_run), full=full)
    told: list[Finding] = []
    if done.snapshot is not None and not dry_run:
        shown = TableSnapshot(workspace.store, done.snapshot)
        told = follow(workspace, f"tables/{name}", done.snapshot.number, shown.relations)
    return Outcome(
        aggregate=f"tables/{name}",
        state=done.state,
        snapshot=done.snapshot.number if done.snapshot else None,
        location=done.snapshot.location if done.snapshot else None,
        account=done.plan.account,
        findings=[*done.plan.findings, *told],
        details=done.plan.to_json(),
    )


def orphans(workspace: Workspace, *, grace: timedelta, dry_run: bool = False) -> Iterator[str]:
    """Objects of runs that ended without publishing them; none while a run is at work.

    A later run takes a new folder, so what is an orphan under the lease stays one.
    """
    outputs = _outputs(workspace)
    for aggregate in outputs:
        find = partial(_left_over, workspace, aggregate, outputs)
        yield from under_lease(workspace.ledger, aggregate, grace, find, dry_run=dry_run)


def _left_over(workspace: Workspace, aggregate: str, outputs: Mapping[str, str]) -> Iterator[Stat]:
    ledger, store = workspace.ledger, workspace.store
    # Of all aggregates: two may share an output, and one's be not sealed yet.
    known = {s.location for a in ledger.aggregates() for s in ledger.snapshots(a)}
    prefixes = [layout.staging_prefix(aggregate)]
    snapshots = layout.snapshot_prefixes(store, outputs[aggregate])
    prefixes += [
        prefix
        for prefix in snapshots
        # Another's output may lie below a folder that only has such a name.
        if prefix not in known and not any(o.startswith(prefix) for o in outputs.values())
    ]
    for prefix in prefixes:
        stats = list(store.list(prefix))
        # With a provenance it is whole: of a ledger that was lost, not of a crash.
        if not any(s.key == prefix + NAME for s in stats):
            yield from stats


def _outputs(workspace: Workspace) -> dict[str, str]:
    """Where each aggregate's snapshots lie: those of the settings, and what else the ledger knows.

    Without a file there are no settings, and snapshots lie right at the store's URL.
    """
    found = {f"tables/{name}": output_prefix(workspace, name) for name in workspace.settings.tables}
    for aggregate in workspace.ledger.aggregates():
        if aggregate.startswith("tables/") and aggregate not in found:
            latest = workspace.ledger.latest(aggregate)
            if latest is not None:
                above, slash, _ = latest.location.rstrip("/").rpartition("/")
                found[aggregate] = above + slash
            else:
                found[aggregate] = f"{aggregate}/" if workspace.file else ""
    return found


def sites(workspace: Workspace, name: str) -> dict[str, str]:
    """The digest of each center's latest dataset, or why it has none."""
    wanted = job(workspace, name)
    found = find_datasets(wanted.centers, wanted.source, fall_back=wanted.options.fall_back)
    refused = {center: finding.code for center, finding in found.skipped.items()}
    return refused | {dataset.center.id: dataset.digest for dataset in found.datasets}


def shared(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The tables; not what only the next run needs, nor rows that were removed."""
    return [item for item in snapshot.provenance["objects"] if item["role"] == "table"]


def verify(workspace: Workspace, name: str) -> list[str]:
    """What is wrong with the latest snapshot; see :meth:`TableSnapshot.verify`."""
    return open_snapshot(workspace.store, workspace.ledger_to_read(), name).verify()


def house(workspace: Workspace, progress: Progress = silent, *, dry_run: bool = False) -> House:
    """Where a job of the workspace works; a dry run makes no ledger where there is none."""
    ledger = workspace.ledger_to_read() if dry_run else workspace.ledger
    return House(workspace.store, ledger, workspace.executor, progress=progress)


def job(workspace: Workspace, name: str) -> Job:
    """The job of ``[tables.<name>]``.

    Raises:
        NotFound: kind ``no-aggregate``, or a file that the settings name.
        Invalid: kinds of the center mapping, the criteria, the selection and the source.
    """
    settings = settings_of(workspace, name)
    options = Options(
        freeze_date=settings.freeze_date,
        include_centers=None
        if settings.include_centers is None
        else frozenset(settings.include_centers),
        exclude_centers=frozenset(settings.exclude_centers),
        exclude_studies=frozenset(settings.exclude_studies),
        transfers=_transfers(settings),
        criteria={}
        if settings.duplicates_criteria is None
        else read_criteria(*_file(workspace, settings, "duplicates_criteria")),
        mode=settings.mode,
        strict=settings.strict,
        require_all=settings.require_all,
        fall_back=settings.fall_back,
    )
    centers, malformed = read_centers(*_file(workspace, settings, "centers"))
    taken, left_out = select_centers(centers, options, malformed)
    return Job(
        name=name,
        output=output_prefix(workspace, name),
        centers=taken,
        source=_source(workspace, settings),
        identifiers=None
        if settings.identifiers is None
        else open_identifiers(settings.identifiers, settings.mode, _identifiers(workspace)),
        options=options,
        findings=[*malformed, *left_out],
        skipped={finding.site: finding.code for finding in [*malformed, *left_out]},
        config={
            key: without_password(value) if isinstance(value, str) else value
            for key, value in settings.model_dump(mode="json").items()
        },
    )


def settings_of(workspace: Workspace, name: str) -> TablesSettings:
    """``[tables.<name>]``; NotFound (kind ``no-aggregate``) if there is none."""
    return named(workspace.settings.tables, "tables", name)


def output_prefix(workspace: Workspace, name: str) -> str:
    """Prefix of the snapshots of ``[tables.<name>]`` below the workspace's store."""
    output = settings_of(workspace, name).output
    output = f"tables/{name}/" if output is None else output and f"{output.strip('/')}/"
    if output.startswith(OTHERS):
        raise Invalid(
            f"tables.{name}: an output below {shown(output)} would be collected as left over by "
            "those whose place it is",
            kind="bad-output",
            hint="name another output",
        )
    return check_prefix(output)


def _transfers(settings: TablesSettings) -> bool:
    """Criteria take the place of the documented rule, unless both are asked for."""
    if settings.transfers is None:
        return settings.duplicates_criteria is None
    return settings.transfers == "current"


def _source(workspace: Workspace, settings: TablesSettings) -> Source:
    options = workspace.settings.s3.options()
    if settings.source == "files":
        if isinstance(settings.datasets, dict):
            return MappingSource(settings.datasets, allow=settings.allow, options=options)
        return TemplateSource(settings.datasets or "", allow=settings.allow, options=options)
    from catchment.tables.flywheel import FlywheelSource

    key = workspace.settings.flywheel.api_key
    if key is None:
        raise Invalid(
            "datasets in Flywheel need an API key",
            kind="flywheel-key",
            hint="set CATCHMENT_FLYWHEEL__API_KEY",
        )
    secret, project = key.get_secret_value(), settings.project or ""
    return FlywheelSource(secret, project, allow=settings.allow, options=options)


def _identifiers(workspace: Workspace) -> IdentifiersOptions:
    settings = workspace.settings.identifiers
    return IdentifiersOptions(
        token=settings.token.get_secret_value() if settings.token else None,
        region=settings.region,
        store=workspace.settings.s3.options(),
    )


def _file(workspace: Workspace, settings: TablesSettings, key: str) -> tuple[bytes, str]:
    """The bytes and the name of a file that a setting names, of any store."""
    folder, _, name = getattr(settings, key).rpartition("/")
    store = workspace.open_store(folder)
    try:
        data = store.read(name, length=MAX_FILE + 1)
    except NotFound:
        raise NotFound(
            f"{key}: there is no {name} in {store.url}",
            kind="no-file",
            hint=f"set {key} (--{key.replace('_', '-')}) to a file that is there",
        ) from None
    if len(data) > MAX_FILE:
        raise Invalid(f"{name}: expected at most {MAX_FILE} bytes, got more", kind="too-large")
    return data, name
