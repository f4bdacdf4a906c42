"""``catchment arrays``, as people type it."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import xarray as xr

from catchment.arrays import files
from catchment.cli.main import run
from catchment.core.safe import SafePool
from catchment.testing.arrays import make_session

pytest.importorskip("h5netcdf", reason="the extra arrays is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "arrays"))
import recordings


@pytest.fixture(scope="module")
def readers():
    """One child that reads for all commands, each of which would start its own."""
    with SafePool(1) as pool:
        yield pool


@pytest.fixture
def call(capsys, tmp_path, monkeypatch, readers):
    """Runs a command line; its exit code, its output as JSON, or as text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        files, "SafePool", lambda _, **limits: nullcontext(readers.limited(**limits))
    )
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def go(*arguments, text=False):
        code = run(["arrays", *arguments] if text else ["--json", "arrays", *arguments])
        out = capsys.readouterr()
        return code, (out.out + out.err) if text else json.loads(out.out)

    return go


def test_sessions_are_appended_listed_and_withdrawn(call, tmp_path):
    for name in "ab":
        make_session(name).to_netcdf(f"{name}.nc")
    make_session("c").drop_vars("time").to_zarr("c.zarr", zarr_format=2, consolidated=False)
    make_session("b", seed=1).to_netcdf("other.nc")

    code, planned = call("append", "a.nc", "all.zarr", "--dry-run", "--chunks", "time=8")
    assert (code, planned["steps"][0]["slot"], planned["dry_run"]) == (0, 0, True)
    assert not Path("all.zarr").exists()
    assert call("append", "a.nc", "all.zarr", "--chunks", "time=8")[1]["commit"] == 1
    code, text = call("append", "b.nc", "all.zarr", "--site", "north", text=True)
    assert (code, "commit 2" in text) == (0, True)
    code, refused = call("append", "c.zarr", "all.zarr")
    assert (code, refused["findings"][0]["code"]) == (1, "variable-missing")
    assert call("append", "other.nc", "all.zarr")[1]["error"]["kind"] == "session-differs"
    assert call("append", "other.nc", "all.zarr", "--on-conflict", "replace")[0] == 0
    assert (
        call("append", "a.nc", "all.zarr", "--chunks", "time=x")[1]["error"]["kind"] == "bad-chunks"
    )
    assert call("append", "a.nc", "all.zarr", "--chunks", "time=9")[0] == 2

    code, told = call("list", "all.zarr")
    assert [s["session"] for s in told["sessions"]] == ["a", "b"]
    assert len(call("list", "all.zarr", "--all")[1]["sessions"]) == 3
    assert "present" in call("list", "all.zarr", text=True)[1]
    assert call("show", "all.zarr")[1]["windows"] == 40
    assert "2 sessions" in call("show", "all.zarr", text=True)[1]
    code, text = call("show", "all.zarr", "--session", "a", "--plot", "a.png", text=True)
    assert (code, Path("a.png").stat().st_size > 1000) == (0, True)
    assert (
        call("show", "all.zarr", "--session", "a", "--plot", "a.txt")[1]["error"]["kind"]
        == "bad-plot"
    )
    assert call("show", "all.zarr", "--session", "q")[0] == 3

    assert call("withdraw", "all.zarr", "a", "--dry-run")[1]["dry_run"]
    assert call("withdraw", "all.zarr", "q", "--dry-run")[0] == 3
    assert "withdrawn" in call("withdraw", "all.zarr", "a", text=True)[1]
    assert "all is well" in call("verify", "all.zarr", text=True)[1]
    Path("all.zarr/session/c.0").unlink(missing_ok=True)
    Path("all.zarr/session/0").unlink(missing_ok=True)
    code, verdict = call("verify", "all.zarr", "--quick")
    assert (code, len(verdict["wrong"])) == (1, 1)
    code, text = call("verify", "all.zarr", "--repair", text=True)
    assert (code, "written anew" in text) == (0, True)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("x.nc", b"no netcdf", 2), ("none.nc", None, 3), ("none.zarr", None, 3)],
)
def test_what_is_no_dataset(call, name, content, code):
    if content is not None:
        Path(name).write_bytes(content)
    assert call("append", name, "all.zarr")[0] == code


def test_a_leaf_of_a_tree_is_named(call):
    tree = {"/a": make_session("a"), "/b/c": make_session("c")}
    xr.DataTree.from_dict(tree).to_netcdf("tree.nc")
    for group, code in (((), 2), (("--group", "nope"), 3)):
        refused = call("append", "tree.nc", "all.zarr", *group)
        assert refused[0] == code
        assert "--group names a leaf: 'a', 'b/c'" in refused[1]["error"]["hint"]
    assert call("append", "tree.nc", "all.zarr", "--group", "b/c")[0] == 0
    make_session("z").to_zarr("z.zarr", consolidated=False)
    code, text = call("append", "z.zarr", "all.zarr", "--group", "x", text=True)
    assert (code, "no Zarr store with a group" in text) == (3, True)
    Path("cut.nc").write_bytes(Path("tree.nc").read_bytes()[:300])
    assert call("append", "cut.nc", "all.zarr", "--group", "a")[0] == 2


