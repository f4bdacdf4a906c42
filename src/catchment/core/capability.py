"""What each capability offers to the commands that serve all of them, ``run`` and ``gc``.

A capability is a package with a module ``capability`` that has the functions of
:class:`Capability`. It becomes one by one more name in :data:`NAMES`: nothing else in the core
knows it. An aggregate is known as ``<capability>/<name>``, the name being that of its table in
``catchment.toml`` (``[tables.nacc]`` is ``tables/nacc``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, Protocol, cast

from catchment.core.account import Account
from catchment.core.errors import Invalid, NotFound
from catchment.core.finding import Finding
from catchment.core.ledger import Snapshot
from catchment.core.progress import Progress
from catchment.core.settings import Settings
from catchment.core.workspace import Workspace

NAMES = ("tables", "exports", "studies", "imaging", "arrays")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        state: ``published``, ``unchanged`` (the latest snapshot says it all), or ``planned`` (a
            dry run: nothing was written).
        snapshot: number of the snapshot that holds the result; None where there is none yet.
        location: prefix of that snapshot below the workspace's store.
        details: what only this capability has to say, as plain types.
    """

    aggregate: str
    state: str
    snapshot: int | None
    location: str | None
    account: Account
    findings: Sequence[Finding] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return {
            "aggregate": self.aggregate,
            "state": self.state,
            "snapshot": self.snapshot,
            "location": self.location,
            "account": self.account.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
            "details": dict(self.details),
        }


class Capability(Protocol):
    """The functions of a module ``catchment.<name>.capability``."""

    def run(self, workspace: Workspace, name: str, *, dry_run: bool, progress: Progress) -> Outcome:
        """Bring the aggregate ``name`` of the settings up to date."""
        ...

    def orphans(
        self, workspace: Workspace, *, grace: timedelta, dry_run: bool = False
    ) -> Iterable[str]:
        """Keys of the workspace's store that no snapshot and no running run needs.

        Nothing that is younger than the grace time: a run may be about to name it. Each is given
        while the aggregate's lease is held, so that who removes it removes what is still one; see
        :func:`catchment.core.collection.under_lease`.
        """
        ...

    def sites(self, workspace: Workspace, name: str) -> Mapping[str, str]:
        """What each site has to give now, as a short text that changes when it does.

        Costs a listing; nothing is read of what is listed, and nothing is written.
        """
        ...

    def verify(self, workspace: Workspace, name: str) -> Sequence[str]:
        """What is wrong with the objects and the account of the latest snapshot; empty if nothing.

        NotFound (kind ``no-snapshot``) where nothing is published yet.
        """
        ...

    def shared(self, snapshot: Snapshot) -> Sequence[Mapping[str, Any]]:
        """The objects of a snapshot, as its provenance lists them, that may be handed on."""
        ...


def choose(settings: Settings, capability: str, name: str | None) -> str:
    """The name itself, or that of the only ``[<capability>.NAME]``.

    Invalid (kind ``which-aggregate``) where that is not clear.
    """
    names = sorted(getattr(settings, capability))
    if name is None and len(names) != 1:
        raise Invalid(
            f"expected the name of one of the workspace's {capability}: "
            f"{', '.join(names) or 'none'}",
            kind="which-aggregate",
            hint="catchment config --show",
        )
    return names[0] if name is None else name


def named[T](tables: Mapping[str, T], capability: str, name: str) -> T:
    """``[<capability>.<name>]`` of the settings; NotFound (kind ``no-aggregate``) without it."""
    try:
        return tables[name]
    except KeyError:
        names = ", ".join(sorted(tables)) or "none"
        raise NotFound(
            f"the settings have no [{capability}.{name}], only: {names}",
            kind="no-aggregate",
            hint="catchment config --show",
        ) from None


def load(name: str) -> Capability:
    """The capability of a name in :data:`NAMES`."""
    return cast("Capability", import_module(f"catchment.{name}.capability"))


def aggregates(workspace: Workspace) -> list[str]:
    """Every aggregate of the settings, as ``<capability>/<name>``."""
    return [
        f"{capability}/{name}"
        for capability in NAMES
        for name in getattr(workspace.settings, capability)
    ]
