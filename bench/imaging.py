"""DICOM headers into tables beside pydicom: ``python -m bench.imaging [--scale 1] [--only PART]``.

The files are those of ``../shared/data/imaging`` that are sound, under new SOPInstanceUIDs until
there are ``2,000 x scale``; or else files that are made for this. All are in the page cache. Peers:

* ``original``: pydicom reads every file whole once for each of the five tables, as the first system
  does, and takes the table's columns.
* ``pydicom``: one pass, headers only, all columns of the five tables; with JSON by ``to_json``.
* ``cat``: the bytes read, and nothing done with them.

Ours and the peers run in one process each, without workers.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench._common import RESULTS, Measured, Row, measure, report, scratch, timed

SHARED = Path(__file__).parents[2] / "shared" / "data" / "imaging"
MOST_MB = 500
FILES = 2000
MANY = (10_000, 25_000)  # small files, whatever the scale


def sample(folder: Path, scale: float) -> Path:
    """Sound files in a folder."""
    sources = [
        path
        for path in sorted(SHARED.rglob("*"))
        if path.is_file() and path.suffix != ".csv" and "derived_corrupt" not in path.parts
    ]
    if not sources:
        from catchment.testing.dicom import make_file

        for number in range(100):
            path = folder / "made" / f"{number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_file(f"1.2.3.1.1.{number}"))
            sources.append(path)
    files = folder / "files"
    files.mkdir()
    for number in range(int(FILES * scale)):
        data = sources[number % len(sources)].read_bytes()
        (files / f"{number:06}.dcm").write_bytes(_another(data, number // len(sources)))
    return files


def many(folder: Path, count: int) -> Path:
    """Small files, a hundred a series, five hundred a patient; alike but for their UIDs."""
    from catchment.testing.dicom import make_file

    series, instance = "1.2.3.4.1%06d", "1.2.3.4.1%06d.1%06d"
    data = make_file(instance % (0, 0), series=series % 0, patient="P0000000")
    folder.mkdir()
    for number in range(count):
        own = number // 100
        made = data.replace(b"P0000000", b"P%07d" % (number // 500))
        made = made.replace((instance % (0, 0)).encode(), (instance % (own, number)).encode())
        made = made.replace((series % 0).encode(), (series % own).encode())
        (folder / f"{number:07}.dcm").write_bytes(made)
    return folder


def _another(data: bytes, copy: int) -> bytes:
    """The same image under another SOPInstanceUID, since what is the same is kept once."""
    from catchment.imaging.compress import header_of

    uid = str((header_of(data).values(0x00080018) or [""])[0]).encode()
    other = uid[:-4] + b"%04d" % copy
    return data.replace(uid, other) if copy and len(uid) > 20 and b"." not in uid[-4:] else data


def ours(folder: Path, result: Path | None = None, *, nested: bool = True) -> None:
    """Five tables, and what has no column as JSON."""
    import pyarrow.parquet as pq

    from catchment.core.store import open_store
    from catchment.imaging import read
    from catchment.imaging.entities import columns

    store = open_store(folder.as_uri())
    columns()
    stats = list(store.list())
    warm = read.Rows(b"")
    for stat in stats[:20]:  # imports
        read.read_one(store, read.Stored("a", stat.key, "", stat.size), warm)
    warm.table()
    with timed():
        for start in range(0, len(stats), 500):
            rows = read.Rows(b"", attributes=nested)
            for stat in stats[start : start + 500]:
                digest = hashlib.blake2b(stat.key.encode(), digest_size=32).hexdigest()
                file = read.Stored("a", stat.key, digest, stat.size)
                read.read_one(store, file, rows)
            table = rows.table()
            if result is not None:
                pq.write_table(table, result / f"{start:06}.parquet")


def _entities() -> dict[str, list[str]]:
    from catchment.imaging.entities import ENTITIES

    return ENTITIES


def one_pass(folder: Path, *, nested: bool) -> None:
    """Headers by pydicom once, all columns, and all of it as JSON."""
    import pydicom

    names = sorted({name for table in _entities().values() for name in table})
    _quiet()
    for path in sorted(folder.iterdir())[:20]:  # imports
        pydicom.dcmread(path, stop_before_pixels=True, force=True).to_json(
            bulk_data_element_handler=lambda _: "", suppress_invalid_tags=True
        )
    with timed():
        for path in sorted(folder.iterdir()):
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            row = [dataset.get(name) for name in names]
            if nested:
                dataset.to_json(bulk_data_element_handler=lambda _: "", suppress_invalid_tags=True)
            del row


def original(folder: Path) -> None:
    """As the first system does: each table reads every file, whole."""
    import pydicom

    tables = _entities()
    _quiet()
    with timed():
        for names in tables.values():
            rows = []
            for path in sorted(folder.iterdir()):
                dataset = pydicom.dcmread(path, force=True)
                rows.append({name: getattr(dataset, name, None) for name in names})
            del rows


def cat(folder: Path) -> None:
    """The bytes, read."""
    with timed():
        for path in sorted(folder.iterdir()):
            path.read_bytes()


def _quiet() -> None:
    import logging

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def pictures(folder: Path, *, table: bool) -> None:
    """A preview of the middle frame of each file that has one of grey."""
    import numpy as np
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    from catchment.imaging import codecs, compress, previews
    from catchment.imaging.functional import Frames

    _quiet()
    datas = [path.read_bytes() for path in sorted(folder.iterdir())[:320]]
    datas = [data for data in datas if _grey(data)]
    with timed():
        for data in datas:
            if table:
                header = compress.header_of(data)
                shape, window = codecs.shape_of(header), previews.window_of(Frames(header))
                for frame in codecs.read_frames(data, [shape.frames // 2]):
                    previews.jpeg(previews.picture(frame, shape, window, data))
                continue
            dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
            pixels = dataset.pixel_array
            if pixels.ndim == 3:
                pixels = pixels[len(pixels) // 2]
            values = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset).astype(float)
            low, high = values.min(), values.max()
            previews.jpeg(((values - low) / max(high - low, 1e-9) * 255).astype(np.uint8))


def _grey(data: bytes) -> bool:
    from catchment.imaging import codecs, compress

    try:
        header = compress.header_of(data)
        shape = codecs.shape_of(header)
    except Exception:  # noqa: BLE001 - not one to measure
        return False
    return (
        shape.samples == 1
        and shape.allocated in (8, 16)
        and shape.frames < 4
        and (header.syntax in codecs.NATIVE)
    )


def whole_run(folder: Path, output: Path) -> None:
    """``catchment imaging run``, with its workers."""
    import pyarrow.parquet  # noqa: F401 - imports are not what is measured

    from catchment.core.workspace import Workspace
    from catchment.imaging import capability

    settings = {"workspace.store": str(output), "imaging.b.providers.a": folder.as_uri()}
    with Workspace.described(settings) as workspace:
        workspace.executor.submit(os.getpid).result()
        workspace.ledger.aggregates()
        with timed():
            capability.run(workspace, "b")


def listing(folder: Path) -> None:
    """A listing of the provider."""
    from catchment.core.store import open_store

    with timed():
        for _ in open_store(folder.as_uri()).list():
            pass


SERIES = (
    'SELECT count(*) FROM series WHERE "Modality" = ?',
    'SELECT "collection_id", count(*) FROM series WHERE "Modality" = ? GROUP BY ALL',
    'SELECT "PatientID", count(*) FROM series WHERE "Modality" = ? GROUP BY ALL LIMIT 20',
)


def idc_load(path: Path) -> None:
    """The public index of the Imaging Data Commons, into the warehouse's kind of database."""
    import duckdb
    import idc_index_data

    index = str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)
    with timed(), duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE series AS SELECT * FROM read_parquet(?)", [index])


