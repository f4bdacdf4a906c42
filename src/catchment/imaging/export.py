"""A snapshot's tables, and files of chosen series, as plain files in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from catchment.core.errors import Conflict, NotFound
from catchment.imaging import layout
from catchment.imaging.snapshot import ALL, ImagingSnapshot

INTERNAL = frozenset({"files", "raw"})  # as received: providers' names of files, identifiers


def export_snapshot(
    snapshot: ImagingSnapshot, folder: Path, series: Sequence[str] = ()
) -> list[str]:
    """Write ``<table>.parquet`` for each table, and ``series/<UID>/<SOPInstanceUID>.dcm``.

    Raises:
        Conflict: kind ``file-exists`` if the folder holds anything.
        NotFound: kind ``no-series``.
    """
    import pyarrow.parquet as pq

    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", kind="file-exists", hint="name a new folder")
    columns = ["SeriesInstanceUID", "SOPInstanceUID", "sha256", "stage_sha256"]
    images = snapshot.find("images", "SeriesInstanceUID", series, columns).to_pylist()
    if missing := set(series) - {row["SeriesInstanceUID"] for row in images}:
        raise NotFound(
            f"{len(missing)} of {len(series)} series are not in the snapshot",
            kind="no-series",
            hint="catchment imaging show",
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in ALL:
        if table not in INTERNAL:
            path = folder / f"{table}.parquet"
            pq.write_table(snapshot[table], path, compression="zstd")
            written.append(str(path))
    for row in images:
        path = folder / "series" / row["SeriesInstanceUID"] / f"{row['SOPInstanceUID']}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            key = layout.staged_key(snapshot.name, row["sha256"], row["stage_sha256"])
            file.writelines(snapshot.store.stream(key))
        written.append(str(path))
    return written
