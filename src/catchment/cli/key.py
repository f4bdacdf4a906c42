"""``catchment key``: who may read the dashboard API, and who read what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output, table

if TYPE_CHECKING:
    from rich.table import Table

    from catchment.core.ledger.keys import Key

app = typer.Typer(help="Who may read the dashboard API.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="study:NAME, site:NAME, or all. Several may be given; what is not limited is all.",
        ),
    ],
) -> None:
    """Make a key; it is shown this once."""
    from catchment.core.ledger.keys import Keys, scopes
    from catchment.core.passwords import new_secret
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    token = new_secret()
    with Workspace.open(output.workspace) as workspace:
        made = Keys(workspace.ledger).add(name, token, *scopes(scope))
    output.result(_facts(made) | {"key": token}, _show_new)


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """All keys, and what they may read."""
    from catchment.core.ledger.keys import Keys
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        keys = Keys(workspace.ledger).listed()
    output.result([_facts(key) for key in keys], _show)


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """A key opens nothing any more, at once."""
    from catchment.core.ledger.keys import Keys
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        Keys(workspace.ledger).remove(name)
    output.result({"removed": name}, lambda told: [f"removed {told['removed']}"])


@app.command()
def reads(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only by this key.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
) -> None:
    """Who read what by the dashboard API, the latest first."""
    from catchment.core.ledger.keys import Keys
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        found = Keys(workspace.ledger).reads(name, limit)
    output.result([one._asdict() | {"at": one.at.isoformat()} for one in found], _show_reads)


def _facts(key: Key) -> dict[str, Any]:
    created = key.created_at.isoformat()
    scope = {"studies": list(key.studies) or "all", "sites": list(key.sites) or "all"}
    return {"name": key.name, "created_at": created} | scope


def _show_new(told: dict[str, Any]) -> Iterator[str]:
    yield f"{told['name']} may read studies: {told['studies']}, sites: {told['sites']}"
    yield f"key: {told['key']}"
    yield "it is shown this once; send it as the header x-api-key"


def _show(told: list[dict[str, Any]]) -> Iterator[Table]:
    names = ("name", "studies", "sites", "created_at")
    yield table("", names, [[one[n] for n in names] for one in told])


def _show_reads(told: list[dict[str, Any]]) -> Iterator[Table]:
    names = ("at", "key", "path", "status")
    yield table("", names, [[one[n] for n in names] for one in told])
