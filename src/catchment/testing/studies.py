"""Makers of what sites upload: cubes, and the zips that carry them."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.studies.model import COUNT

if TYPE_CHECKING:
    import pyarrow as pa

People = Sequence[Mapping[str, Any]]


def make_people(seed: int, number: int = 200) -> list[dict[str, str]]:
    """People with three properties, of which some are rare."""
    source = random.Random(seed)
    return [
        {
            "gender": source.choice(
                ["female", "male", "other"] if source.random() < 0.1 else ["female", "male"]
            ),
            "race": source.choices(["white", "black", "asian", "cumulus__none"], [60, 20, 15, 5])[
                0
            ],
            "onset_month": f"2024-{source.randint(1, 6):02}-01",
        }
        for _ in range(number)
    ]


def cube(people: People) -> pa.Table:
    """The power set of the people's properties with counts, as the library of a site makes it."""
    import pyarrow as pa

    names = list(people[0]) if people else []
    counts: dict[tuple[str | None, ...], int] = {}
    for size in range(len(names) + 1):
        for used in combinations(names, size):
            for person in people:
                key = tuple(person[name] if name in used else None for name in names)
                counts[key] = counts.get(key, 0) + 1
    rows = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    columns = {
        name: pa.array([key[i] for key, _ in rows], pa.string()) for i, name in enumerate(names)
    }
    return pa.table({COUNT: pa.array([count for _, count in rows], pa.int64())} | columns)


def parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip of these members, with fixed times."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def study_zip(study: str, packages: Mapping[str, pa.Table], *, manifest: str = "") -> bytes:
    """What the library of a site exports: cubes, the ``meta_date`` table, a manifest."""
    import pyarrow as pa

    dates = pa.table({"min_date": ["2024-01-01"], "max_date": ["2024-06-30"]})
    members = {f"{study}__{name}.cube.parquet": parquet(table) for name, table in packages.items()}
    members[f"{study}__meta_date.meta.parquet"] = parquet(dates)
    text = manifest or f'study_prefix = "{study}"\n'
    return archive(members | {"manifest.toml": text.encode()})


def make_uploads(folder: Path, sites: Sequence[str], study: str = "core") -> dict[str, Path]:
    """One zip for each site, of people of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for number, site in enumerate(sites):
        path = folder / f"{site}_{study}.zip"
        path.write_bytes(study_zip(study, {"count_patient": cube(make_people(number))}))
        made[site] = path
    return made


def wide_cube(seed: int, rows: int) -> pa.Table:
    """A cube of five columns: the power set of so many people as give that many rows.

    Sites share the rows of few columns; of those that use all columns, most are a site's own.
    """
    import numpy as np
    import pyarrow as pa

    sizes = {"gender": 3, "race": 7, "age_group": 20, "onset_month": 61, "code": 500}
    source = np.random.default_rng(seed)
    people = {name: source.integers(1, size, rows) for name, size in sizes.items()}
    people["code"] = np.minimum(source.zipf(1.4, rows), sizes["code"] - 1)
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    first, step = 0, max(1, rows // 40)
    while len(keys) < rows:  # people come until their power set is large enough
        new = []
        for mask in range(1 << len(sizes)):
            key = np.zeros(step, np.int64)
            for bit, (name, size) in enumerate(sizes.items()):
                codes = people[name][first : first + step] if mask >> bit & 1 else 0
                key = key * size + codes
            new.append(key)
        every = np.concatenate([keys, *new])
        weights = np.concatenate([counts, np.ones(step * len(new), np.int64)])
        keys, places = np.unique(every, return_inverse=True)
        counts = np.bincount(places, weights).astype(np.int64)
        first += step
    best = np.argsort(-counts, kind="stable")[:rows]
    keys, counts = keys[best], counts[best]
    columns: dict[str, pa.Array] = {}
    for name, size in reversed(sizes.items()):
        keys, codes = np.divmod(keys, size)
        labels = pa.array([None, *(f"{name} {number:03}" for number in range(1, size))])
        columns[name] = labels.take(pa.array(codes))
    return pa.table({COUNT: counts} | {name: columns[name] for name in sizes})
