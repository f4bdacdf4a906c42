"""The Python interface: ``catchment.open(workspace).tables.run()``, ``.imaging.run()``."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from catchment.core.progress import Progress, silent
from catchment.core.workspace import Workspace

if TYPE_CHECKING:
    from catchment.core.capability import Outcome
    from catchment.core.ledger import Snapshot
    from catchment.imaging.one_series import Series
    from catchment.imaging.snapshot import ImagingSnapshot
    from catchment.tables.snapshot import TableSnapshot


class Tables:
    """The aggregates ``[tables.NAME]`` of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._workspace.settings.tables))

    def run(
        self, name: str | None = None, *, full: bool = False, progress: Progress = silent
    ) -> Outcome:
        """Bring an aggregate up to date. Without a name, the only one there is."""
        from catchment.tables import capability

        return capability.run(self._workspace, self._name(name), full=full, progress=progress)

    def plan(self, name: str | None = None, *, progress: Progress = silent) -> Outcome:
        """What :meth:`run` would do now; writes nothing."""
        from catchment.tables import capability

        return capability.run(self._workspace, self._name(name), dry_run=True, progress=progress)

    def snapshots(self, name: str | None = None) -> list[Snapshot]:
        """All published snapshots, the newest first."""
        return self._workspace.ledger_to_read().snapshots(f"tables/{self._name(name)}")

    def snapshot(
        self, which: int | Literal["latest"] = "latest", *, name: str | None = None
    ) -> TableSnapshot:
        """One snapshot, by number; NotFound (kind ``no-snapshot``) if there is none."""
        from catchment.tables.snapshot import open_snapshot

        workspace = self._workspace
        return open_snapshot(workspace.store, workspace.ledger_to_read(), self._name(name), which)

    def _name(self, name: str | None) -> str:
        from catchment.core.capability import choose

        return choose(self._workspace.settings, "tables", name)


class Imaging:
    """The aggregates ``[imaging.NAME]`` of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._workspace.settings.imaging))

    def run(
        self, name: str | None = None, *, sync: bool = True, progress: Progress = silent
    ) -> Outcome:
        """Receive what is new, unless told not to, and publish all that was received."""
        from catchment.imaging import capability

        return capability.run(self._workspace, self._name(name), sync=sync, progress=progress)

    def plan(self, name: str | None = None, *, progress: Progress = silent) -> Outcome:
        """How many files wait for a run; asks no provider and writes nothing."""
        from catchment.imaging import capability

        return capability.run(self._workspace, self._name(name), dry_run=True, progress=progress)

    def snapshots(self, name: str | None = None) -> list[Snapshot]:
        """All published snapshots, the newest first."""
        return self._workspace.ledger_to_read().snapshots(f"imaging/{self._name(name)}")

    def tables(
        self, which: int | Literal["latest"] = "latest", *, name: str | None = None
    ) -> ImagingSnapshot:
        """The tables of one snapshot; NotFound (kind ``no-snapshot``) if there is none."""
        from catchment.imaging.snapshot import open_snapshot

        workspace = self._workspace
        return open_snapshot(workspace.store, workspace.ledger_to_read(), self._name(name), which)

    def series(
        self, uid: str, which: int | Literal["latest"] = "latest", *, name: str | None = None
    ) -> Series:
        """One series of a snapshot; NotFound (kind ``no-series``)."""
        return self.tables(which, name=name).series(uid)

    def _name(self, name: str | None) -> str:
        from catchment.core.capability import choose

        return choose(self._workspace.settings, "imaging", name)


class Catchment:
    """An open workspace; a context manager, since it holds a ledger."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.tables = Tables(workspace)
        self.imaging = Imaging(workspace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the ledger go; the next use opens it again."""
        self.workspace.close()


def open_workspace(path: str | PathLike[str] | None = None, **settings: Any) -> Catchment:
    """The workspace of a folder or a ``catchment.toml``; None: the nearest one above this folder.

    ``settings`` override the file's by dotted key with ``__`` for the dot
    (``tables__nacc__strict=True``). NotFound (kind ``no-workspace``), Invalid (``bad-settings``).
    """
    overrides = {key.replace("__", "."): value for key, value in settings.items()}
    return Catchment(Workspace.open(None if path is None else str(path), overrides))
