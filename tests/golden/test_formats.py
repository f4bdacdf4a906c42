"""Stores of sessions and images that earlier versions wrote: they open, are verified, and go on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb
import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import read
from catchment.core.iceberg import Shelf, open_catalog
from catchment.core.workspace import Workspace
from catchment.imaging.snapshot import open_snapshot
from catchment.testing.arrays import make_session, same
from catchment.testing.dicom import make_file
from tests.golden.make import recording, unpacked

HERE = Path(__file__).parent
ARRAYS, IMAGING = (sorted(HERE.glob(f"{kind}-*.tar.xz")) for kind in ("arrays", "imaging"))


def named(path):
    return path.name.partition(".")[0]


def bytes_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(name, seed=0):
    return make_session(name, seed=seed, windows=12, samples=4)


def test_they_are_small_and_there_are_two_of_each():
    assert [named(path) for path in ARRAYS + IMAGING] == [
        "arrays-1", "arrays-2", "imaging-1", "imaging-2"
    ]  # fmt: skip
    assert max(path.stat().st_size for path in ARRAYS + IMAGING) < 64 << 10


@pytest.mark.parametrize("archive", ARRAYS, ids=named)
def test_recordings_that_were_transformed_stay_and_others_join_them(archive, tmp_path, call):
    folder = unpacked(archive, tmp_path / "w")
    place = folder / "data/arrays/windows/windows_combined.zarr"
    plain = xr.open_zarr(place).load()
    assert plain.sizes["session"] == 3
    before = bytes_of(place / "eeg")
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    again = call(folder, "arrays", "transform")  # unpacked files are others to a listing
    assert {one["decision"] for one in again["details"]["sessions"]} <= {"unchanged"}
    assert xr.open_zarr(place).load().identical(plain)
    recording(folder / "recordings" / "more.h5", 3)
    more = call(folder, "arrays", "transform")
    assert [one["decision"] for one in more["details"]["sessions"]] == ["append"]
    found = xr.open_zarr(place).load()
    assert found.sizes["session"] == 4
    assert found["eeg"][:3].identical(plain["eeg"])
    assert {path: path.read_bytes() for path in before} == before
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    assert all(check["well"] for check in call(folder, "doctor")["checks"])


@pytest.mark.parametrize("archive", ARRAYS, ids=named)
def test_sessions_that_were_replaced_and_withdrawn_stay_so(archive, tmp_path, call):
    folder = unpacked(archive, tmp_path / "w")
    own = folder / "own.zarr"
    found = catchment.arrays.open(own)
    assert found["session"].values.tolist() == ["c", "a"]
    assert same(read.session(found, "c"), made("c"))
    assert same(read.session(found, "a"), made("a", 1))
    catchment.arrays.append(made("b"), own)
    if archive == ARRAYS[0]:  # the other one was rechunked before
        catchment.arrays.rechunk(own, {"time": 6})
    assert catchment.arrays.open(own)["session"].values.tolist() == ["c", "a", "b"]
    assert call(folder, "arrays", "verify", str(own))["wrong"] == []


def test_positions_go_on(tmp_path, call):
    folder = unpacked(ARRAYS[-1], tmp_path / "w")
    along = folder / "along.zarr"
    before = xr.open_zarr(along)["fnirs"].values
    new = made("c")[["fnirs"]].drop_vars("time")
    catchment.arrays.append(new, along, append_dim="time")
    after = xr.open_zarr(along)["fnirs"].values
    assert (after[:24] == before).all()
    assert (after[24:] == new["fnirs"].values).all()
    assert call(folder, "arrays", "verify", str(along))["wrong"] == []


@pytest.mark.parametrize("archive", IMAGING, ids=named)
def test_images_stay_and_others_join_them(archive, tmp_path, call):
    folder = unpacked(archive, tmp_path / "w")
    before = bytes_of(folder / "data" / "imaging")
    assert all(wrong == [] for wrong in call(folder, "verify").values())

    def shown():
        with Workspace.open(folder) as workspace:
            snapshot = open_snapshot(workspace.store, workspace.ledger, "ct")
            states = Counter((f["site"], f["state"]) for f in snapshot["files"].to_pylist())
            with snapshot.connect() as connection:
                joined = connection.execute(
                    'SELECT count(*) FROM images JOIN series USING ("SeriesInstanceUID") '
                    'JOIN studies t ON t."StudyInstanceUID" = series."StudyInstanceUID" '
                    "JOIN patients p ON p.patient_key = t.patient_key "
                    "JOIN devices d ON d.device_key = series.device_key"
                ).fetchone()[0]
            return states, joined, snapshot.rows()

    states, joined, rows = shown()
    assert states == {
        ("alpha", "ingested"): 1, ("alpha", "duplicate"): 1, ("alpha", "conflict"): 1, ("alpha", "quarantined"): 1,
        ("beta", "conflict"): 1, ("beta", "quarantined"): 1, ("beta", "ingested"): 1,
    }  # fmt: skip
    assert (joined, rows["images"], rows["compressed_images"]) == (2, 2, 2)
    call(folder, "imaging", "run")  # unpacked files are others to a listing, of the same bytes
    again, _, now = shown()
    assert again - states == {("alpha", "duplicate"): 4, ("beta", "duplicate"): 3}
    assert (now["images"], now["raw"]) == (rows["images"], rows["raw"])
    (folder / "sites/beta/5").write_bytes(make_file("1.2.3.1.1.5"))
    call(folder, "imaging", "run")
    assert shown()[1] == 3
    for path, data in before.items():  # what was published is as it was
        assert path.read_bytes() == data, path
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    assert all(check["well"] for check in call(folder, "doctor")["checks"])


@pytest.mark.parametrize("archive", IMAGING, ids=named)
def test_images_of_earlier_versions_are_loaded_into_the_warehouse(archive, tmp_path, call):
    """Its parts lack columns of today; so they do where a later run has added parts with them."""
    folder = unpacked(archive, tmp_path / "w")
    file = folder / "catchment.toml"
    told = file.read_text()
    assert told.count("[imaging.ct]\n") == 1
    own = f'[imaging.ct]\nwarehouse = "{folder}/w.duckdb"\n'
    iceberg = f'[iceberg]\ncatalog = "sql"\nuri = "sqlite:///{folder}/iceberg.db"\n'
    file.write_text(iceberg + told.replace("[imaging.ct]\n", own))
    for number in (5, 6):  # the second run changes the tables that the first one made
        (folder / "sites/beta" / str(number)).write_bytes(make_file(f"1.2.3.1.1.{number}"))
        call(folder, "imaging", "run")
        with Workspace.open(folder) as workspace:
            snapshot = open_snapshot(workspace.store, workspace.ledger, "ct")
            shelf = Shelf(open_catalog(workspace), "imaging/ct")
            with duckdb.connect(f"{folder}/w.duckdb", read_only=True) as connection:
                for name, rows in snapshot.items():
                    names = ", ".join(f'"{column}"' for column in rows.column_names)
                    shown = connection.execute(f'SELECT {names} FROM "{name}"')
                    assert sorted(shown.fetchall(), key=repr) == plain(rows), name
                    if name in shelf.tables():
                        table = open_catalog(workspace).load_table(("imaging_ct", name))
                        assert table.scan().to_arrow().num_rows == rows.num_rows, name
            assert shelf.tables() == set(snapshot)
            assert snapshot["images"].num_rows == number - 2


def plain(rows):
    """Rows as DuckDB tells them, in one order."""
    return sorted((tuple(row.values()) for row in rows.to_pylist()), key=repr)
