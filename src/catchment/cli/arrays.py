"""``catchment arrays``: sessions append to a Zarr store that only grows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from catchment.cli import arrays_shows as shows
from catchment.cli import arrays_training as training
from catchment.cli.arrays_place import (
    Chunks,
    OnConflict,
    Target,
    sessions_at,
    settings,
    sizes,
)
from catchment.cli.output import Output
from catchment.cli.place import Cluster, DryRun, Url, open_aggregate
from catchment.core.names import counted

app = typer.Typer(help="Sessions append to a Zarr store that only grows.")


@app.command()
def transform(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Which [arrays.NAME]. Default: the only one."),
    ] = None,
    recordings: Annotated[
        str | None,
        typer.Option("--recordings", metavar="URL", help="Recordings, instead of the settings'."),
    ] = None,
    output: Url = None,
    which: Annotated[
        str | None,
        typer.Option("--transform", metavar="T", help="Transform. Default: window."),
    ] = None,
    append_to_common: Annotated[
        bool | None,
        typer.Option(
            "--append-to-common/--own-stores",
            help="One store for all sessions, or one for each. Default: one for all.",
        ),
    ] = None,
    common_store_name: Annotated[
        str | None,
        typer.Option(
            "--common-store-name", metavar="S", help="Of the store. Default: windows_combined."
        ),
    ] = None,
    session: Annotated[
        list[str] | None,
        typer.Option("--session", metavar="ID", help="Only this one, by id or key; repeat it."),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Only recordings modified later (UTC).")
    ] = None,
    start_idx: Annotated[
        int, typer.Option("--start-idx", min=0, metavar="N", help="Begin at the N-th recording.")
    ] = 0,
    max_items: Annotated[
        int | None, typer.Option("--max-items", min=1, metavar="N", help="At most so many.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Sessions under way at a time."),
    ] = None,
    min_session_size: Annotated[
        int, typer.Option("--min-session-size", min=0, metavar="BYTES", help="Not smaller ones.")
    ] = 0,
    max_session_size: Annotated[
        int | None,
        typer.Option("--max-session-size", min=1, metavar="BYTES", help="Not larger ones."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="At a time.")
    ] = None,
    cluster: Cluster = None,
    include_processed: Annotated[
        bool, typer.Option("--include-processed", help="Also recordings that are done.")
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Do all again, and replace what differs.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Recordings become sessions of a common store; what was done before is not done again."""
    from catchment.arrays import capability
    from catchment.arrays.transform.discovery import Choice

    out: Output = ctx.obj
    choice = Choice(
        frozenset(session or ()),
        since.replace(tzinfo=UTC) if since and since.tzinfo is None else since,
        start_idx,
        max_items,
        min_session_size,
        max_session_size,
        include_processed,
        reset,
    )
    own = {
        "recordings": recordings,
        "transform": which,
        "options.append_to_common": append_to_common,
        "options.common_store_name": common_store_name,
    }
    with (
        open_aggregate(
            out, "arrays", name, output, given=own, cluster=cluster, workers=workers, makes=True
        ) as (workspace, chosen),
        out.progress() as progress,
    ):
        outcome = capability.run(
            workspace, chosen, dry_run=dry_run, choice=choice, batch=batch_size, progress=progress
        )
    out.result(outcome.to_json() | {"store": workspace.store.url}, shows.transform)


