"""Datasets in files, as the child that parses them reads them."""

from __future__ import annotations

import pytest
import xarray as xr

from catchment.arrays import files
from catchment.core.errors import Invalid, NotFound
from catchment.testing.arrays import make_session

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_a_leaf_of_a_tree_has_to_be_named(tmp_path):
    path = str(tmp_path / "tree.nc")
    leaves = [f"part{number}" for number in range(files.LEAVES + 1)]
    xr.DataTree.from_dict({leaf: make_session(leaf) for leaf in leaves}).to_netcdf(path)
    assert files._load(path, "part1").session_id == "part1"
    with pytest.raises(Invalid, match="tree") as none:
        files._load(path, "")
    with pytest.raises(NotFound) as other:
        files._load(path, "nope")
    for error in (none.value, other.value):
        assert error.hint.startswith("--group names a leaf: 'part0', 'part1'")
        assert f"'part{files.LEAVES}'" not in error.hint


def test_what_is_no_netcdf(tmp_path):
    path = tmp_path / "x.nc"
    path.write_bytes(b"no netcdf")
    for group in ("", "a"):
        with pytest.raises(Invalid) as caught:
            files._load(str(path), group)
        assert caught.value.kind == "bad-dataset"


def test_a_dataset_without_variables(tmp_path):
    path = str(tmp_path / "empty.nc")
    xr.Dataset(attrs={"a": 1}).to_netcdf(path)
    assert files._load(path, "").attrs == {"a": 1}
