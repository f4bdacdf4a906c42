"""A small world of studies: a workspace, sites that send, and the merge as a plain model."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.workspace import Workspace
from catchment.studies import catalog as catalogs
from catchment.studies import layout, library
from catchment.testing.studies import archive, parquet

DATA = Path(__file__).parents[3] / "shared" / "data"
STUDY = "core"
_numbers = itertools.count()


def workspace(folder: Path, *, kind: str = "threads", **settings) -> Workspace:
    """One of a folder; every cell is released unless the settings say otherwise."""
    return Workspace.described(
        {
            "workspace.store": (folder / "data").as_uri(),
            "workspace.ledger": f"sqlite:///{folder}/ledger.db",
            "executor.kind": kind,
            "executor.workers": 2,
            f"studies.{STUDY}.min_cell": 0,
            "studies.upload.min_cell": 0,
        }
        | settings
    )


def table(*rows, names=("sex", "race"), count="cnt") -> pa.Table:
    """A cube of text columns: each row is the count, then the categories."""
    columns = {count: pa.array([row[0] for row in rows], pa.int64())}
    for place, name in enumerate(names, 1):
        columns[name] = pa.array([row[place] for row in rows], pa.string())
    return pa.table(columns)


CUBE = table((5, None, None), (3, "f", None), (2, "m", None), (5, None, "x"))


def transaction() -> str:
    return f"tx-{next(_numbers)}"


def stage(space, site, data, *, study=STUDY, version=0, name="u_core.zip") -> str:
    key = layout.staging(study, site, version, name)
    space.store.put(key, data, mode="overwrite")
    return key


def send(space, site, data, *, study=STUDY, version=0, name="u_core.zip", tx=None):
    """Upload bytes; what became of them."""
    key = stage(space, site, data, study=study, version=version, name=name)
    return library.submit(space, site, study, version, name, key, "u", tx or transaction())


def send_cube(space, site, cube, *, package="count", study=STUDY, version=0, tx=None):
    name = f"{study}__{package}.cube.parquet"
    return send(space, site, parquet(cube), study=study, version=version, name=name, tx=tx)


def send_zip(space, site, members, **more):
    return send(space, site, archive(members), **more)


def codes(upload):
    return [finding.code for file in upload.files for finding in file.findings]


def raw_zip(*members, change=None) -> bytes:
    """A zip of ``(ZipInfo or name, bytes)``."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for info, data in members:
            file.writestr(info, data)
    return sink.getvalue()


def package(space, name="count", *, study=STUDY, version=0):
    """The published cube; None if there is none."""
    found = [one for one in library.packages(space) if one.kind == "cube"]
    return next((p for p in found if (p.study, p.name, p.version) == (study, name, version)), None)


def read(space, key) -> pa.Table:
    return pq.read_table(io.BytesIO(space.store.read(key)))


def rows_of(found: pa.Table) -> list[tuple]:
    return [tuple(row.values()) for row in found.to_pylist()]


def published(space, name="count", **more) -> list[tuple]:
    """The rows of a released aggregate, as people find it; they are those of the snapshot."""
    one = package(space, name, **more)
    if one is None:
        assert not list(space.store.list("aggregates/"))
        return []
    seen = rows_of(read(space, one.key))
    assert seen == rows_of(read(space, one.released.key))
    return seen


def model(cubes: dict[str, pa.Table]) -> list[tuple]:
    """The merge as the reference tells it, by a dictionary."""
    if not cubes:
        return []
    names = [n for n in cubes[min(cubes)].column_names if n != "cnt"]
    sums: dict[tuple, int] = {}
    for site, cube in cubes.items():
        for row in cube.to_pylist():
            for label in (None, site):
                key = (*(row[name] for name in names), label)
                sums[key] = sums.get(key, 0) + row["cnt"]

    def place(item):
        *values, label = item[0]
        return (
            -item[1],
            label is not None,
            [-ord(c) for c in label or ""] + [0],
            [(value is not None, value or "") for value in values],
        )

    ordered = sorted(sums.items(), key=place)
    return [(count, *key) for key, count in ordered]


def state_of(space, study=STUDY) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in space.ledger.counts(layout.aggregate(study)):
        found[count.state] = found.get(count.state, 0) + count.contributions
    return found


def below(space, prefix) -> list[str]:
    return [stat.key for stat in space.store.list(prefix)]


def whole(space) -> None:
    """Every object that a published catalog names exists with its digest; no file of a site is lost."""
    import hashlib

    for snapshot_study in catalogs.studies(space.ledger):
        aggregate = layout.aggregate(snapshot_study)
        for snapshot in space.ledger.snapshots(aggregate, provenance=True):
            for one in snapshot.provenance["objects"]:
                data = space.store.read(one["key"])
                assert f"sha256:{hashlib.sha256(data).hexdigest()}" == one["digest"], one
        for one in space.ledger.contributions(aggregate):
            if one.meta["key"] is not None:
                data = space.store.read(one.meta["key"])
                assert f"sha256:{hashlib.sha256(data).hexdigest()}" == one.digest
