"""The only place that spells the paths of imaging.

Below ``imaging/NAME/``::

    inbox/clinic/3f9c...                                      what DICOMweb brought, until taken
    raw/objects/3f/3f9c...                                    a file as received, by its SHA-256
    raw/deliveries/clinic/8a1e....parquet                     what one look at a provider brought
    stage/7b/7b02...                                          a de-identified file, by its SHA-256
    tables/images/ingest_month=2026-11/<run>-00001.parquet    rows of a table, in parts
    previews/1a/1a2b....jpg                                   a preview, by its SHA-256
    archive/9c/9cd1....j2k                                    a lossless copy of a frame
    results/<task>.json                                       what a remote worker tells, until read
    snapshots/<run>/provenance.json                           the parts that make a snapshot
"""

from __future__ import annotations


def home(name: str) -> str:
    """Prefix of all that belongs to an aggregate."""
    return f"imaging/{name}/"


def objects(name: str) -> str:
    """Prefix of the files as received."""
    return f"{home(name)}raw/objects/"


def object_key(name: str, digest: str) -> str:
    """A file as received, by the hexadecimal SHA-256 of its bytes."""
    return f"{objects(name)}{digest[:2]}/{digest}"


def clean_key(name: str, digest: str) -> str:
    """A de-identified file, by the SHA-256 of its own bytes."""
    return f"{home(name)}stage/{digest[:2]}/{digest}"


def staged_key(name: str, digest: str, clean: str | None) -> str:
    """What tables, previews and exports are made from: the de-identified file, if any."""
    return object_key(name, digest) if clean is None else clean_key(name, clean)


def deliveries(name: str, site: str = "") -> str:
    """Prefix of the lists of what was received."""
    return f"{home(name)}raw/deliveries/" + (site and f"{site}/")


def delivery_key(name: str, site: str, digest: str) -> str:
    """One list of what was received, by its digest."""
    return f"{deliveries(name, site)}{digest}.parquet"


def inboxes(name: str) -> str:
    """Prefix of what sites sent by DICOMweb and no run took yet."""
    return f"{home(name)}inbox/"


def inbox(name: str, site: str) -> str:
    """Prefix of what one site sent; each file by its SHA-256."""
    return f"{inboxes(name)}{site}/"


def tables(name: str) -> str:
    """Prefix of the parts of all tables."""
    return f"{home(name)}tables/"


def part_key(name: str, table: str, month: str, run: str, number: int) -> str:
    """One part of a table; readers know ``ingest_month=`` as a column."""
    return f"{tables(name)}{table}/ingest_month={month}/{run}-{number:05}.parquet"


def preview_key(name: str, digest: str) -> str:
    """A preview, by the SHA-256 of its bytes: no identifier is in its name."""
    return f"{home(name)}previews/{digest[:2]}/{digest}.jpg"


def archive_key(name: str, digest: str, suffix: str) -> str:
    """A lossless copy of a frame, by the SHA-256 of its bytes."""
    return f"{home(name)}archive/{digest[:2]}/{digest}.{suffix}"


def results(name: str) -> str:
    """Prefix of what remote workers tell; each is read once."""
    return f"{home(name)}results/"


def result_key(name: str, task: str) -> str:
    """What became of one task."""
    return f"{results(name)}{task}.json"


def snapshots(name: str) -> str:
    """Prefix of the snapshots' descriptions."""
    return f"{home(name)}snapshots/"


def snapshot_prefix(name: str, run: str) -> str:
    """The description of one snapshot."""
    return f"{snapshots(name)}{run}/"
