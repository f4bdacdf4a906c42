"""``catchment user``: who may look at the pages, and who did what there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output, table
from catchment.cli.place import audit_log
from catchment.core.names import counted

if TYPE_CHECKING:
    from rich.table import Table

    from catchment.core.ledger.people import Person

app = typer.Typer(help="Who may look at the pages, and who did what there.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
Site = Annotated[
    str, typer.Option("--site", metavar="SITE", help="With the role site: which one it sees.")
]
Given = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read the password from a line of standard input."),
]


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    role: Annotated[
        str,
        typer.Option(
            "--role",
            metavar="viewer|steward|operator|site",
            help="viewer sees counts and states, steward single records too, operator may change.",
        ),
    ] = "viewer",
    site: Site = "",
    password_stdin: Given = False,
) -> None:
    """Make a user; a password that is made is shown this once."""
    from catchment.core.ledger.people import People
    from catchment.core.passwords import hash_secret
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        secret = _secret(password_stdin)
        made = People(workspace.ledger).add(name, role, hash_secret(secret), site)
    output.result(_facts(made) | ({} if password_stdin else {"password": secret}), _show_new)


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """All users and their roles."""
    from catchment.core.ledger.people import People
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        found = People(workspace.ledger).listed()
    output.result([_facts(one) for one in found], _show)


@app.command()
def role(
    ctx: typer.Context,
    name: Name,
    role: Annotated[
        str, typer.Argument(metavar="viewer|steward|operator|site", help="The new role.")
    ],
    site: Site = "",
) -> None:
    """Give a user another role; the user must sign in again."""
    from catchment.core.ledger.people import People
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        changed = People(workspace.ledger).change(name, role=role, site=site)
    output.result(_facts(changed), _show_one)


@app.command()
def password(ctx: typer.Context, name: Name, password_stdin: Given = False) -> None:
    """Give a user another password; one that is made is shown this once."""
    from catchment.core.ledger.people import People
    from catchment.core.passwords import hash_secret
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        secret = _secret(password_stdin)
        changed = People(workspace.ledger).change(name, hashed=hash_secret(secret))
    output.result(_facts(changed) | ({} if password_stdin else {"password": secret}), _show_new)


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Take all rights from a user, at once."""
    from catchment.core.ledger.people import People
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        People(workspace.ledger).remove(name)
    output.result({"removed": name}, lambda told: [f"removed {told['removed']}"])


@app.command()
def link(
    ctx: typer.Context,
    role: Annotated[
        str, typer.Option("--role", metavar="viewer|steward|operator", help="As whom.")
    ] = "operator",
) -> None:
    """Make a link that signs in once, within an hour: the way in where no password is known."""
    from catchment.core.ledger.people import People
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        base = workspace.settings.serve.base_url or "http://127.0.0.1:8000"
        if not workspace.settings.serve.base_url:
            output.note("where `catchment serve` listens at another address, put that in its place")
        url = f"{base.rstrip('/')}/ui/link/{People(workspace.ledger).link(role)}"
    output.result({"link": url, "role": role}, lambda told: [told["link"]])


@app.command()
def audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    check: Annotated[
        bool, typer.Option("--check", help="Look whether a line was changed or removed.")
    ] = False,
) -> None:
    """Who did what by the pages, the latest first."""
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        people = audit_log(workspace)
        if check:
            output.result(
                people.check_audit()._asdict(),
                lambda told: [f"{counted(told['lines'], 'lines')}: all is well"],
            )
            return
        found = people.deeds(limit=limit)
    output.result([one._asdict() | {"at": one.at.isoformat()} for one in found], _show_audit)


def _secret(given: bool) -> str:
    from catchment.core import passwords

    if not given:
        return passwords.new_secret()
    return passwords.check_secret(sys.stdin.readline().rstrip("\r\n"))


def _facts(one: Person) -> dict[str, Any]:
    created = one.created_at.isoformat()
    return {"user": one.user, "role": one.role, "site": one.site, "created_at": created}


def _show_new(told: dict[str, Any]) -> Iterator[str]:
    yield from _show_one(told)
    if "password" in told:
        yield f"password: {told['password']}"
        yield "it is shown this once"


def _show_one(told: dict[str, Any]) -> Iterator[str]:
    yield f"{told['user']} is {told['role']}" + (f" of {told['site']}" if told["site"] else "")


def _show(told: list[dict[str, Any]]) -> Iterator[Table]:
    names = ("user", "role", "site", "created_at")
    yield table("", names, [[one[n] for n in names] for one in told])


def _show_audit(told: list[dict[str, Any]]) -> Iterator[Table]:
    names = ("at", "user", "role", "action", "target")
    yield table("", names, [[one[n] for n in names] for one in told])
