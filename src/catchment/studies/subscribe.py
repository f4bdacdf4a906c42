"""Subscriptions: what is published of studies, registered as tables that SQL can ask.

A crawl compares the catalogs with what a target holds, and makes the target the same: released
packages and flat tables only, nothing that is internal. It may be repeated, cut off and run beside
others: each looks once more at the catalogs when it is done.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound
from catchment.core.store import Store
from catchment.core.warehouse import open_warehouse
from catchment.core.workspace import Workspace
from catchment.studies import catalog as catalogs
from catchment.studies import layout
from catchment.studies.catalog import Catalog
from catchment.studies.model import Package

logger = logging.getLogger(__name__)

WEEK = timedelta(days=7)
SCHEMA = "studies"  # of the warehouse, for all studies


class Table(NamedTuple):
    """A table of a target, and the released object that it shows."""

    id: str
    kind: str
    study: str
    site: str  # of a flat table; empty for a cube
    version: int
    digest: str


class Session(Protocol):
    """A target at work; nobody else of its kind changes it by halves."""

    def tables(self) -> dict[str, Table]:
        """What is registered, by id."""
        ...

    def change(
        self, wanted: Mapping[str, Package], gone: Collection[str]
    ) -> dict[str, CatchmentError]:
        """Register these, in place of those of the same id, and drop those that are gone.

        Tells what could not be registered, and why; the others are.
        """
        ...


class Target(Protocol):
    """Where tables are registered."""

    name: str

    def session(self, *, dry_run: bool) -> AbstractContextManager[Session]:
        """Open it; a dry run makes nothing where there is nothing."""
        ...


@dataclass(slots=True)
class Crawl:
    """What a crawl of one target came to: ids of tables.

    Attributes:
        failed: what could not be registered, and why; the target's name where it was all of it.
    """

    target: str
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, CatchmentError] = field(default_factory=dict)


def crawl(workspace: Workspace, study: str | None = None, *, dry_run: bool = False) -> list[Crawl]:
    """Make all targets show what is published now, of one study or of all.

    A target, or a table, that fails stops no other. Invalid (kind ``no-subscriptions``) where the
    settings name no target.
    """
    found = targets(workspace)
    if not found:
        raise Invalid(
            "expected a target for subscriptions in the settings, found none",
            kind="no-subscriptions",
            hint="set warehouse.kind, iceberg.catalog, or what [subscriptions] names",
        )
    return [_crawl(workspace, target, study, dry_run=dry_run) for target in found]


def follow(workspace: Workspace, study: str | None = None) -> None:
    """After a publication: the same for its study. What fails is logged; a later one mends it."""
    try:
        for done in crawl(workspace, study) if targets(workspace) else ():
            for what, error in done.failed.items():
                logger.warning("subscriptions: %s in %s: %s", what, done.target, error)
    except Exception as error:  # noqa: BLE001 - what is published stays so, whatever happens here
        logger.warning("subscriptions of %s: %s", study or "all studies", type(error).__name__)


class Weekly:
    """The crawl that finds what no publication told of; at once, and then every week.

    A table that somebody dropped, a target that was away, a setting that is new.
    """

    def __init__(self, workspace: Workspace, every: timedelta = WEEK) -> None:
        self._workspace = workspace
        self._every = every.total_seconds()
        self._next = -math.inf

    def __call__(self) -> None:
        """Crawl if it is time; what fails is logged, and tried again in a week."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            follow(self._workspace)


def targets(workspace: Workspace) -> list[Target]:
    """Those of the settings."""
    settings = workspace.settings.subscriptions
    found: list[Target] = []
    if settings.warehouse is not None:
        from catchment.core.warehouse.duck import DuckDBWarehouse
        from catchment.studies.subscribe_warehouse import WarehouseTarget

        found.append(WarehouseTarget(workspace.store, DuckDBWarehouse(Path(settings.warehouse))))
    general = open_warehouse(workspace.settings.warehouse, SCHEMA, workspace.store.url)
    if general is not None:
        from catchment.studies.subscribe_warehouse import WarehouseTarget

        found.append(WarehouseTarget(workspace.store, general, name="warehouse"))
    if workspace.settings.iceberg.catalog != "none":
        from catchment.studies.subscribe_iceberg import IcebergTarget

        found.append(IcebergTarget(workspace))
    if settings.glue is not None:
        from catchment.studies.subscribe_glue import GlueTarget

        found.append(GlueTarget(workspace, settings.glue))
    return found


def registered(workspace: Workspace) -> list[Table] | None:
    """What is registered in any target, in order of id; None where the settings name no target."""
    found: dict[str, Table] = {}
    names = [target.name for target in targets(workspace)]
    for name in names:
        try:
            told = json.loads(workspace.store.read(layout.subscriptions(name)))
        except NotFound:
            continue
        found |= {one["id"]: Table(**one) for one in told["tables"]}
    return [found[id_] for id_ in sorted(found)] if names else None


def _crawl(workspace: Workspace, target: Target, study: str | None, *, dry_run: bool) -> Crawl:
    done = Crawl(target.name)
    try:
        with target.session(dry_run=dry_run) as session:
            published = None
            # Whoever publishes meanwhile may have crawled before us: the last look is the newest.
            while published != (now := _published(workspace, study)):
                published = now
                _compare(session, published, study, done, dry_run=dry_run)
            if not dry_run:
                _tell(workspace.store, target.name, session.tables())
    except CatchmentError as error:
        done.failed[target.name] = error
    return done


def _published(workspace: Workspace, study: str | None) -> list[Catalog]:
    store, ledger = workspace.store, workspace.ledger_to_read()
    return [
        catalogs.latest(store, ledger, name)
        for name in catalogs.studies(ledger)
        if study in {None, name}
    ]


def _compare(
    session: Session, published: list[Catalog], study: str | None, done: Crawl, *, dry_run: bool
) -> None:
    wanted = {one.id: one for catalog in published for one in catalog.packages()}
    there = {one.id: one for one in session.tables().values() if study in {None, one.study}}
    new = sorted(wanted.keys() - there.keys())
    same = wanted.keys() & there.keys()
    changed = sorted(id_ for id_ in same if there[id_] != table_of(wanted[id_]))
    gone = sorted(there.keys() - wanted.keys())
    done.failed = {}
    if not dry_run and (new or changed or gone):
        done.failed = session.change({id_: wanted[id_] for id_ in [*new, *changed]}, gone)
    done.new += [id_ for id_ in new if id_ not in done.failed]
    done.changed += [id_ for id_ in changed if id_ not in done.failed]
    done.removed += [id_ for id_ in gone if id_ not in done.failed]
    done.unchanged = len(same) - len(changed)


def table_of(one: Package) -> Table:
    """A package as a target remembers it."""
    return Table(one.id, one.kind, one.study, one.site, one.version, one.released.digest)


def taken(id_: str, where: str, setting: str) -> Conflict:
    """A table of that name is there, and is not ours to replace."""
    return Conflict(
        f"{where} has a table {id_} that is not of this workspace",
        kind="subscription-taken",
        hint=f"remove it there, or let {setting} name another place",
    )


def _tell(store: Store, target: str, tables: Mapping[str, Table]) -> None:
    """The list for those who cannot ask the target, as the dashboard; written when it changes."""
    told = {"target": target, "tables": [tables[id_]._asdict() for id_ in sorted(tables)]}
    data, key = json.dumps(told, indent=1).encode() + b"\n", layout.subscriptions(target)
    try:
        if store.read(key) == data:
            return
    except NotFound:
        pass
    store.put(key, data, mode="overwrite")
