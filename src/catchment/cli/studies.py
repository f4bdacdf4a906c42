"""``catchment studies``: sites upload data packages; they are merged, and released."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output, findings, table
from catchment.core.errors import NotFound
from catchment.core.names import counted, shown

if TYPE_CHECKING:
    from rich.table import Table

    from catchment.core.workspace import Workspace
    from catchment.studies.house import House
    from catchment.studies.run import Outcome
    from catchment.studies.scan import Scanned

_NAMED = 10  # sites of a package; --json has all
app = typer.Typer(help="Sites upload data packages; they are merged, and released.")

Study = Annotated[str, typer.Argument(metavar="STUDY", help="The study.")]
AnyStudy = Annotated[
    str | None, typer.Argument(metavar="STUDY", help="Only this study. Default: all.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]


@app.command()
def process(
    ctx: typer.Context,
    study: AnyStudy = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, and look whenever something arrives.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            help="With --watch: at most between two looks.",
        ),
    ] = 10,
    dry_run: DryRun = False,
) -> None:
    """Bring all that has arrived to an answer. Several workers may do it side by side."""
    from catchment.core.store_events import Queue
    from catchment.studies import capability, scan
    from catchment.studies import watch as watching
    from catchment.studies.subscribe import Weekly

    out: Output = ctx.obj
    if dry_run:
        with _house(out, dry_run=True) as house:
            keys = [one.key for one in scan.arrived(house, study)]
        out.result({"arrived": keys}, lambda told: told["arrived"] or ["nothing has arrived"])
        return
    with _workspace(out) as workspace, out.progress() as progress:
        if not watch:
            found = capability.scan(workspace, study, progress=progress)
            out.result(_scanned(found), _show_scanned)
            return

        weekly = Weekly(workspace)

        def look() -> None:
            weekly()
            done = capability.scan(workspace, study, progress=progress)
            if done.uploads or done.failed:
                out.result(_scanned(done), _show_scanned)

        settings = workspace.settings
        queue = None
        if settings.events.queue is not None:
            queue = Queue(settings.events.queue, settings.s3.options())
        watching.watch(look, workspace.store, threading.Event(), interval=interval, queue=queue)


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """What is published: studies, packages, versions."""
    from catchment.studies import library

    out: Output = ctx.obj
    with _workspace(out) as workspace:
        packages = library.packages(workspace)
    told = [
        {
            "id": one.id,
            "study": one.study,
            "name": one.name,
            "version": one.version,
            "kind": one.kind,
            "sites": list(one.sites),
            "rows": one.rows,
            "total": one.total,
            "min_cell": one.min_cell,
            "round_to": one.round_to,
            "updated_at": one.updated_at.isoformat(),
            "key": one.key,
        }
        for one in packages
    ]
    out.result(told, _show_list)


@app.command()
def show(ctx: typer.Context, study: Study) -> None:
    """A study by site and package: when it was uploaded, merged, refused; and what is amiss."""
    from catchment.studies import layout, library

    out: Output = ctx.obj
    with _workspace(out) as workspace:
        ledger = workspace.ledger_to_read()
        catalog = library.catalog(workspace, study)
        counts = ledger.counts(layout.aggregate(study))
        snapshot = ledger.latest(layout.aggregate(study))
        if not counts and study not in workspace.settings.studies:
            raise NotFound(
                f"nothing is known of a study {shown(study)}",
                kind="no-study",
                hint="catchment studies list",
            )
        told = {
            "study": study,
            "snapshot": catalog.snapshot,
            "times": [_times(one) for _, one in sorted(catalog.times.items())],
            "contributions": [
                {"site": c.site, "state": c.state, "number": c.contributions} for c in counts
            ],
            "findings": [
                f.to_json() for f in (ledger.findings(run=snapshot.run) if snapshot else ())
            ],
        }
    out.result(told, _show_study)


@app.command()
def withdraw(
    ctx: typer.Context,
    study: Study,
    site: Annotated[
        str | None, typer.Option("--site", metavar="SITE", help="Only this site. Default: all.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Take a site, or all of them, out of a study. The files go to the archive."""
    from catchment.studies import actions

    out: Output = ctx.obj
    with _house(out, dry_run=dry_run) as house:
        done = actions.withdraw(house, study, site, dry_run=dry_run)
    out.result(_outcome(study, done), _show_outcome)


