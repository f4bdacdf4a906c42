"""DICOM of many providers becomes joinable tables and images.

``catchment.imaging.tables()`` and ``catchment.imaging.series(uid).volume()`` read what is
published; ``catchment.open(workspace).imaging`` also runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from os import PathLike

    from catchment.imaging.one_series import Series
    from catchment.imaging.snapshot import ImagingSnapshot


def tables(
    workspace: str | PathLike[str] | None = None,
    *,
    name: str | None = None,
    snapshot: int | Literal["latest"] = "latest",
) -> ImagingSnapshot:
    """The tables of a snapshot, by name: Arrow tables, or SQL by its ``connect()``.

    Args:
        workspace: a folder or a ``catchment.toml``; None: the nearest one above this folder.
        name: of ``[imaging.NAME]``; None: of the only one.
        snapshot: its number.

    NotFound: kind ``no-workspace``, ``no-aggregate``, ``no-snapshot``.
    """
    from catchment.core.capability import choose
    from catchment.core.workspace import Workspace
    from catchment.imaging.snapshot import open_snapshot

    with Workspace.open(None if workspace is None else str(workspace)) as opened:
        chosen = choose(opened.settings, "imaging", name)
        return open_snapshot(opened.store, opened.ledger_to_read(), chosen, snapshot)


def series(
    uid: str,
    workspace: str | PathLike[str] | None = None,
    *,
    name: str | None = None,
    snapshot: int | Literal["latest"] = "latest",
) -> Series:
    """One series: its ``volume()`` is an array in patient orientation, with its spacing in mm.

    Arguments as for :func:`tables`. NotFound also with kind ``no-series``.
    """
    return tables(workspace, name=name, snapshot=snapshot).series(uid)
