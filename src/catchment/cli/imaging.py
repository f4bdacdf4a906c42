"""``catchment imaging``: DICOM of many providers becomes joinable tables and images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from catchment.cli import imaging_views as views
from catchment.cli.output import Output
from catchment.cli.place import Cluster, Url, open_aggregate

if TYPE_CHECKING:
    from catchment.core.workspace import Workspace
    from catchment.imaging.snapshot import ImagingSnapshot

app = typer.Typer(help="DICOM of many providers becomes joinable tables and images.")

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Which [imaging.NAME]. Default: the only one."),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Which [imaging.NAME]. Default: the only one."),
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider", metavar="NAME=URL", help="A provider and where its files lie; repeatable."
    ),
]
Warehouse = Annotated[
    str | None,
    typer.Option("--warehouse", metavar="FILE", help="DuckDB file that shows the tables."),
]
Require = Annotated[
    bool,
    typer.Option(
        "--require-deidentified", help="Quarantine files that do not say they are de-identified."
    ),
]
Which = Annotated[
    int | None, typer.Option("--snapshot", metavar="N", help="Which one. Default: the latest.")
]


@app.command()
def run(
    ctx: typer.Context,
    name: Name = None,
    output: Url = None,
    provider: Providers = None,
    warehouse: Warehouse = None,
    cluster: Cluster = None,
    previews: Annotated[
        Literal["none", "first", "middle", "all"] | None,
        typer.Option("--previews", help="Which frames of an image get one. Default: none."),
    ] = None,
    archive: Annotated[
        Literal["none", "htj2k", "jpegls"] | None,
        typer.Option("--archive", help="Codec of lossless copies. Default: none."),
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            "--compress",
            metavar="local|lambda:NAME",
            help="Who makes previews and copies. Default: local.",
        ),
    ] = None,
    deidentify: Annotated[
        str | None,
        typer.Option("--deidentify", metavar="P", help="De-identify by [deidentify.P], or basic."),
    ] = None,
    require_deidentified: Require = False,
    no_sync: Annotated[
        bool, typer.Option("--no-sync", help="Ask no provider: publish what was received.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many files wait; write nothing.")
    ] = False,
) -> None:
    """Receive what is new, give every file its state, and publish the tables.

    With --output no workspace is needed: the arguments say everything.
    """
    from catchment.imaging import capability

    out: Output = ctx.obj
    given = _given(provider, warehouse=warehouse, require=require_deidentified)
    given |= {"previews": previews, "archive": archive, "deidentify": deidentify}
    given["compress"] = compress
    with (
        open_aggregate(out, "imaging", name, output, given=given, cluster=cluster, makes=True) as (
            workspace,
            chosen,
        ),
        out.progress() as progress,
    ):
        done = capability.run(
            workspace, chosen, dry_run=dry_run, sync=not no_sync, progress=progress
        )
    out.result(done.to_json() | {"store": workspace.store.url}, views.outcome)


@app.command()
def sync(
    ctx: typer.Context, name: Name = None, output: Url = None, provider: Providers = None
) -> None:
    """Receive what is new, as it is; a later run publishes it."""
    from catchment.imaging import capability

    out: Output = ctx.obj
    with (
        open_aggregate(out, "imaging", name, output, given=_given(provider), makes=True) as (
            workspace,
            chosen,
        ),
        out.progress() as progress,
    ):
        done = capability.sync(workspace, chosen, progress=progress)
    out.result(done.to_json(), views.waiting)


@app.command()
def status(
    ctx: typer.Context, name: Name = None, output: Url = None, snapshot: Which = None
) -> None:
    """Files by provider and state, and rows by table, of the latest snapshot."""
    out: Output = ctx.obj
    with _opened(out, name, output, snapshot) as shown:
        told = {
            "aggregate": f"imaging/{shown.name}",
            "snapshot": shown.record.number,
            "published_at": shown.record.published_at.isoformat(),
            "files": shown.states(),
            "rows": shown.rows(),
        }
    out.result(told, views.status)


@app.command()
def quarantine(
    ctx: typer.Context,
    name: Name = None,
    output: Url = None,
    names: Annotated[
        bool,
        typer.Option("--names", help="Show providers' names of files; patients may be in them."),
    ] = False,
    reason: Annotated[
        list[str] | None,
        typer.Option("--reason", metavar="R", help="Only files with this reason; repeatable."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read them again, by the settings of today.")
    ] = False,
    seen: Annotated[
        bool, typer.Option("--seen", help="Tell no more of those that are there now.")
    ] = False,
) -> None:
    """Every file that is kept and not published, and why; or what is to become of them."""
    out: Output = ctx.obj
    if again and seen:
        raise typer.BadParameter("give either --again or --seen")
    if again and output is not None:
        raise typer.BadParameter("--again needs a workspace, whose settings say how files are read")
    if again or seen:
        _review(out, name, output, reason or (), again=again)
        return
    with _opened(out, name, output, None) as shown:
        found = shown.find("files", "state", ["quarantined", "conflict"]).to_pylist()
        found = [r for r in found if not reason or (r["reason"] or r["state"]) in reason]
        if names:
            found = shown.with_names(found)
    told = [
        {"site": row["site"], "state": row["state"], "reason": row["reason"]}
        | {"sha256": row["sha256"], "size": row["size"]}
        | {"seen": row["seen"].isoformat() if row["seen"] else None}
        | ({"name": row["name"]} if names else {})
        for row in found
    ]
    out.result(told, views.files)


def _review(
    out: Output, name: str | None, output: str | None, reasons: Sequence[str], *, again: bool
) -> None:
    """Read quarantined files again, or tell no more of them."""
    from catchment.imaging import capability, review

    given: dict[str, Any] = {"providers": {}} if output else {}
    with (
        open_aggregate(out, "imaging", name, output, given=given) as (workspace, chosen),
        out.progress() as progress,
    ):
        job = capability.job(workspace, chosen, receives=False, stages=again)
        place = capability.house(workspace, progress)
        if again:
            with capability.compressing(workspace, chosen, place) as equipped:
                done = review.again(job, equipped, reasons)
        else:
            done = review.seen(job, place, reasons)
        if done.state == "published" and done.snapshot is not None:
            capability.load_warehouse(workspace, chosen, done.snapshot)
        outcome = capability.outcome(job, done)
    out.result(outcome.to_json() | {"store": workspace.store.url}, views.outcome)


@app.command()
def resolve(
    ctx: typer.Context,
    uid: Annotated[
        str | None,
        typer.Argument(metavar="UID", help="SOPInstanceUID. Without it: list the conflicts."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SHA256", help="The file to publish; its first digits do."),
    ] = None,
    keep_none: Annotated[bool, typer.Option("--keep-none", help="Publish none of them.")] = False,
    name: NameOption = None,
    output: Url = None,
) -> None:
    """Decide which bytes a SOPInstanceUID stands for, or list what is to be decided."""
    from catchment.imaging import capability
    from catchment.imaging import resolve as resolving

    out: Output = ctx.obj
    if uid is None:
        with _opened(out, name, output, None) as shown:
            told = resolving.conflicts(shown)
        out.result(told, views.conflicts)
        return
    if (keep is None) != keep_none:
        raise typer.BadParameter("give either --keep or --keep-none")
    given: dict[str, Any] = (
        {"providers": {}} if output else {}
    )  # what is there is asked, not brought
    with open_aggregate(out, "imaging", name, output, given=given) as (workspace, chosen):
        job = capability.job(workspace, chosen, receives=False, stages=False)
        done = resolving.resolve(job, capability.house(workspace), uid, keep)
        if done.snapshot is not None:
            capability.load_warehouse(workspace, chosen, done.snapshot)
        outcome = capability.outcome(job, done)
    out.result(outcome.to_json() | {"store": workspace.store.url}, views.outcome)


@app.command()
def show(
    ctx: typer.Context,
    name: Name = None,
    output: Url = None,
    snapshot: Which = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="UID", help="With --png: which series.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write a sheet of its pictures.")
    ] = None,
) -> None:
    """The series of a snapshot; or one of them as a sheet of pictures."""
    out: Output = ctx.obj
    if (series is None) != (png is None):
        raise typer.BadParameter("--series and --png go together")
    if series is not None and png is not None:
        from catchment.imaging.one_series import sheet_of

        with open_aggregate(out, "imaging", name, output) as (workspace, chosen):
            shown = _pinned(workspace, chosen, snapshot)
            png.write_bytes(sheet_of(shown, series, workspace.executor))
        out.result({"written": str(png)}, lambda data: [f"wrote {data['written']}"])
        return
    with _opened(out, name, output, snapshot) as shown, shown.connect() as connection:
        rows = connection.execute(_SERIES).fetchall()
    columns = ("SeriesInstanceUID", "modality", "site", "description", "images")
    told = [dict(zip(columns, row, strict=True)) for row in rows]
    out.result(told, views.series)


@app.command()
def verify(
    ctx: typer.Context,
    name: Name = None,
    output: Url = None,
    snapshot: Which = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Read every file as received, too.")
    ] = False,
) -> None:
    """Check a snapshot: objects, keys, references, account. Exit code 1 for faults."""
    out: Output = ctx.obj
    with _opened(out, name, output, snapshot) as shown:
        wrong = shown.verify(sources=sources)
        number = shown.record.number
    told = {"snapshot": number, "wrong": wrong}
    out.result(told, lambda _: wrong or [f"snapshot {number} is well"])
    if wrong:
        raise typer.Exit(1)


@app.command()
def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")],
    name: NameOption = None,
    output: Url = None,
    snapshot: Which = None,
    series: Annotated[
        list[str] | None,
        typer.Option("--series", metavar="UID", help="Also the files of this series; repeatable."),
    ] = None,
) -> None:
    """Write the tables of a snapshot as Parquet, one file each."""
    from catchment.imaging.export import export_snapshot

    out: Output = ctx.obj
    with _opened(out, name, output, snapshot) as shown:
        written = export_snapshot(shown, folder, series or ())
    out.result({"written": written}, lambda _: [f"wrote {path}" for path in written])


@app.command()
def deidentify(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="IN", help="Folder or URL of DICOM files.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="A new folder, or its URL.")],
    profile: Annotated[
        str, typer.Option("--profile", metavar="P", help="[deidentify.P], or basic.")
    ] = "basic",
) -> None:
    """Write de-identified copies, by PS3.15 Annex E, and the evidence. Needs no workspace.

    The secret comes from CATCHMENT_DEIDENTIFY__P__KEY. What may show a name in its pictures is
    left out. Exit code 1 if any file was left out.
    """
    from catchment.core.settings import Settings
    from catchment.core.workspace import Workspace, find
    from catchment.imaging.deidentify_run import deidentify_all
    from catchment.imaging.profile import profile_of

    out: Output = ctx.obj
    file = find(out.workspace or Path.cwd())
    places = {"imaging.in.providers.in": source, "imaging.in.providers.out": target}
    settings = Settings.load(file, places)
    urls = settings.imaging["in"].providers
    with Workspace(settings) as workspace:
        account, left_out = deidentify_all(
            workspace.open_store(urls["in"]),
            workspace.open_store(urls["out"]),
            profile_of(settings, profile),
            workspace.executor,
        )
    told = {"account": account.to_json(), "output": urls["out"]}
    out.result(told, views.deidentified)
    if left_out:
        raise typer.Exit(1)


_SERIES = """
SELECT s."SeriesInstanceUID", s."Modality", s."site", s."SeriesDescription", count(*)
FROM series s JOIN images i USING ("SeriesInstanceUID")
GROUP BY ALL ORDER BY s."site", s."SeriesInstanceUID"
"""


def _given(
    provider: Sequence[str] | None, *, warehouse: str | None = None, require: bool = False
) -> dict[str, Any]:
    """What the arguments say, as settings."""
    given: dict[str, Any] = {"warehouse": warehouse, "require_deidentified": require or None}
    for one in provider or ():
        name, equals, url = one.partition("=")
        if not equals or not name or not url:
            raise typer.BadParameter("expected NAME=URL", param_hint="--provider")
        given[f"providers.{name}"] = url
    return given


@contextmanager
def _opened(
    out: Output, name: str | None, output: str | None, snapshot: int | None
) -> Iterator[ImagingSnapshot]:
    with open_aggregate(out, "imaging", name, output) as (workspace, chosen):
        yield _pinned(workspace, chosen, snapshot)


def _pinned(workspace: Workspace, chosen: str, snapshot: int | None) -> ImagingSnapshot:
    from catchment.imaging.snapshot import open_snapshot

    store, ledger = workspace.store, workspace.ledger_to_read()
    return open_snapshot(store, ledger, chosen, "latest" if snapshot is None else snapshot)
