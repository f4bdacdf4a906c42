"""Where a command works: in a workspace with a file, or in the store that ``--output`` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.core.errors import Invalid

if TYPE_CHECKING:
    from catchment.cli.output import Output
    from catchment.core.workspace import Workspace

Url = Annotated[
    str | None,
    typer.Option("--output", metavar="URL", help="Store of the results, without a workspace."),
]


def open_workspace(
    out: Output, url: str | None = None, settings: Mapping[str, Any] | None = None
) -> Workspace:
    """The workspace of the global option ``--workspace``, or one that is all in its store.

    Invalid (kind ``two-places``) where both are given, since one would be ignored.
    """
    from catchment.core.workspace import Workspace

    if url is None:
        return Workspace.open(out.workspace, settings)
    if out.workspace is not None:
        raise Invalid(
            "expected --workspace or --output, got both",
            kind="two-places",
            hint="leave one of them out",
        )
    return Workspace.described({"workspace.store": url, **(settings or {})})
