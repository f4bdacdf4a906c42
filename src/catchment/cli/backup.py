"""``catchment backup`` and ``catchment restore``: the whole workspace, there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output, table
from catchment.cli.place import open_workspace
from catchment.core.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from catchment.core.backup_shelf import Backup

app = typer.Typer()

Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="This backup; the newest otherwise.")
]


@app.command()
def backup(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="URL", help="Store that takes the backups of this workspace.")
    ],
    list_: Annotated[bool, typer.Option("--list", help="Only list the backups there.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only read a backup, and say what is wrong with it.")
    ] = False,
    name: Name = None,
) -> None:
    """Back up ledger and store, while runs go on.

    What an earlier backup has is not copied again.
    """
    from catchment.core import backup as making
    from catchment.core import backup_shelf as shelf
    from catchment.core.restore import check as look

    output: Output = ctx.obj
    with open_workspace(output) as workspace, output.progress() as progress:
        store = workspace.open_store(target)
        if list_:
            output.result([_facts(shelf.read(store, one)) for one in shelf.backups(store)], _show)
            return
        if check:
            made = shelf.read(store, name)
            wrong = look(store, made, progress=progress)
        else:
            if not workspace.has_ledger:
                raise NotFound(
                    "there is no ledger yet, so nothing to back up",
                    kind="no-ledger",
                    hint="catchment run",
                )
            made = making.backup(workspace, store, progress=progress)
            wrong = made.wrong
    output.result(_facts(made) | {"wrong": wrong}, lambda data: _show([data]))
    if wrong:
        raise typer.Exit(1)


@app.command()
def restore(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="URL", help="Store that has the backups.")],
    name: Name = None,
) -> None:
    """Make an empty workspace what a backup says, and prove it."""
    from catchment.core.restore import restore as bring_back

    output: Output = ctx.obj
    with open_workspace(output) as workspace, output.progress() as progress:
        store = workspace.open_store(source)
        made = bring_back(workspace, store, name, progress=progress)
    output.result(_facts(made) | {"equal": True}, lambda data: _show([data]))


def _facts(made: Backup) -> dict[str, Any]:
    told = made.to_json()
    rows = sum(one.rows for one in made.tables.values())
    names = ("name", "made_at", "objects", "size", "copied", "digest", "wrong")
    return {name: told[name] for name in names} | {"rows": rows}


def _show(backups: list[dict[str, Any]]) -> Iterator[str | Table]:
    names = ("name", "objects", "size", "copied", "rows", "digest")
    yield table("", names, [[one[name] for name in names] for one in backups])
    for one in backups:
        yield from (f"wrong: {fault}" for fault in one["wrong"])
        if "equal" in one:
            yield "read once more: the workspace equals the backup"