@app.command()
def append(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Dataset: a NetCDF file or a Zarr store.")
    ],
    store: Target,
    append_dim: Annotated[
        str, typer.Option("--append-dim", metavar="D", help="Dimension that grows.")
    ] = "session",
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="ID", help="Id, where the dataset does not say it."),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Who contributed it.")
    ] = None,
    group: Annotated[
        str, typer.Option("--group", metavar="PATH", help="A leaf of a tree of datasets.")
    ] = "",
    on_conflict: OnConflict = "error",
    chunks: Chunks = None,
    backend: Annotated[
        Literal["zarr", "icechunk"] | None,
        typer.Option("--backend", help="What keeps a new store. Default: zarr."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Append the sessions of a dataset. Needs no workspace.

    Readers see all of it or none, at any instant. The same a second time changes nothing. Exit
    code 1 if the dataset does not go with the store: the findings say why, nothing is written.
    """
    from catchment.arrays import api, files

    out: Output = ctx.obj
    with (
        settings(out) as workspace,
        out.progress() as progress,
        files.dataset(
            api.url_of(source), workspace.limits, group=group, **workspace.settings.s3.options()
        ) as found,
    ):
        outcome = api.append(
            found,
            store,
            append_dim=append_dim,
            chunks=sizes(chunks),
            on_conflict=on_conflict,
            dry_run=dry_run,
            session=session,
            site=site,
            backend=backend,
            progress=progress,
            **workspace.settings.s3.options(),
        )
    out.result(outcome.to_json(), shows.outcome)
    if outcome.refused:
        raise typer.Exit(1)


@app.command(name="list")
def list_(
    ctx: typer.Context,
    store: Target,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what was replaced, withdrawn or given up.")
    ] = False,
) -> None:
    """The sessions of a store."""
    from catchment.arrays.flat import Flat
    from catchment.arrays.foreign import kind_of
    from catchment.arrays.model import Status

    out: Output = ctx.obj
    with sessions_at(out, store) as stack:
        if kind_of(stack.store) == "group":
            entries, commit = Flat(stack).entries(), Flat(stack).commit()
        else:
            part = stack.part()
            entries, commit = list(part.entries), part.document.commit
    shown = [e.to_json() for e in entries if everything or e.status is Status.PRESENT]
    out.result({"store": stack.store.url, "commit": commit, "sessions": shown}, shows.listing)


@app.command()
def show(
    ctx: typer.Context,
    store: Target,
    session: Annotated[
        str | None, typer.Option("--session", metavar="ID", help="One session, not the store.")
    ] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Draw the session: .png or .svg.")
    ] = None,
) -> None:
    """The schema of a store, or one session of it."""
    from catchment.arrays import api, plots, read
    from catchment.arrays.flat import Flat
    from catchment.arrays.foreign import Group, kind_of

    out: Output = ctx.obj
    with sessions_at(out, store) as stack:
        positions = kind_of(stack.store) == "group"
        if session is None and positions:
            found = Group.of(stack.store)
            assert found is not None  # noqa: S101 - it is one
            told = {"store": stack.store.url, "variables": _variables(found.dataset(stack.store))}
            out.result(told, shows.group)
            return
        if session is None:
            part = stack.part()
            out.result(_described(stack.store.url, part.document, part.entries), shows.store)
            return
        entry = api.find(stack, session)
        one = Flat(stack).session(session) if positions else read.session(stack.dataset(), session)
        told = entry.to_json() | {"variables": _variables(one), "plot": plot}
        if plot is not None:
            plots.save(one, plot)
    out.result(told, shows.session)


@app.command()
def verify(
    ctx: typer.Context,
    store: Target,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write root and rows anew from the commits.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not read the sessions.")] = False,
) -> None:
    """Compare a store with its commits, and sessions with their digests. Exit code 1 for faults."""
    out: Output = ctx.obj
    with sessions_at(out, store, writes=repair) as stack, out.progress() as progress:
        stack.progress = progress
        verdict = stack.verify(repair=repair, quick=quick)
    out.result(verdict.to_json() | {"store": stack.store.url}, shows.verdict)
    if verdict.wrong:
        raise typer.Exit(1)


@app.command()
def withdraw(
    ctx: typer.Context,
    store: Target,
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its id in the store.")],
    dry_run: DryRun = False,
) -> None:
    """Delete a session's chunks, those that it had before a replacement too; a tombstone stays.

    Of a store that grows by positions its positions are taken out, and what lies behind moves up.
    """
    from catchment.arrays import api

    out: Output = ctx.obj
    with sessions_at(out, store, writes=not dry_run) as stack:
        entry, chunks = (api.find(stack, session), 0) if dry_run else stack.withdraw(session)
    told = {"store": stack.store.url, "dry_run": dry_run, "chunks": chunks, **entry.to_json()}
    out.result(
        told,
        lambda t: [
            f"dry run: {t['session']} would be withdrawn from slot {t['slot']}"
            if t["dry_run"]
            else f"{t['session']} is withdrawn: {counted(t['chunks'], 'chunks')} "
            "deleted or written anew"
        ],
    )


def _described(url: str, document: Any, entries: Sequence[Any]) -> dict[str, Any]:
    from catchment.arrays.plan import present

    sessions = present(entries)
    return {
        "store": url,
        "commit": document.commit,
        "fingerprint": document.schema.fingerprint,
        "append_dim": document.append_dim,
        "chunks": document.chunks,
        "sessions": len(sessions),
        "windows": sum(entry.row.n_windows for entry in sessions.values()),
        "variables": [
            {
                "name": name,
                "type": meta["data_type"],
                "dims": meta["dimension_names"],
                "shape": meta["shape"],
                "attributes": meta["attributes"],
            }
            for name, meta in document.arrays.items()
        ],
    }


def _variables(one: Any) -> list[dict[str, Any]]:
    return [
        {"name": str(n), "type": str(v.dtype), "dims": list(v.dims), "shape": list(v.shape)}
        for n, v in one.variables.items()
        if v.ndim
    ]


app.command()(training.rechunk)
app.command()(training.export)
