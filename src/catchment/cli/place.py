"""Where a command works: in a workspace with a file, or in the store that ``--output`` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.loading import loaded
from catchment.core.errors import Invalid, NotFound

if TYPE_CHECKING:
    from catchment.cli.output import Output
    from catchment.core.ledger.people import People
    from catchment.core.workspace import Workspace

_FLAGS = {"workspace.store": "--output", "executor.kind": "--cluster"}
NAME = "default"  # of the aggregate that arguments alone describe

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="tcp://HOST:PORT", help="Work on a dask cluster, by its scheduler."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Url = Annotated[
    str | None,
    typer.Option("--output", metavar="URL", help="Store of the results, without a workspace."),
]


def open_workspace(
    out: Output,
    url: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    makes: bool = False,
) -> Workspace:
    """The workspace of the global option ``--workspace``, or one that is all in its store.

    Raises:
        Invalid: kind ``two-places`` where both are given, since one would be ignored.
        NotFound: kind ``no-folder`` where the store is not there, and the command ``makes`` none.
    """
    from catchment.core.store_folders import there
    from catchment.core.workspace import Workspace

    loaded()
    settings = settings or {}
    flags = {key: _flag(key) for key in ["workspace.store", *settings]}
    if url is None:
        return Workspace.open(out.workspace, settings, flags)
    if out.workspace is not None:
        raise Invalid(
            "expected --workspace or --output, got both",
            kind="two-places",
            hint="leave one of them out",
        )
    workspace = Workspace.described({"workspace.store": url, **settings}, flags)
    if not makes and workspace.settings.workspace.store.startswith("file:"):
        try:
            there(workspace.store)
        except NotFound:
            next(workspace.store.folders(), None)  # a file in its place is told as one
            raise
    return workspace


def _flag(key: str) -> str:
    """The option that gives a setting."""
    name = "provider" if ".providers." in key else key.rpartition(".")[2]
    return _FLAGS.get(key) or f"--{name.replace('_', '-')}"


def audit_log(workspace: Workspace) -> People:
    """Who keeps the audit log; nothing else can stand for it.

    NotFound (kind ``no-ledger``) where the ledger's file is gone, or never was.
    """
    from catchment.core.ledger.people import People

    if not workspace.has_ledger:
        raise NotFound(
            "there is no ledger, and so no audit log: what it held is in backups only",
            kind="no-ledger",
            hint="catchment doctor",
        )
    return People(workspace.ledger)


@contextmanager
def open_aggregate(
    out: Output,
    capability: str,
    name: str | None,
    url: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    makes: bool = False,
) -> Iterator[tuple[Workspace, str]]:
    """The workspace and the name of one aggregate; with a URL, made of arguments alone.

    Args:
        out: holds the global options.
        capability: that the aggregate is of.
        name: of the aggregate; None: of the only one.
        url: of the store; None: the workspace has a file.
        given: settings of the aggregate, as arguments say them; None is what none of them says.
        cluster: a scheduler that takes the work.
        workers: how many at a time on this machine.
        makes: whether the store at the URL may be a new one.
    """
    from catchment.core.capability import choose, named

    chosen = name or NAME
    if url is None:
        try:
            chosen = choose(open_workspace(out).settings, capability, name)
        except NotFound as error:
            described = makes and any(value is not None for value in (given or {}).values())
            if error.kind == "no-workspace" and out.workspace is None and described:
                error.hint = "say where the results go: --output URL"
            raise
    settings = {f"{capability}.{chosen}.{key}": value for key, value in (given or {}).items()}
    settings |= {"executor.kind": cluster, "executor.workers": workers}
    with open_workspace(out, url, settings, makes=makes) as workspace:
        known, aggregate = getattr(workspace.settings, capability), f"{capability}/{chosen}"
        if (
            url is None
            and chosen not in known
            and aggregate not in workspace.ledger_to_read().aggregates()  # it was one once
        ):
            named(known, capability, chosen)
        yield workspace, chosen
