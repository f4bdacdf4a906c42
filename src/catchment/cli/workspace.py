"""Commands about the workspace as a whole: ``init``, ``config``, ``run``, ``status`` and so on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import BALANCE, Output, balance, facts, findings, table
from catchment.cli.place import DryRun, Url, open_workspace
from catchment.core.errors import CatchmentError, Conflict, NotFound
from catchment.core.names import counted

if TYPE_CHECKING:
    from rich.table import Table

TEMPLATE = ("catchment.toml", "centers.json")

Only = Annotated[
    str | None, typer.Argument(metavar="AGGREGATE", help="Only this one, as in tables/main.")
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="tcp://HOST:PORT", help="Work on this dask cluster."),
]

app = typer.Typer()


@app.command()
def init(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the workspace; made if missing.")
    ] = Path(),
    dry_run: DryRun = False,
) -> None:
    """Write a first catchment.toml, with an example center mapping."""
    output: Output = ctx.obj
    elsewhere = directory.resolve() != Path.cwd()
    targets = [directory / name for name in TEMPLATE]
    if taken := [str(target) for target in targets if target.exists()]:
        raise Conflict(
            f"already there: {', '.join(taken)}",
            kind="file-exists",
            hint="catchment init ANOTHER-FOLDER",
        )
    if not dry_run:
        directory.mkdir(parents=True, exist_ok=True)
    for target in [] if dry_run else targets:
        text = files("catchment.cli").joinpath("template", target.name).read_text("utf-8")
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    output.result(
        {"dry_run": dry_run, "written": [str(target) for target in targets]},
        lambda data: [
            *(f"{'would write' if dry_run else 'wrote'} {path}" for path in data["written"]),
            "next: name your centers in centers.json, put their datasets below sites/, then",
            f"      catchment {f'--workspace {quote(str(directory))} ' * elsewhere}run",
        ],
    )


@app.command()
def config(
    ctx: typer.Context,
    show: Annotated[bool, typer.Option("--show", help="Print them; the default.")] = True,  # noqa: ARG001
) -> None:
    """Show the settings, resolved, without secrets."""
    output: Output = ctx.obj
    settings = open_workspace(output).settings
    output.result(
        {key: {"value": value, "from": origin} for key, value, origin in settings.shown()},
        _show_settings,
    )


@app.command()
def run(
    ctx: typer.Context, aggregate: Only = None, cluster: Cluster = None, dry_run: DryRun = False
) -> None:
    """Bring every aggregate of the workspace up to date.

    One that fails does not keep the others from running; the exit code is the first failure's.
    """
    from catchment.core.capability import aggregates, load

    output: Output = ctx.obj
    outcomes: list[dict[str, Any]] = []
    failed: list[CatchmentError] = []
    with (
        open_workspace(output, settings={"executor.kind": cluster}) as workspace,
        output.progress() as progress,
    ):
        for name in _wanted(aggregates(workspace), aggregate):
            kind, _, own = name.partition("/")
            try:
                outcome = load(kind).run(workspace, own, dry_run=dry_run, progress=progress)
                outcomes.append(outcome.to_json() | {"store": workspace.store.url})
            except CatchmentError as error:
                failed.append(error)
                outcomes.append({"aggregate": name, "state": "failed", "error": facts(error)})
    output.result(outcomes, _show_outcomes)
    if failed:
        raise typer.Exit(failed[0].exit_code)


@app.command()
def status(ctx: typer.Context, aggregate: Only = None, url: Url = None) -> None:
    """What is published, what runs, and what needs attention."""
    from catchment.core.capability import aggregates
    from catchment.core.status import status as look

    output: Output = ctx.obj
    with open_workspace(output, url) as workspace:
        entries = look(workspace.ledger_to_read(), aggregates(workspace), aggregate)
    output.result(entries, _show_status)


@app.command()
def gc(
    ctx: typer.Context,
    grace: Annotated[
        int, typer.Option("--grace", metavar="HOURS", min=0, help="Spare what is younger.")
    ] = 24,
    url: Url = None,
    dry_run: DryRun = False,
) -> None:
    """Remove what crashed or abandoned runs left behind."""
    from catchment.core.collection import collect

    output: Output = ctx.obj
    with open_workspace(output, url) as workspace:
        if dry_run:
            workspace.only_read()
        elif not workspace.has_ledger:
            workspace.rebuild()
        done = collect(workspace, timedelta(hours=grace), dry_run=dry_run)
    told = {"objects": done.objects, "interrupted_writes": done.interrupted}
    output.result({"dry_run": dry_run, **told}, _show_collected)


@app.command()
def doctor(
    ctx: typer.Context,
    rebuild_ledger: Annotated[
        bool,
        typer.Option("--rebuild-ledger", help="Recreate what the ledger lacks from the store."),
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="Mend what can be mended without a person.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every object of every kept snapshot.")
    ] = False,
    backups: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Store of backups, to mend objects from."),
    ] = None,
    url: Url = None,
    dry_run: DryRun = False,
) -> None:
    """Check the workspace; mend what follows from the ledger, the store, or a backup."""
    from catchment.core.doctor import examine, lacking
    from catchment.core.doctor import mend as apply

    output: Output = ctx.obj
    with open_workspace(output, url) as workspace:
        restored: int | None = None
        if rebuild_ledger and not dry_run:
            restored = workspace.rebuild()
        else:
            restored = lacking(workspace) if rebuild_ledger else None
            workspace.only_read()
        store = None if backups is None else workspace.open_store(backups)
        found = list(examine(workspace, deep=deep, backup=store))
        mended: list[str] = []
        if mend and not dry_run:
            mended = apply(found)
            found = list(examine(workspace, deep=deep, backup=store))
    checks = [check.to_json() for check in found]
    told = {"dry_run": dry_run, "restored": restored, "mended": mended, "checks": checks}
    output.result(told, _show_checks)
    if not all(check.well for check in found):
        raise typer.Exit(1)


def _wanted(names: list[str], only: str | None) -> list[str]:
    if only is not None and only not in names:
        raise NotFound(
            f"the settings have no {only!r}, expected one of: {', '.join(names) or 'none'}",
            kind="no-aggregate",
            hint="catchment config",
        )
    return [name for name in names if only in (None, name)]


def _show_settings(settings: dict[str, dict[str, Any]]) -> Iterator[Table]:
    rows = ((key, of["value"], of["from"]) for key, of in settings.items())
    yield table("", ("key", "value", "from"), rows)


def _show_outcomes(outcomes: list[dict[str, Any]]) -> Iterator[str | Table]:
    rows: list[Sequence[object]] = []
    for outcome in outcomes:
        totals: dict[str, list[int]] = {}
        for line in outcome.get("account", []):
            before = totals.get(line["unit"], [0] * len(BALANCE))
            totals[line["unit"]] = [a + b for a, b in zip(before, balance(line), strict=True)]
        said = [outcome["aggregate"], outcome["state"], outcome.get("snapshot")]
        rows += [(*said, unit, *counts) for unit, counts in sorted(totals.items())]
        if not totals:
            rows.append((*said, *(None for _ in ("unit", *BALANCE))))
    yield table("", ("aggregate", "state", "snapshot", "unit", *BALANCE), rows)
    for outcome in outcomes:
        if outcome.get("location") is not None:
            yield f"{outcome['aggregate']}: {outcome['store'].rstrip('/')}/{outcome['location']}"
        for site, reason in outcome.get("details", {}).get("skipped", {}).items():
            yield f"{outcome['aggregate']}: skipped: {site} ({reason})"
        yield from findings(outcome.get("findings", []))
        if "error" in outcome:
            yield f"{outcome['aggregate']}: error: {outcome['error']['message']}"
            yield f"  hint: {outcome['error']['hint']}"


def _show_status(entries: list[dict[str, Any]]) -> Iterator[str | Table]:
    rows = []
    for entry in entries:
        snapshot = entry["snapshot"] or {}
        rows.append(
            (
                entry["aggregate"],
                snapshot.get("number"),
                snapshot.get("published_at"),
                _state(entry),
                entry["lease"] and entry["lease"]["holder"],
                ", ".join(f"{n:,} {state}" for state, n in entry["contributions"].items()),
                len(entry["findings"]),
            )
        )
    columns = ("aggregate", "snapshot", "published", "last run", "held by", "contributions")
    yield table("", (*columns, "findings"), rows)
    for entry in entries:
        yield from findings(entry["findings"])
        if entry["runs"] and (error := entry["runs"][0]["error"]):
            yield f"{entry['aggregate']}: {error['message']}\n  hint: {error['hint']}"


def _state(entry: dict[str, Any]) -> str | None:
    """Of the last run; nobody may be at work on one that has not ended."""
    state: str | None = entry["runs"][0]["state"] if entry["runs"] else None
    return "not ended" if state == "running" and not entry["lease"] else state


def _show_collected(data: dict[str, Any]) -> Iterator[str]:
    yield from data["objects"]
    dry, count = data["dry_run"], len(data["objects"])
    yield f"{counted(count, 'objects')} {_were(count, dry_run=dry)} removed"
    if count := data["interrupted_writes"]:
        yield f"{counted(count, 'interrupted writes')} {_were(count, dry_run=dry)} cleared away"


def _were(count: int, *, dry_run: bool) -> str:
    return "would be" if dry_run else "was" if count == 1 else "were"


def _show_checks(data: dict[str, Any]) -> Iterator[str | Table]:
    if (count := data["restored"]) is not None:
        verb = _were(count, dry_run=data["dry_run"])
        yield f"{counted(count, 'snapshots')} {verb} new to the ledger"
    yield from (f"mended: {line}" for line in data["mended"])
    rows = [
        ("well" if c["well"] else "WRONG", c["what"], c["found"], c["hint"]) for c in data["checks"]
    ]
    yield table("", ("", "what", "found", "hint"), rows)