def idc_ask(path: Path) -> None:
    """Each question ten times; what is told is the time of all thirty."""
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection, timed():
        for _ in range(10):
            for question in SERIES:
                connection.execute(question, ["CT"]).fetchall()


PARTS = ("headers", "pictures", "runs", "many", "index")


def rows(scale: float, parts: Sequence[str] = PARTS) -> list[Row]:
    folder = scratch("imaging")
    files = sample(folder, scale) if {"headers", "pictures", "runs"} & set(parts) else folder
    made: list[Row] = []

    def took(work: Callable[..., object], *arguments: Any, **more: Any) -> Measured:
        from functools import partial

        return measure(_named(partial(work, **more), work), *arguments, runs=3)

    if "headers" in parts:
        peers = {
            "original": measure(original, files),
            "pydicom": took(one_pass, files, nested=False),
            "cat": took(cat, files),
        }
        what = f"five tables of {int(FILES * scale):,} headers"
        made.append(Row(what, took(ours, files, nested=False), peers))
        peers = {"pydicom": took(one_pass, files, nested=True)}
        made.append(Row("with all else as nested JSON", took(ours, files), peers))
    if "pictures" in parts:
        peers = {"float": took(pictures, files, table=False)}
        made.append(Row("previews of grey images", took(pictures, files, table=True), peers))
    if "runs" in parts:
        first = measure(whole_run, files, folder / "out", most_mb=2000)
        second = took(whole_run, files, folder / "out")
        made += [
            Row("a whole run, first", first, {}),
            Row("a whole run, second", second, {"listing": took(listing, files)}),
        ]
    for count in MANY if "many" in parts else ():
        place, output = many(folder / f"many{count}", count), folder / f"out{count}"
        first = measure(whole_run, place, output, most_mb=MOST_MB)
        second = took(whole_run, place, output)
        made += [
            Row(f"a whole run of {count:,} small files, first", first, {}),
            Row(
                f"a whole run of {count:,} small files, second",
                second,
                {"listing": took(listing, place)},
            ),
        ]
    if "index" in parts:
        loaded = measure(idc_load, folder / "idc.duckdb")
        asked = measure(idc_ask, folder / "idc.duckdb")
        made += [
            Row("idc-index-data, loaded", loaded, {}),
            Row("its series, 30 questions", asked, {}),
        ]
    shutil.rmtree(folder)
    return made


def _named(work: Any, of: Callable[..., object]) -> Any:
    work.__name__ = of.__name__
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--record", action="store_true", help="write bench/results/imaging.json")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts")
    options = parser.parse_args()
    made = rows(options.scale, options.only or PARTS)
    report("imaging", made, RESULTS if options.record else None, keep=bool(options.only))


if __name__ == "__main__":
    main()
