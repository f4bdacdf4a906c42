"""``catchment tables``: center datasets become table snapshots."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from catchment.cli.output import BALANCE, Output, balance, findings, table
from catchment.cli.place import Cluster, DryRun, Url, open_aggregate
from catchment.core.errors import NotFound
from catchment.core.names import counted

if TYPE_CHECKING:
    from rich.table import Table

    from catchment.core.workspace import Workspace
    from catchment.tables.snapshot import TableSnapshot

app = typer.Typer(help="Center datasets become table snapshots.")

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Which [tables.NAME]. Default: the only one."),
]
Centers = Annotated[
    str | None, typer.Option("--centers", metavar="FILE", help="Center mapping, JSON.")
]
Datasets = Annotated[
    str | None,
    typer.Option("--datasets", metavar="URL", help="A center's dataset: 'URL/{center}'."),
]
Identifiers = Annotated[
    str | None,
    typer.Option(
        "--identifiers",
        metavar="FILE|URL|lambda:NAME",
        help="Who knows a participant's current center.",
    ),
]
Transfers = Annotated[
    str | None,
    typer.Option(
        "--transfers",
        metavar="current|none",
        help="Keep a moved participant's rows at the current center only, or all. "
        "Default: current; none where criteria are given.",
    ),
]
Criteria = Annotated[
    str | None,
    typer.Option(
        "--duplicates-criteria", metavar="FILE", help="Rules by key columns for tables, JSON."
    ),
]
Freeze = Annotated[
    str | None,
    typer.Option(
        "--freeze-date", metavar="YYYYMMDD", help="Constant column. Default: the day of the run."
    ),
]
Include = Annotated[
    str | None, typer.Option("--include-centers", metavar="A,B", help="Only these centers.")
]
Exclude = Annotated[
    str | None, typer.Option("--exclude-centers", metavar="A,B", help="All but these.")
]
Studies = Annotated[
    str | None,
    typer.Option("--exclude-studies", metavar="X,Y", help="Not the group ids with this suffix."),
]
Mode = Annotated[
    str | None,
    typer.Option("--mode", metavar="prod|dev", help="Of the identifiers service. Default: prod."),
]
Strict = Annotated[bool, typer.Option("--strict", help="A conflict of types is an error.")]
RequireAll = Annotated[
    bool, typer.Option("--require-all", help="A center that brings nothing is an error.")
]
FallBack = Annotated[
    bool,
    typer.Option(
        "--fall-back", help="Where a newest version has no tables, use the one before it."
    ),
]
Full = Annotated[
    bool, typer.Option("--full", help="Read every file again; copy nothing of the last snapshot.")
]
Which = Annotated[
    int | None, typer.Option("--snapshot", metavar="N", help="Which one. Default: the latest.")
]


@app.command()
def run(
    ctx: typer.Context,
    name: Name = None,
    output: Url = None,
    centers: Centers = None,
    datasets: Datasets = None,
    identifiers: Identifiers = None,
    transfers: Transfers = None,
    duplicates_criteria: Criteria = None,
    freeze_date: Freeze = None,
    include_centers: Include = None,
    exclude_centers: Exclude = None,
    exclude_studies: Studies = None,
    mode: Mode = None,
    strict: Strict = False,
    require_all: RequireAll = False,
    fall_back: FallBack = False,
    full: Full = False,
    cluster: Cluster = None,
    dry_run: DryRun = False,
) -> None:
    """Bring tables up to date: a new snapshot, or none where nothing changed.

    With --output no workspace is needed: the arguments say everything.
    """
    from catchment.tables import capability

    given = {
        "centers": centers,
        "datasets": datasets,
        "identifiers": identifiers,
        "transfers": transfers,
        "duplicates_criteria": duplicates_criteria,
        "freeze_date": freeze_date,
        "include_centers": include_centers,
        "exclude_centers": exclude_centers,
        "exclude_studies": exclude_studies,
        "mode": mode,
        "strict": strict or None,
        "require_all": require_all or None,
        "fall_back": fall_back or None,
        "output": None if output is None else "",  # then snapshots lie right at the URL
    }
    out: Output = ctx.obj
    with (
        open_aggregate(out, "tables", name, output, given=given, cluster=cluster, makes=True) as (
            workspace,
            chosen,
        ),
        out.progress() as progress,
    ):
        outcome = capability.run(workspace, chosen, dry_run=dry_run, full=full, progress=progress)
    out.result(outcome.to_json() | {"store": workspace.store.url}, _show_outcome)


@app.command()
def plan(
    ctx: typer.Context,
    name: Name = None,
    full: Full = False,
) -> None:
    """What a run would do now, table by table; writes nothing."""
    from catchment.tables import capability

    out: Output = ctx.obj
    with open_aggregate(out, "tables", name) as (workspace, chosen), out.progress() as progress:
        outcome = capability.run(workspace, chosen, dry_run=True, full=full, progress=progress)
    out.result(outcome.to_json() | {"store": workspace.store.url}, _show_outcome)


@app.command("list")
def list_(ctx: typer.Context, name: Name = None, output: Url = None) -> None:
    """The snapshots, newest first."""
    from catchment.tables.capability import settings_of

    out: Output = ctx.obj
    with open_aggregate(out, "tables", name, output) as (workspace, chosen):
        snapshots = [
            {
                "snapshot": s.number,
                "published_at": s.published_at.isoformat(),
                "location": s.location,
                "run": s.run,
                "expired": s.expired_at is not None,
            }
            for s in workspace.ledger_to_read().snapshots(f"tables/{chosen}")
        ]
        if not snapshots and output is None:
            settings_of(workspace, chosen)  # NotFound if it is no name of ours
    out.result(snapshots, _show_list)


@app.command()
def show(ctx: typer.Context, name: Name = None, output: Url = None, snapshot: Which = None) -> None:
    """Centers x tables of a snapshot: rows received, kept, dropped, and drift."""
    out: Output = ctx.obj
    with open_aggregate(out, "tables", name, output) as (workspace, chosen):
        found = _snapshot(workspace, chosen, snapshot)
        provenance = found.record.provenance
        drift: Counter[tuple[str, str]] = Counter(
            (table_name, site)
            for table_name, facts in provenance["tables"].items()
            for item in facts["drift"]
            for site, kinds in item["sites"].items()
            if kinds != [item["type"]]
        )
        lines = [
            line._asdict() | balance.to_json() | {"drift": drift[line.part, line.site]}
            for line, balance in found.account
        ]
        result = {
            "snapshot": found.record.number,
            "location": found.record.location,
            "store": workspace.store.url,
            "tables": {t: {"rows": x.rows, "bytes": x.size} for t, x in found.items()},
            "centers": lines,
            "skipped": provenance["skipped"],
        }
    out.result(result, _show_snapshot)


@app.command()
def verify(
    ctx: typer.Context, name: Name = None, output: Url = None, snapshot: Which = None
) -> None:
    """Read a snapshot's objects again: digests, rows, account. Exit code 1 if anything is wrong."""
    out: Output = ctx.obj
    with open_aggregate(out, "tables", name, output) as (workspace, chosen):
        found = _snapshot(workspace, chosen, snapshot)
        with out.progress() as progress:
            wrong = found.verify(progress)
        objects = len(found.record.provenance["objects"])
        result = {"snapshot": found.record.number, "objects": objects, "wrong": wrong}
    out.result(result, _show_verified)
    if wrong:
        raise typer.Exit(1)


