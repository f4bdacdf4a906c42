"""The door to studies for the edges: submit an upload, ask what became of it, read the results.

All of it is plain functions over a workspace. Nothing here waits for a person or keeps state.
"""

from __future__ import annotations

from collections.abc import Iterator

from catchment.core.errors import Invalid
from catchment.core.named_sections import StudiesSettings
from catchment.core.progress import Progress, silent
from catchment.core.workspace import Workspace
from catchment.studies import catalog as catalogs
from catchment.studies import layout, process, subscribe
from catchment.studies.catalog import Catalog
from catchment.studies.house import House
from catchment.studies.merge import Policy
from catchment.studies.model import Manifest, Package, Period, Staged, Times, Upload

__all__ = [
    "Catalog",
    "Manifest",
    "Package",
    "Period",
    "Times",
    "Upload",
    "catalog",
    "catalogs_of",
    "house",
    "manifests",
    "package",
    "packages",
    "periods",
    "settings_of",
    "studies",
    "submit",
    "times",
    "uploads",
]


def submit(  # noqa: PLR0917 - what an upload is
    workspace: Workspace,
    site: str,
    study: str,
    version: int,
    filename: str,
    staged_key: str,
    user: str,
    transaction: str,
    *,
    progress: Progress = silent,
) -> Upload:
    """Take in the bytes at ``staged_key`` and bring all of their files to an answer.

    It returns when every file is published or refused, with findings file by file. Calling it again
    with the same transaction gives the same answer, and finishes what a crash left. The staged
    object is removed once its members are kept. It is safe to call for many sites at once, in
    threads, processes and machines.

    Raises:
        NotFound: kind ``no-upload`` if nothing has arrived at the key.
        Invalid: a name, or the settings; never what the site sent.
        Unavailable: the store or the ledger; call it again.
    """
    staged = Staged(site, study, version, filename, user, transaction, staged_key)
    return process.submit(house(workspace, progress), staged)


def uploads(workspace: Workspace, transaction: str, site: str | None = None) -> list[Upload]:
    """What became of a transaction, one entry for each file uploaded in it; empty: nothing came.

    Give the site that asks: another site's transaction is then as one that does not exist.
    """
    return process.uploads(workspace.store, workspace.ledger_to_read(), transaction, site)


def studies(workspace: Workspace) -> list[str]:
    """Every study that something was uploaded for, in order of name."""
    return catalogs.studies(workspace.ledger_to_read())


def catalog(workspace: Workspace, study: str) -> Catalog:
    """Everything that is published of a study now, of one snapshot; empty if there is nothing.

    It is kept in memory by snapshot, so asking often costs one short query of the ledger.
    """
    return catalogs.latest(workspace.store, workspace.ledger_to_read(), study)


def catalogs_of(workspace: Workspace) -> Iterator[Catalog]:
    """The catalogs of all studies, in order of name."""
    return catalogs.every(workspace.store, workspace.ledger_to_read())


def packages(workspace: Workspace) -> list[Package]:
    """Every published data package and flat table, in order of id."""
    found = [one for catalog in catalogs_of(workspace) for one in catalog.packages()]
    return sorted(found, key=lambda one: one.id)


def package(workspace: Workspace, id_: str) -> Package | None:
    """A published data package or flat table by its id: only its own study is asked."""
    study = id_.partition("__")[0]  # no study has these in its name
    try:
        layout.check_part(study, "study")
    except Invalid:
        return None
    return next((one for one in catalog(workspace, study).packages() if one.id == id_), None)


def times(workspace: Workspace) -> list[Times]:
    """When each site's packages were uploaded, changed, aggregated, refused or withdrawn last."""
    found = [one for catalog in catalogs_of(workspace) for one in catalog.times.values()]
    return sorted(found, key=lambda t: (t.site, t.study, t.package, t.version))


def periods(workspace: Workspace) -> list[Period]:
    """What time the data of each site and study covers."""
    return [one for catalog in catalogs_of(workspace) for one in catalog.periods()]


def manifests(workspace: Workspace) -> list[Manifest]:
    """The manifests of all studies and versions."""
    return [one for catalog in catalogs_of(workspace) for one in catalog.manifests()]


def settings_of(workspace: Workspace, study: str) -> StudiesSettings:
    """``[studies.<study>]``; the defaults for a study that the settings do not name."""
    return workspace.settings.studies.get(study, StudiesSettings())


def house(workspace: Workspace, progress: Progress = silent, *, dry_run: bool = False) -> House:
    """Where work of the workspace is done; a dry run makes no ledger where there is none."""

    def policy(study: str) -> Policy:
        settings = settings_of(workspace, study)
        return Policy(settings.min_cell, settings.min_sites, settings.round_to)

    ledger = workspace.ledger_to_read() if dry_run else workspace.ledger
    return House(
        workspace.store,
        ledger,
        workspace.executor,
        policy,
        progress=progress,
        published=lambda study: subscribe.follow(workspace, study),
    )
