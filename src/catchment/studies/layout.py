"""Where things of studies are. Keys are built here from checked parts, and never parsed.

People look below the prefixes of the states (``latest/``, ``last_valid/``, ...): each is a *view*,
written from the ledger and the objects after a commit. What a snapshot names lies below
``studies/``, immutable, under keys that carry a digest; readers without rights to see small cells
must not be let in there::

    upload_staging/<study>/<site>/<version>/<file>             what arrives, until it is processed
    site_upload/<study>/<package>/<site>/<version>/<file>      received, not looked into yet
    latest/<study>/<study>__<package>/<site>/<version>/<file>  accepted, and not merged yet
    last_valid/...                                             the same, once it is in the aggregate
    archive/.../<time>.<file>                                  what a later upload replaced
    error/.../<time>.<file>                                    what was refused
    flat/, study_metadata/, manifest/                          last valid ones that are not cubes
    aggregates/<study>/<study>__<package>/...__aggregate.parquet   what is released, with marks
    csv_aggregates/...                                         the same as CSV
    subscriptions/<target>.json                                what is registered in a target
    studies/<study>/kept/, parts/, merges/, snapshots/         what the views are written from
    studies/<study>/uploads/, results/                         what was found, for the sites
    studies/rounding.key                                       decides how counts are rounded
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from catchment.core.errors import Invalid
from catchment.core.names import check_name, shown
from catchment.studies.model import Kind, State

INTERNAL = "studies/"  # reserved: the unsuppressed merge and all that it is made of
STAGING = "upload_staging/"
AGGREGATES = "aggregates/"
CSV_AGGREGATES = "csv_aggregates/"
FLAT = "flat/"
METADATA = "study_metadata/"
MANIFEST = "manifest/"
SUBSCRIPTIONS = "subscriptions/"
ROUNDING = f"{INTERNAL}rounding.key"  # no study has a dot in its name
UPLOADS = "uploads"  # the ledger's aggregate of all deliveries

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9@+._-]{0,199}")
_KINDS = {
    Kind.FLAT: FLAT,
    Kind.META: METADATA,
    Kind.MANIFEST: MANIFEST,
}
MAX_VERSION = 999_999


def aggregate(study: str) -> str:
    """The name of a study in the ledger."""
    return f"studies/{check_part(study, 'study')}"


def check_part(name: str, what: str) -> str:
    """A study, package or site: as :func:`check_name`; ``__`` stands between names, never in one.

    Invalid (kind ``bad-name``) otherwise.
    """
    check_name(name, what)
    if "__" in name or name.endswith("_"):
        raise Invalid(
            f"not a usable {what}: {shown(name)} holds '__' or ends in '_'",
            kind="bad-name",
            hint=f"rename the {what}: '__' stands between names",
        )
    return name


def check_file(name: str) -> str:
    """The name of a file that a site gives; Invalid (kind ``bad-name``) if no key can have it."""
    if not _FILE.fullmatch(name):
        raise Invalid(
            "not a usable file name: expected 1 to 200 of A-Z a-z 0-9 @ + . _ -, beginning with a "
            f"letter or a digit, got {shown(name)}",
            kind="bad-name",
            hint="rename the file",
        )
    return name


def check_version(version: int) -> int:
    """The version itself; Invalid (kind ``bad-version``) unless it is 0 to 999999."""
    if not 0 <= version <= MAX_VERSION:
        raise Invalid(
            f"expected a data package version of 0 to {MAX_VERSION}, got {version}",
            kind="bad-version",
        )
    return version


def padded(version: int) -> str:
    """A version in a key."""
    return f"{check_version(version):03d}"


def staging(study: str, site: str, version: int, filename: str) -> str:
    """Where an upload's bytes arrive."""
    return f"{STAGING}{_study(study)}/{_site(site)}/{padded(version)}/{check_file(filename)}"


def package_id(study: str, package: str, version: int, site: str = "") -> str:
    """What the dashboard calls a package; with a site, a flat table."""
    return "__".join([study, package, *([site] if site else []), padded(version)])


