"""``catchment arrays rechunk`` and ``export``: stores made ready for those who read them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from catchment.cli import arrays_shows as shows
from catchment.cli.arrays_place import Chunks, Target, sessions_at, settings, sizes
from catchment.cli.output import Output
from catchment.cli.place import DryRun
from catchment.core.errors import Invalid


def rechunk(
    ctx: typer.Context,
    store: Target,
    chunks: Chunks = None,
    drop_former: Annotated[
        bool,
        typer.Option("--drop-former", help="Delete the chunks of before the last rechunk."),
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="From a rechunk on a machine that is gone for good."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Give a store other chunks. Readers see the former ones or the new ones.

    The former chunks stay for readers that have the store open; --drop-former deletes them.
    Interrupted, the same command goes on where it was.
    """
    from catchment.arrays import api
    from catchment.arrays import generations as rechunking

    out: Output = ctx.obj
    wanted = sizes(chunks)
    if (wanted is None) is not drop_former:
        raise Invalid(
            "expected either --chunks or --drop-former",
            kind="usage",
            hint=f"catchment arrays rechunk {store} --chunks time=128",
        )
    with sessions_at(out, store, writes=not dry_run) as stack, out.progress() as progress:
        api.stacked(stack).progress = progress
        if wanted is None:
            count = rechunking.drop_former(stack, dry_run=dry_run)
            told = {"store": stack.store.url, "former_chunks": count, "dry_run": dry_run}
        else:
            told = rechunking.rechunk(stack, wanted, dry_run=dry_run, take_over=take_over).to_json()
    out.result(told, shows.dropped if wanted is None else shows.rechunked)


def export(
    ctx: typer.Context,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A store, or a folder of partitions.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Folder or URL, empty, for what is written.")
    ],
    form: Annotated[
        Literal["zarr", "npy", "parquet"], typer.Option("--form", help="What is written.")
    ] = "zarr",
    variable: Annotated[
        list[str] | None,
        typer.Option("--variable", metavar="NAME", help="Only this one; repeat it."),
    ] = None,
    session: Annotated[
        list[str] | None,
        typer.Option("--session", metavar="ID", help="Only this one; repeat it."),
    ] = None,
    valid: Annotated[
        bool, typer.Option("--valid", help="Only windows of which every NAME_valid says so.")
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="S", help="Of the partitions that are meant."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Windows of all sessions behind each other, for training: no padding, no tombstones.

    Each window has its session, its site and its position there. export.json says what there is,
    and is written last.
    """
    from catchment.arrays import api

    out: Output = ctx.obj
    with settings(out) as workspace, out.progress() as progress:
        made = api.export(
            store,
            target,
            form=form,
            variables=variable,
            sessions=session,
            valid=valid,
            schema=schema,
            dry_run=dry_run,
            progress=progress,
            **workspace.settings.s3.options(),
        )
    out.result(made.to_json(), shows.exported)