def _snapshot(workspace: Workspace, name: str, number: int | None) -> TableSnapshot:
    from catchment.tables.capability import settings_of
    from catchment.tables.snapshot import open_snapshot

    which: int | Literal["latest"] = "latest" if number is None else number
    try:
        return open_snapshot(workspace.store, workspace.ledger_to_read(), name, which)
    except NotFound:
        if workspace.file is not None:
            settings_of(workspace, name)  # the clearer error, if it is no name of ours
        raise


def _show_outcome(data: dict[str, Any]) -> Iterator[str | Table]:
    yield from _show_account(data["account"])
    yield from findings(data["findings"])
    for center, reason in data["details"]["skipped"].items():
        yield f"skipped: {center} ({reason})"
    if data["state"] == "planned":
        if data["details"]["changed"]:
            yield "dry run: would be published"
            return
        yield "dry run: nothing changed"
    elif data["state"] == "unchanged":
        yield f"nothing changed: snapshot {data['snapshot']} is up to date"
    else:
        yield f"published snapshot {data['snapshot']}"
    if data["location"] is not None:
        yield f"{data['store'].rstrip('/')}/{data['location']}"


def _show_account(account: list[dict[str, Any]]) -> Iterator[str | Table]:
    """Received = kept + dropped + quarantined, by table; the reasons below."""
    totals: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    reasons: Counter[tuple[str, str, str]] = Counter()
    for line in account:
        total = totals[line["part"], line["unit"]]
        for column in ("received", "kept"):
            total[column] += line[column]
        for column in ("dropped", "quarantined"):
            for reason, count in line[column].items():
                total[column] += count
                reasons[column, reason, line["unit"]] += count
    rows = [(part, unit, *(t[c] for c in BALANCE)) for (part, unit), t in sorted(totals.items())]
    yield table("", ("table", "unit", *BALANCE), rows)
    for (fate, reason, unit), count in sorted(reasons.items()):
        yield f"{fate}: {counted(count, unit)} ({reason})"


def _show_list(data: list[dict[str, Any]]) -> Iterator[Table]:
    rows = [(s["snapshot"], s["published_at"], s["location"]) for s in data]
    yield table("", ("snapshot", "published", "location"), rows)


def _show_snapshot(data: dict[str, Any]) -> Iterator[str | Table]:
    yield f"snapshot {data['snapshot']} at {data['store'].rstrip('/')}/{data['location']}"
    rows = [
        (line["site"], line["part"], *balance(line), line["drift"])
        for line in data["centers"]
        if line["unit"] == "rows"
    ]
    yield table("", ("center", "table", *BALANCE, "drifted columns"), rows)
    for center, reason in data["skipped"].items():
        yield f"skipped: {center} ({reason})"


def _show_verified(data: dict[str, Any]) -> Iterator[str]:
    yield from (f"wrong: {problem}" for problem in data["wrong"])
    if not data["wrong"]:
        objects = counted(data["objects"], "objects")
        yield f"snapshot {data['snapshot']}: {objects} and the account are right"