def test_what_is_refused_is_no_dry_run(call):
    make_session("a").to_netcdf("a.nc")
    assert call("append", "a.nc", "all.zarr")[0] == 0
    assert call("append", "a.nc", "all.zarr", "--dry-run")[1]["dry_run"] is True
    make_session("b", samples=7).to_netcdf("b.nc")
    code, told = call("append", "b.nc", "all.zarr")
    assert (code, told["dry_run"], told["steps"][0]["decision"]) == (1, False, "refuse")
    text = call("append", "b.nc", "all.zarr", text=True)[1]
    assert "error: b: " in text
    assert "dry run" not in text


def test_recordings_are_transformed(call, tmp_path, capsys):
    Path("in/north").mkdir(parents=True)
    nothing = call("transform", "--recordings", "in", "--output", "no", text=True)[1]
    assert "no recording was taken yet" in nothing
    recordings.edf(Path("in/north/a.edf"))
    recordings.edf(Path("in/twice.edf"), labels=("A", "A"))
    Path("catchment.toml").write_text(
        "[executor]\nkind = 'threads'\n[arrays.eeg]\nrecordings = 'in'\n[arrays.eeg.options]\nchunk_windows = 16\n"
    )
    code, planned = call("transform", "--dry-run")
    assert (code, planned["state"]) == (0, "planned")
    assert not Path("data").exists()
    code, text = call("transform", "eeg", text=True)
    assert (code, "published: snapshot 1" in text, "labels-repeated" in text) == (0, True, True)
    again = call("transform")[1]
    assert again["state"] == "unchanged"
    assert sum(line["kept"] for line in again["account"] if line["unit"] == "sessions") == 1
    assert again["details"]["stores"][0]["windows"] == 19
    own = ("--recordings", "in", "--output", "out", "--own-stores", "--workers", "1")
    assert call("transform", *own, "--since", "2020-01-01")[1]["state"] == "published"
    assert run(["status", "arrays/eeg"]) == 0
    capsys.readouterr()
    assert call("transform", "nothing")[1]["error"]["kind"] == "no-aggregate"


def test_the_workspace_knows_arrays(call, tmp_path, capsys):
    from catchment.arrays import capability
    from catchment.core.errors import CatchmentError
    from catchment.core.workspace import Workspace

    Path("in").mkdir()
    recordings.edf(Path("in/a.edf"))
    Path("catchment.toml").write_text(
        "[executor]\nkind = 'threads'\n[arrays.eeg]\nrecordings = 'in'\npseudonym_key = 'k'\n"
    )
    with Workspace.open(tmp_path) as workspace:
        with pytest.raises(CatchmentError) as caught:
            capability.verify(workspace, "eeg")
        assert caught.value.kind == "no-snapshot"
        before = capability.sites(workspace, "eeg")
        assert capability.run(workspace, "eeg", batch=1).state == "published"
        assert capability.verify(workspace, "eeg") == []
        recordings.edf(Path("in/b.edf"), seed=3)
        assert capability.sites(workspace, "eeg").keys() == before.keys() == {"eeg"}
        assert capability.sites(workspace, "eeg") != before
        (place,) = [s.key for s in workspace.store.list() if s.key.endswith("eeg/c/0/0/0/0")]
        data = workspace.store.read(place)
        workspace.store.put(place, data[::-1], mode="overwrite")
        assert len(capability.verify(workspace, "eeg")) == 1
        workspace.store.put("arrays/eeg/_snapshots/x", b"")
    assert run(["gc", "--dry-run"]) == 0
    capsys.readouterr()
    Path("catchment.toml").write_text("")
    assert call("transform")[1]["error"]["kind"] == "which-aggregate"


def test_a_store_is_rechunked_and_exported(call):
    for name in "ab":
        make_session(name).to_netcdf(f"{name}.nc")
        assert call("append", f"{name}.nc", "all.zarr")[0] == 0
    assert "dry run" in call("rechunk", "all.zarr", "--chunks", "time=8", "--dry-run", text=True)[1]
    code, text = call("rechunk", "all.zarr", "--chunks", "time=8", text=True)
    assert (code, "--drop-former" in text) == (0, True)
    assert "has these chunks" in call("rechunk", "all.zarr", "--chunks", "time=8", text=True)[1]
    code, told = call("append", "a.nc", "all.zarr", "--chunks", "time=9")
    assert told["error"]["hint"].endswith("catchment arrays rechunk STORE --chunks time=9")
    dry = call("rechunk", "all.zarr", "--drop-former", "--dry-run", text=True)[1]
    assert "would be deleted" in dry
    assert call("rechunk", "all.zarr", "--drop-former")[1]["former_chunks"] > 0
    assert call("rechunk", "all.zarr")[1]["error"]["kind"] == "usage"

    assert "dry run" in call("export", "all.zarr", "flat", "--dry-run", text=True)[1]
    code, made = call("export", "all.zarr", "flat", "--form", "npy", "--variable", "eeg")
    assert (code, made["windows"], made["variables"]["eeg"]["shape"]) == (0, 40, [40, 3, 10])
    assert Path("flat/eeg.npy").exists()
    again = call("export", "all.zarr", "flat", "--form", "npy", "--variable", "eeg", text=True)
    assert "unchanged" in again[1]
    assert call("export", "all.zarr", "flat")[1]["error"]["kind"] == "export-exists"


