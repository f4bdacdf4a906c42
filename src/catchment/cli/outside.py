"""What others are shown: ``verify`` for auditors, ``crate`` for readers, ``lineage``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from catchment.cli.output import Output
from catchment.cli.place import Url, audit_log, open_workspace
from catchment.cli.workspace import Only
from catchment.core.errors import Invalid, NotFound
from catchment.core.names import counted

app = typer.Typer()


@app.command()
def verify(
    ctx: typer.Context,
    aggregate: Only = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="The audit log, instead of the aggregates.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="DIGEST", help="A head of the audit log that was told before."
        ),
    ] = None,
) -> None:
    """Check that what is published, and who did what, is as it was written.

    Reads every object of the latest snapshots. Exit code 1 for faults, 6 for an audit log that was
    tampered with. Keep the head that --audit tells elsewhere, and give it the next time: so that
    lines at the end, too, cannot go missing.
    """
    output: Output = ctx.obj
    with open_workspace(output) as workspace:
        if audit or head is not None:
            from catchment.core.ledger.people import EMPTY

            chain = audit_log(workspace).check_audit(head)
            output.result(
                chain._asdict(),
                lambda told: [
                    f"{counted(told['lines'], 'lines')}: all is well",
                    f"head: {told['head'] or EMPTY}",
                ],
            )
            return
        from catchment.core.capability import aggregates, load

        found: dict[str, list[str] | None] = {}
        for name in aggregates(workspace):
            if aggregate in {None, name}:
                capability, _, own = name.partition("/")
                try:
                    found[name] = list(load(capability).verify(workspace, own))
                except NotFound as error:
                    if error.kind != "no-snapshot":
                        raise
                    found[name] = None
    if aggregate is not None and aggregate not in found:
        raise NotFound(
            f"the settings have no {aggregate!r}", kind="no-aggregate", hint="catchment config"
        )
    output.result(found, _show_verified)
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def crate(
    ctx: typer.Context,
    aggregate: Annotated[str, typer.Argument(metavar="AGGREGATE", help="As in tables/main.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    number: Annotated[
        int | None, typer.Option("--number", min=1, help="Which snapshot. Default: the latest.")
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="TEXT", help="On what terms it is handed on; a URL, too."
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Copy a snapshot into a folder to cite: an RO-Crate that Croissant readers open, too.

    Each file is compared with its digest on the way. What was suppressed, dropped or quarantined is
    not in it.
    """
    from catchment.core import crate as crates
    from catchment.core.capability import load

    output: Output = ctx.obj
    with open_workspace(output, url) as workspace:
        ledger = workspace.ledger_to_read()
        snapshot = (
            ledger.latest(aggregate) if number is None else ledger.snapshot(aggregate, number)
        )
        if snapshot is None:
            raise NotFound(
                f"{aggregate} has no snapshot yet",
                kind="no-snapshot",
                hint=f"catchment run {aggregate}",
            )
        files = crates.export(
            workspace.store,
            snapshot,
            load(aggregate.partition("/")[0]).shared(snapshot),
            folder,
            publisher=workspace.place.workspace,
            license_=license_ or crates.NO_LICENSE,
        )
    told = {
        "aggregate": aggregate,
        "snapshot": snapshot.number,
        "folder": str(folder),
        "files": [file._asdict() for file in files],
    }
    output.result(
        told,
        lambda told: [
            f"files: {len(told['files'])}, of {aggregate}, snapshot {told['snapshot']}",
            f"{folder}/{crates.METADATA}",
            f"{folder}/{crates.CROISSANT}",
        ],
    )


@app.command()
def lineage(
    ctx: typer.Context,
    aggregate: Only = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of at most so many runs.")] = 100,
    send: Annotated[
        bool, typer.Option("--send", help="Send them to where [lineage] says, too.")
    ] = False,
) -> None:
    """Tell what runs read and made, as events of OpenLineage.

    A line each, the oldest first.

    Telling them again does no harm: a run keeps its id.
    """
    from catchment.core import lineage as lineages

    output: Output = ctx.obj
    with open_workspace(output) as workspace:
        settings = workspace.settings.lineage
        if send and settings.file is None and settings.url is None:
            raise Invalid(
                "nobody is named who is told",
                kind="no-collector",
                hint="set [lineage] url or file in catchment.toml",
            )
        ledger = workspace.ledger_to_read()
        if aggregate is not None and aggregate not in ledger.aggregates():
            raise NotFound(
                f"nothing is known of {aggregate!r}", kind="no-aggregate", hint="catchment status"
            )
        runs = ledger.runs(aggregate, limit=limit)
        told = [
            one for run in reversed(runs) for one in lineages.events(workspace.place, ledger, run)
        ]
        if send:
            lineages.send(settings, told)
    output.result(told, _show_lines)


def _show_lines(told: list[dict[str, Any]]) -> Iterator[str]:
    for one in told:
        yield json.dumps(one)


def _show_verified(found: dict[str, list[str] | None]) -> Iterator[str]:
    for name, wrong in found.items():
        if wrong is None:
            yield f"{name}: nothing is published yet"
        else:
            yield from (f"{name}: {fault}" for fault in wrong)
            if not wrong:
                yield f"{name}: well"