def view(
    state: State,
    kind: Kind,
    *,
    study: str,
    package: str,
    site: str,
    version: int,
    file: str,
    at: datetime,
) -> str:
    """Where a contribution in a state is looked for; ``at`` is the time of its move there."""
    name = check_file(file)
    where = f"{_study(study)}/{_study(study)}__{package}/{_site(site)}/{padded(version)}/"
    if not package:
        where = f"{_study(study)}/{_site(site)}/{padded(version)}/"
    if state is State.RECEIVED:
        folder = f"{package}/" if package else ""
        return f"{state.value}/{study}/{folder}{site}/{padded(version)}/{name}"
    if state in {State.ARCHIVED, State.ERROR}:
        return f"{state.value}/{where}{stamp(at)}.{name}"
    if state is State.LAST_VALID and kind in _KINDS:
        return f"{_KINDS[kind]}{where}{name}"
    return f"{state.value}/{where}{name}"


def stamp(at: datetime) -> str:
    """A time in a key: ISO 8601, in UTC, to the microsecond."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def released(study: str, package: str, version: int, *, csv: bool = False) -> str:
    """Where the released aggregate is looked for."""
    prefix, ending = (CSV_AGGREGATES, "csv") if csv else (AGGREGATES, "parquet")
    name = f"{_study(study)}__{_package(package)}"
    return f"{prefix}{study}/{name}/{name}__{padded(version)}/{name}__aggregate.{ending}"


def subscriptions(target: str) -> str:
    """The list of what is registered in a target."""
    return f"{SUBSCRIPTIONS}{target}.json"


def kept(study: str, site: str, digest: str) -> str:
    """The bytes of a member as the site sent them."""
    return f"{INTERNAL}{_study(study)}/kept/{_site(site)}/{digest.removeprefix('sha256:')}"


def parts(study: str, package: str, version: int, site: str) -> str:
    """Prefix of a site's checked and summed parts of a package."""
    where = f"{_study(study)}/parts/{_package(package)}/{padded(version)}/{_site(site)}/"
    return INTERNAL + where


def merges_of(study: str) -> str:
    """Prefix of all merges of a study."""
    return f"{INTERNAL}{_study(study)}/merges/"


def merges(study: str, package: str, version: int, fingerprint: str = "") -> str:
    """Prefix of the merges of a package, or of the one that has this fingerprint."""
    where = f"{merges_of(study)}{_package(package)}/{padded(version)}/"
    return f"{where}{fingerprint}/" if fingerprint else where


def snapshots(study: str, run: str = "") -> str:
    """Prefix of a study's snapshots, or of that of one run."""
    where = f"{INTERNAL}{_study(study)}/snapshots/"
    return f"{where}{run}/" if run else where


def _study(name: str) -> str:
    return check_part(name, "study")


def _site(name: str) -> str:
    return check_part(name, "site")


def _package(name: str) -> str:
    return check_part(name, "package")


def upload(study: str, site: str, transaction: str, digest: str) -> str:
    """What an upload held, as its intake found it."""
    where = f"{INTERNAL}{_study(study)}/uploads/{_site(site)}/{check_transaction(transaction)}/"
    return f"{where}{digest.removeprefix('sha256:')}.json"


def result(study: str, site: str, transaction: str, file: str) -> str:
    """What its site is told of one member of an upload."""
    where = f"{INTERNAL}{_study(study)}/results/{_site(site)}/{check_transaction(transaction)}/"
    return f"{where}{check_file(file)}.json"


_TRANSACTION = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z-]{0,63}")


def check_transaction(transaction: str) -> str:
    """A transaction's id; Invalid (kind ``bad-transaction``) unless it is letters, digits and -."""
    if not _TRANSACTION.fullmatch(transaction):
        raise Invalid(
            f"not a usable transaction id: {shown(transaction)}",
            kind="bad-transaction",
            hint="leave it out, or send a UUID",
        )
    return transaction