def test_a_session_is_shown_with_the_attributes_of_its_dataset(call):
    make_session("a").assign_attrs(device="D1", tries=[1, 2]).to_netcdf("a.nc")
    make_session("a", seed=1).assign_attrs(device="D2").to_netcdf("b.nc")
    assert call("append", "a.nc", "all.zarr")[0] == 0
    told = call("show", "all.zarr", "--session", "a")[1]["attributes"]
    assert told == {"session_id": "a", "device": "D1", "tries": [1, 2]}
    assert call("append", "b.nc", "all.zarr", "--on-conflict", "replace")[0] == 0
    assert call("show", "all.zarr", "--session", "a")[1]["attributes"]["device"] == "D2"


def test_a_folder_of_stores_names_them(call):
    make_session("a").to_netcdf("a.nc")
    assert call("append", "a.nc", "all/2026-03.zarr")[0] == 0
    for verb in ("list", "verify", "show"):
        code, told = call(verb, "all")
        assert (code, told["error"]["kind"]) == (3, "no-store")
        assert "stores below it: 2026-03.zarr" in told["error"]["message"]
        assert told["error"]["hint"].endswith("all/2026-03.zarr")
    assert "below" not in call("list", "nothing")[1]["error"]["message"]


def test_other_stores(call):
    make_session("a").to_netcdf("a.nc")
    make_session("b").to_netcdf("b.nc")
    for name in "ab":
        assert call("append", f"{name}.nc", "long.zarr", "--append-dim", "time")[0] == 0
    assert [s["slot"] for s in call("list", "long.zarr")[1]["sessions"]] == [0, 20]
    assert "no store of sessions" in call("show", "long.zarr", text=True)[1]
    assert "all is well" in call("verify", "long.zarr", text=True)[1]
    make_session("a", seed=1, windows=7).to_netcdf("other.nc")
    other = "append", "other.nc", "long.zarr", "--append-dim", "time"
    assert call(*other)[1]["error"]["kind"] == "session-differs"
    assert call(*other, "--on-conflict", "replace")[1]["steps"][0]["decision"] == "replace"
    assert call("withdraw", "long.zarr", "q", "--dry-run")[1]["error"]["kind"] == "no-session"
    assert call("withdraw", "long.zarr", "b", "--dry-run")[1]["slot"] == 7
    assert call("show", "long.zarr", "--session", "b")[1]["variables"][0]["shape"][0] == 20
    assert call("withdraw", "long.zarr", "a")[1]["n_windows"] == 7
    told = call("list", "long.zarr")[1]
    assert (told["commit"], [(s["session"], s["slot"]) for s in told["sessions"]]) == (
        4,
        [("b", 0)],
    )
    # The hint of a store without the dimension, typed as it says.
    make_session("c").to_zarr("plain.zarr", zarr_format=2)
    refused = call("append", "a.nc", "plain.zarr", "--append-dim", "session")[1]
    assert refused["findings"][0]["code"] == "append-dim-missing"
    hint = refused["findings"][0]["hint"].partition(": catchment ")[2].replace("NEW", "new.zarr")
    assert call(*hint.replace(" ID", " old").split()[1:])[0] == 0
    assert call("append", "a.nc", "new.zarr")[0] == 0
    assert [s["session"] for s in call("list", "new.zarr")[1]["sessions"]] == ["old", "a"]


def test_sessions_in_icechunk(call):
    pytest.importorskip("icechunk", reason="the extra icechunk is not installed")
    make_session("a").to_netcdf("a.nc")
    _, text = call("append", "a.nc", "ice", "--backend", "icechunk", text=True)
    assert "at commit 1" in text
    assert "bytes written" not in text  # nobody counts them
    assert call("append", "a.nc", "ice")[1]["steps"][0]["decision"] == "unchanged"
    assert call("show", "ice")[1]["sessions"] == 1
    assert call("show", "ice", "--session", "a")[1]["n_windows"] == 20
    assert call("verify", "ice")[1]["wrong"] == []
    refused = call("rechunk", "ice", "--chunks", "time=3")[1]["error"]
    assert refused["kind"] == "bad-backend"
    assert refused["hint"].endswith("arrays append OLD NEW")  # which works:
    assert call("append", "ice", "new.zarr", "--chunks", "time=3")[0] == 0
    (old,), (new,) = (call("list", name)[1]["sessions"] for name in ("ice", "new.zarr"))
    assert old["content_hash"] == new["content_hash"]
    assert call("withdraw", "ice", "a")[0] == 0
    assert call("list", "ice")[1]["sessions"] == []