@app.command()
def reprocess(
    ctx: typer.Context,
    study: Study,
    refused: Annotated[
        bool, typer.Option("--refused", help="Give what was refused another chance, too.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Read every kept file of a study again, and merge everything anew."""
    from catchment.studies import actions

    out: Output = ctx.obj
    with _house(out, dry_run=dry_run) as house:
        done = actions.reprocess(house, study, refused=refused, dry_run=dry_run)
    out.result(_outcome(study, done), _show_outcome)


@app.command()
def rollback(
    ctx: typer.Context,
    study: Study,
    snapshot: Annotated[
        int, typer.Argument(metavar="SNAPSHOT", help="Whose contributions shall count again.")
    ],
    dry_run: DryRun = False,
) -> None:
    """Go back to the contributions of a former snapshot, as a new one."""
    from catchment.studies import actions

    out: Output = ctx.obj
    with _house(out, dry_run=dry_run) as house:
        done = actions.rollback(house, study, snapshot, dry_run=dry_run)
    out.result(_outcome(study, done), _show_outcome)


@app.command()
def subscribe(ctx: typer.Context, dry_run: DryRun = False) -> None:
    """Register what is published as tables, in DuckDB and in the AWS Glue catalog."""
    from catchment.cli.output import facts
    from catchment.studies import subscribe as subscriptions

    out: Output = ctx.obj
    with _workspace(out) as workspace:
        done = subscriptions.crawl(workspace, dry_run=dry_run)
    told = [
        {
            "target": one.target,
            "new": one.new,
            "changed": one.changed,
            "removed": one.removed,
            "unchanged": one.unchanged,
            "failed": {what: facts(error) for what, error in one.failed.items()},
        }
        for one in done
    ]
    out.result(told, _show_crawls)
    failed = [error for one in done for error in one.failed.values()]
    if failed:
        raise typer.Exit(failed[0].exit_code)


@contextmanager
def _workspace(out: Output) -> Iterator[Workspace]:
    from catchment.core.workspace import Workspace

    with Workspace.open(out.workspace) as workspace:
        yield workspace


@contextmanager
def _house(out: Output, *, dry_run: bool) -> Iterator[House]:
    from catchment.studies import library

    with _workspace(out) as workspace, out.progress() as progress:
        yield library.house(workspace, progress, dry_run=dry_run)


def _scanned(done: Scanned) -> dict[str, Any]:
    from catchment.cli.output import facts

    return {
        "uploads": [one.to_json() for one in done.uploads],
        "studies": {name: _outcome(name, one) for name, one in done.outcomes.items()},
        "busy": done.busy,
        "failed": {what: facts(error) for what, error in done.failed.items()},
        "strays": [finding.to_json() for finding in done.strays],
    }


def _outcome(study: str, done: Outcome) -> dict[str, Any]:
    return {
        "study": study,
        "state": done.state,
        "snapshot": done.snapshot.number if done.snapshot else None,
        "moves": [
            {"contribution": m.contribution, "from": m.expected, "to": m.to, "reason": m.reason}
            for m in done.plan.moves
        ],
        "packages": [
            {"name": name, "version": version, "sites": [part.site for part in parts]}
            for (name, version), parts in sorted(done.plan.parts.items())
        ],
        "findings": [finding.to_json() for finding in done.plan.findings()],
    }


def _times(one: Any) -> dict[str, Any]:
    names = ("last_upload", "last_data_update", "last_aggregation", "last_error", "deleted")
    told = {"site": one.site, "package": one.package, "version": one.version}
    return told | {n: at and at.isoformat() for n in names for at in [getattr(one, n)]}


def _show_scanned(data: dict[str, Any]) -> Iterator[str | Table]:
    for upload in data["uploads"]:
        refused = sum(not file["accepted"] for file in upload["files"])
        yield (
            f"{upload['site']}: {upload['filename']} of {upload['study']}: "
            f"{counted(len(upload['files']) - refused, 'files')} accepted, {refused} refused"
        )
        yield from findings(f for file in upload["files"] for f in file["findings"])
    for name, outcome in data["studies"].items():
        yield _stands(name, outcome)
    for name in data["busy"]:
        yield f"{name}: another worker is at it"
    for what, error in data["failed"].items():
        yield f"{what}: {error['message']}"
    yield from findings(data["strays"])
    if not (data["uploads"] or data["studies"]):
        yield "nothing has arrived"


def _stands(study: str, outcome: dict[str, Any]) -> str:
    """Unchanged means that no more was to do: the uploads may have made the snapshot just now."""
    if outcome["snapshot"] is None:
        return f"{study}: nothing is published"
    verb = "published" if outcome["state"] == "published" else "all is in"
    return f"{study}: {verb} snapshot {outcome['snapshot']}"


def _show_list(data: list[dict[str, Any]]) -> Iterator[str | Table]:
    yield table(
        "packages",
        ("id", "kind", "sites", "rows", "total", "smallest cell", "rounded to", "changed"),
        (
            (
                one["id"],
                one["kind"],
                len(one["sites"]),
                one["rows"],
                one["total"],
                one["min_cell"],
                one["round_to"] or "",
                one["updated_at"][:16],
            )
            for one in data
        ),
    )


def _show_study(data: dict[str, Any]) -> Iterator[str | Table]:
    yield table(
        f"{data['study']}, snapshot {data['snapshot']}",
        ("site", "package", "version", "uploaded", "changed", "merged", "refused", "withdrawn"),
        (
            (
                one["site"],
                one["package"],
                one["version"],
                *((one[name] or "")[:16] for name in list(one)[3:]),
            )
            for one in data["times"]
        ),
    )
    yield from findings(data["findings"])


def _show_outcome(data: dict[str, Any]) -> Iterator[str | Table]:
    if data["moves"]:
        yield table(
            "moves",
            ("contribution", "from", "to", "reason"),
            ((m["contribution"], m["from"], m["to"], m["reason"]) for m in data["moves"]),
        )
    for package in data["packages"]:
        named = package["sites"][:_NAMED]
        sites = ", ".join(named) or "no site any more"
        if more := len(package["sites"]) - len(named):
            sites += f" and {more} more"
        yield f"{package['name']}, version {package['version']}: {sites}"
    yield from findings(data["findings"])
    yield f"{data['study']}: {data['state']}, snapshot {data['snapshot'] or 'none'}"


def _show_crawls(data: list[dict[str, Any]]) -> Iterator[str | Table]:
    for one in data:
        for what in ("new", "changed", "removed"):
            yield from (f"{one['target']}: {id_} is {what}" for id_ in one[what])
        for what, error in one["failed"].items():
            yield f"{one['target']}: {what} failed: {error['message']}; {error['hint']}"
        yield f"{one['target']}: {one['unchanged']} tables are as they were"
