"""``catchment site``: who may upload for which site."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output, table

if TYPE_CHECKING:
    from rich.table import Table

    from catchment.core.ledger.access import SiteUser

app = typer.Typer(help="Who may upload for which site.")

SecretStdin = Annotated[
    bool,
    typer.Option(
        "--secret-stdin", help="Read the secret from standard input. Default: a random one."
    ),
]


@app.command()
def add(
    ctx: typer.Context,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name, in its keys too.")],
    user: Annotated[str, typer.Option("--user", metavar="USER", help="Who logs in.")],
    secret_stdin: SecretStdin = False,
) -> None:
    """Let a user upload for a site; a secret that was made is shown this once."""
    from catchment.core.ledger.access import Access
    from catchment.core.passwords import hash_secret
    from catchment.core.workspace import Workspace
    from catchment.studies.layout import check_part

    output: Output = ctx.obj
    check_part(site, "site")
    secret, shown = _secret(secret_stdin)
    with Workspace.open(output.workspace) as workspace:
        added = Access(workspace.ledger).add(site, user, hash_secret(secret))
    output.result(_facts(added) | shown, _show_secret)


@app.command("list")
def list_(
    ctx: typer.Context,
    site: Annotated[str | None, typer.Argument(metavar="SITE", help="Only of this one.")] = None,
) -> None:
    """The users of all sites."""
    from catchment.core.ledger.access import Access
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        users = Access(workspace.ledger).users(site)
    output.result([_facts(user) for user in users], _show_users)


@app.command()
def rotate(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose secret.")],
    keep: Annotated[
        int,
        typer.Option(
            "--keep", metavar="HOURS", min=0, help="The old secret stays good for so long."
        ),
    ] = 24,
    secret_stdin: SecretStdin = False,
) -> None:
    """Give a user a new secret; the old one ends later, or at once with --keep 0."""
    from catchment.core.ledger.access import Access
    from catchment.core.passwords import hash_secret
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    secret, shown = _secret(secret_stdin)
    with Workspace.open(output.workspace) as workspace:
        access = Access(workspace.ledger)
        rotated = access.rotate(user, hash_secret(secret), timedelta(hours=keep))
    output.result(_facts(rotated) | shown, _show_secret)


@app.command()
def remove(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="Who may upload no more.")],
) -> None:
    """Take all rights from a user, at once. What was uploaded stays."""
    from catchment.core.ledger.access import Access
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    with Workspace.open(output.workspace) as workspace:
        Access(workspace.ledger).remove(user)
    output.result({"removed": user}, lambda data: [f"removed {data['removed']}"])


def _secret(from_stdin: bool) -> tuple[str, dict[str, str]]:
    """The secret, and what of it is to be shown: nothing where the caller knows it."""
    from catchment.core.passwords import check_secret, new_secret

    if from_stdin:
        return check_secret(sys.stdin.readline().rstrip("\r\n")), {}
    secret = new_secret()
    return secret, {"secret": secret}


def _facts(user: SiteUser) -> dict[str, Any]:
    secrets = [
        {
            "created_at": one.created_at.isoformat(),
            "ends_at": one.ends_at.isoformat() if one.ends_at else None,
        }
        for one in user.secrets
    ]
    created = user.created_at.isoformat()
    return {"site": user.site, "user": user.user, "created_at": created, "secrets": secrets}


def _show_secret(data: dict[str, Any]) -> Iterator[str]:
    yield f"{data['user']} may upload for {data['site']}"
    if "secret" in data:
        yield f"secret: {data['secret']}"
        yield "it is shown this once; hand it over by a way that you trust"


def _show_users(users: list[dict[str, Any]]) -> Iterator[Table]:
    rows = []
    for user in users:
        ends = [one["ends_at"] for one in user["secrets"] if one["ends_at"]]
        rows.append((user["site"], user["user"], user["created_at"], len(user["secrets"]), ends))
    yield table("", ("site", "user", "since", "secrets", "old one ends"), rows)
