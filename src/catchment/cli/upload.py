"""``catchment upload``: send a study's packages, and see what was accepted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output, findings, table
from catchment.core.errors import Invalid

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(add_completion=False)

URL, USER, SECRET = "CATCHMENT_URL", "CATCHMENT_USER", "CATCHMENT_SECRET"


@app.command()
def upload(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="A zip, a file, or a study's folder.")
    ],
    url: Annotated[
        str | None, typer.Option("--url", help=f"Of the coordinating center. Or: {URL}.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help=f"Who uploads. Or: {USER}.")] = None,
    secret_stdin: Annotated[
        bool,
        typer.Option("--secret-stdin", help=f"Read the secret from standard input. Or: {SECRET}."),
    ] = False,
    study: Annotated[
        str | None, typer.Option("--study", help="Default: as the file or folder is called.")
    ] = None,
    data_version: Annotated[
        int | None,
        typer.Option(
            "--data-version", metavar="N", help="Default: as the table meta_version says, or 0."
        ),
    ] = None,
    network: Annotated[str, typer.Option("--network", help="For centers with several.")] = "",
    patience: Annotated[
        int, typer.Option("--patience", metavar="SECONDS", min=0, help="How long to go on trying.")
    ] = 900,
    force: Annotated[
        bool, typer.Option("--force", help="Send it although the check found faults.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only; send nothing.")] = False,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Send the secret without TLS.")
    ] = False,
) -> None:
    """Send a study's packages to a coordinating center, and see what was accepted.

    The exit code is 0 if all of it was accepted, 1 if anything was refused. Called again after an
    interruption it goes on with the same upload.
    """
    from catchment.studies import client

    output: Output = ctx.obj
    with client.packed(source, study, data_version) as parcel, output.progress() as progress:
        result = client.check(parcel)
        if not dry_run and (result["accepted"] or force):
            target = client.Target(
                _given(url, URL, "--url"),
                _given(user, USER, "--user"),
                _secret(secret_stdin),
                network,
                allow_http,
            )
            result = client.send(parcel, target, patience=patience, progress=progress)
    output.result(result, _show)
    if not result["accepted"]:
        raise typer.Exit(1)


def _given(value: str | None, variable: str, option: str) -> str:
    found = value or os.environ.get(variable)
    if not found:
        raise Invalid(
            f"expected {option}, or {variable} in the environment",
            kind="usage",
            hint="catchment upload --help",
        )
    return found


def _secret(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return _given(None, SECRET, "--secret-stdin")


def _show(data: dict[str, Any]) -> Iterator[str | Table]:
    from catchment.studies import quality

    rows = []
    for part in data["uploads"]:
        for file in part["files"]:
            accepted = {True: "accepted", False: "refused", None: "waits"}[file["accepted"]]
            rows.append((file["name"], file["kind"], accepted, file["rows"]))
    yield table("", ("file", "kind", "", "rows"), rows)
    for part in data["uploads"]:
        for file in part["files"]:
            for line in quality.words(file["quality"]):
                yield f"{file['name']}: {line}"
        yield from findings(f for file in part["files"] for f in file["findings"])
        if part["error"]:
            yield f"error: {part['filename']}: {part['error']['message']}"
            yield f"  hint: {part['error']['hint']}"
    words = {True: "accepted", False: "refused", None: "not decided yet"}
    where = f"transaction {data['transaction']}" if data["transaction"] else "checked here only"
    yield f"{data['study']}: {words[data['accepted']]} ({where})"
