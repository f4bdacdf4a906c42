"""``catchment exports``: streamed records become NDJSON files of bounded size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from catchment.cli.output import BALANCE, Output, balance, findings, table
from catchment.cli.place import Cluster, DryRun, Url, open_aggregate
from catchment.core.names import counted

if TYPE_CHECKING:
    from rich.table import Table

    from catchment.core.workspace import Workspace
    from catchment.exports.jobs import Status

app = typer.Typer(help="Streamed records become NDJSON files of bounded size.")


Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Which [exports.NAME]. Default: the only one."),
]
JobId = Annotated[
    str | None, typer.Option("--job", metavar="ID", help="Which job. Default: the newest.")
]
Contract = Annotated[
    str | None, typer.Option("--contract", metavar="C", help="First part of the outputs' names.")
]
Members = Annotated[
    str | None, typer.Option("--members", metavar="FILE", help="Who is asked for, an id a line.")
]
Fhir = Annotated[
    str | None, typer.Option("--fhir", metavar="URL", help="FHIR server that has the records.")
]
Files = Annotated[
    str | None,
    typer.Option("--files", metavar="URL", help="NDJSON files and Bundles instead of a server."),
]
Type = Annotated[
    str | None,
    typer.Option("--type", metavar="TYPE", help="Of the resources. Default: ExplanationOfBenefit."),
]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="N", help="Members in a batch. Default: 100.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="SHARE", help="Of members that may fail. Default: 0.01."),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        "--max-bytes", metavar="N", help="Largest output, uncompressed. Default: 209715200."
    ),
]
Multiplier = Annotated[
    float | None,
    typer.Option(
        "--multiplier",
        metavar="M",
        help="While records stream, combine when more than M times N bytes wait. Default: 2.",
    ),
]
Codec = Annotated[
    Literal["none", "gzip", "zstd"] | None,
    typer.Option("--codec", help="How outputs are compressed. Default: none."),
]


@app.command()
def run(
    ctx: typer.Context,
    name: Name = None,
    output: Url = None,
    contract: Contract = None,
    members: Members = None,
    fhir: Fhir = None,
    files: Files = None,
    type_: Type = None,
    batch: Batch = None,
    threshold: Threshold = None,
    max_bytes: MaxBytes = None,
    multiplier: Multiplier = None,
    codec: Codec = None,
    cluster: Cluster = None,
    dry_run: DryRun = False,
) -> None:
    """Run a new job, or go on with the one that is open.

    With --output no workspace is needed: the arguments say everything.
    """
    from catchment.exports import capability

    given = {
        "contract": contract,
        "members": members,
        "fhir": fhir,
        "files": files,
        "type": type_,
        "batch": batch,
        "threshold": threshold,
        "max_bytes": max_bytes,
        "multiplier": multiplier,
        "codec": codec,
    }
    out: Output = ctx.obj
    with (
        open_aggregate(out, "exports", name, output, given=given, cluster=cluster, makes=True) as (
            workspace,
            chosen,
        ),
        out.progress() as progress,
    ):
        outcome = capability.run(workspace, chosen, dry_run=dry_run, again=True, progress=progress)
    out.result(outcome.to_json() | {"store": workspace.store.url}, _show_outcome)


@app.command()
def status(ctx: typer.Context, name: Name = None, output: Url = None, job: JobId = None) -> None:
    """How far a job is, and what it made so far."""
    out: Output = ctx.obj
    with open_aggregate(out, "exports", name, output) as (workspace, chosen):
        found = _job(workspace, chosen, job)
    out.result(found.to_json() | {"store": workspace.store.url}, _show_status)


@app.command()
def cancel(ctx: typer.Context, name: Name = None, output: Url = None) -> None:
    """Stop the open job, wherever its worker is, and remove all that it made."""
    from catchment.exports import run as runs

    out: Output = ctx.obj
    with open_aggregate(out, "exports", name, output) as (workspace, chosen):
        record = runs.cancel(workspace.store, workspace.ledger, f"exports/{chosen}")
    told = {"job": record.id, "aggregate": record.aggregate, "state": record.state}
    out.result(told, lambda _: [f"job {record.id} is {record.state}"])


@app.command()
def verify(ctx: typer.Context, name: Name = None, output: Url = None, job: JobId = None) -> None:
    """Check the files of a published job: size, digest, lines, account. Exit code 1 for faults."""
    from catchment.exports import jobs

    out: Output = ctx.obj
    with open_aggregate(out, "exports", name, output) as (workspace, chosen):
        found = _job(workspace, chosen, job)
        wrong = jobs.verify(workspace.store, workspace.ledger_to_read(), found)
    told = {"job": found.job, "files": len(found.outputs), "wrong": wrong}
    files = counted(len(found.outputs), "files")
    out.result(told, lambda _: wrong or [f"{files} of job {found.job}: all is well"])
    if wrong:
        raise typer.Exit(1)


@app.command()
def aggregate(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="JOB_DIR", help="The job: holds streaming/ and finished/.")
    ],
    contract: Annotated[
        str, typer.Option("--contract", metavar="C", help="First part of the outputs' names.")
    ],
    max_bytes: MaxBytes = None,
    multiplier: Multiplier = None,
    codec: Codec = None,
    once: Annotated[
        bool, typer.Option("--once", help="Combine what may be combined now, then return.")
    ] = False,
    streaming: Annotated[
        str, typer.Option("--streaming", metavar="NAME", help="Folder of files being written.")
    ] = "streaming",
    finished: Annotated[
        str, typer.Option("--finished", metavar="NAME", help="Folder of files that are whole.")
    ] = "finished",
) -> None:
    """Combine what any worker finishes, until it removes streaming/. Needs no workspace."""
    from catchment.exports import model
    from catchment.exports.aggregator import Aggregator
    from catchment.exports.directories import JobDirectories

    out: Output = ctx.obj
    path = folder.resolve()
    rules = model.Rules(
        model.DEFAULT_MAX_BYTES if max_bytes is None else max_bytes,
        model.DEFAULT_MULTIPLIER if multiplier is None else multiplier,
    )
    with (
        out.progress() as progress,
        Aggregator(
            JobDirectories(path.parent, path.name, streaming, finished),
            contract,
            rules,
            codec=model.Codec(codec or "none"),
            progress=progress,
        ) as aggregator,
    ):
        done = aggregator.run(threading.Event(), once=once)
    told = {"done": done, "outputs": [made.to_json() for made in aggregator.outputs]}
    out.result(told, _show_aggregated)


def _job(workspace: Workspace, name: str, job: str | None) -> Status:
    from catchment.exports import jobs

    ledger = workspace.ledger_to_read()
    return jobs.newest(ledger, f"exports/{name}") if job is None else jobs.status(ledger, job)


def _show_outcome(data: dict[str, Any]) -> Iterator[str | Table]:
    details = data["details"]
    if data["state"] == "planned":
        first = f"dry run: {counted(details['members'], 'members')} in {details['batches']:,} "
        yield first + ("batch" if details["batches"] == 1 else "batches")
        return
    yield table(
        data["aggregate"],
        ("of", "what", *BALANCE),
        ((line["part"], line["unit"], *balance(line)) for line in data["account"]),
    )
    yield from findings(data["findings"])
    yield _files(details["outputs"])
    yield f"published job {details['job']} as snapshot {data['snapshot']}"
    yield f"{data['store'].rstrip('/')}/{data['location']}"


def _show_status(data: dict[str, Any]) -> Iterator[str | Table]:
    yield f"job {data['job']} of {data['aggregate']} is {data['state']}"
    yield f"{data['done']:,} of {counted(data['members'], 'members')}, {data['failed']:,} failed"
    if data["error"]:
        yield f"error: {data['error']['message']}"
    if data["outputs"]:
        yield _files(data["outputs"])
        yield f"{data['store'].rstrip('/')}/{data['location']}"


def _show_aggregated(data: dict[str, Any]) -> Iterator[str | Table]:
    if data["outputs"]:
        yield _files(data["outputs"])
    yield "done" if data["done"] else "the workers are not done yet"


def _files(outputs: list[dict[str, Any]]) -> Table:
    return table(
        "files",
        ("name", "lines", "bytes", "stored", "sha256 of the lines"),
        (
            (o["name"], o["count"], o["size"], o["stored"], o["digest"].removeprefix("sha256:"))
            for o in outputs
        ),
    )
