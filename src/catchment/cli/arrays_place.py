"""What the commands of ``catchment arrays`` share: their store, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from catchment.cli.output import Output
from catchment.core.errors import Invalid, NotFound

if TYPE_CHECKING:
    from catchment.core.workspace import Workspace

SHOWN = 5  # stores that an error names

Target = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder or URL of the store: s3://bucket/name.zarr.")
]
OnConflict = Annotated[
    Literal["error", "skip", "replace"],
    typer.Option("--on-conflict", help="For a session that is there with other content."),
]
Chunks = Annotated[
    list[str] | None,
    typer.Option("--chunks", metavar="DIM=N", help="Size of chunks along a dimension; repeat it."),
]


@contextmanager
def settings(out: Output) -> Iterator[Workspace]:
    """The workspace, for what its settings say of S3 and of readers; without one, the defaults."""
    from catchment.core.workspace import Workspace

    try:
        workspace = Workspace.open(out.workspace)
    except NotFound:
        if out.workspace is not None:
            raise
        workspace = Workspace.described({})
    with workspace:
        yield workspace


@contextmanager
def sessions_at(out: Output, store: str, *, writes: bool = False) -> Iterator[Any]:
    """The store, with the ledger of its writers where something is to be written."""
    from catchment.arrays import api, catalog

    with settings(out) as workspace:
        opened = api.store_of(store, **workspace.settings.s3.options())
        try:
            with api.opened(opened, writes=writes) as stack:
                yield stack
        except NotFound as error:
            below = sorted(catalog.keys(opened)) if error.kind == "no-store" else []
            if not below:
                raise
            names = ", ".join(below[:SHOWN]) + (", ..." if len(below) > SHOWN else "")
            raise NotFound(
                f"{error.message}; stores below it: {names}",
                kind=error.kind,
                hint=f"name one of them: {store.rstrip('/')}/{below[0]}",
            ) from None


def sizes(chunks: list[str] | None) -> dict[str, int] | None:
    """``DIM=N`` as a mapping."""
    sizes = {}
    for text in chunks or ():
        dim, _, number = text.partition("=")
        if not number.isdigit():
            raise Invalid(
                f"expected DIM=N, got {text!r}", kind="bad-chunks", hint="--chunks time=128"
            )
        sizes[dim] = int(number)
    return sizes or None
