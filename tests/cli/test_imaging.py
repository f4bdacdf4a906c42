"""``catchment imaging``, as it is typed."""

from __future__ import annotations

import duckdb
import pytest

from catchment.testing.dicom import make_file


@pytest.fixture
def providers(tmp_path):
    """Two folders: images of alpha, a conflict with beta, and a file that is none."""
    for name, data in {
        "alpha/1.dcm": make_file("1.2.3.1.1.1"),
        "alpha/2.dcm": make_file("1.2.3.1.1.2", SeriesDescription="\x1b[31mred"),
        "beta/1.dcm": make_file("1.2.3.1.1.1", SeriesDescription="other"),
        "beta/DOE^JANE.txt": b"hello",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return ("--provider", f"alpha={tmp_path / 'alpha'}", "--provider", f"beta={tmp_path / 'beta'}")


def test_without_a_workspace(catchment, providers, tmp_path):
    out = ("--output", str(tmp_path / "out"))
    done = catchment(
        "imaging", "run", *providers, *out, "--warehouse", str(tmp_path / "w.duckdb"), "--json"
    )
    assert done.code == 0, done.out
    assert done.json["details"]["rows"]["images"] == 1
    assert "JANE" not in done.out
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*) FROM images").fetchone() == (1,)
    assert "nothing new" in catchment("imaging", "run", *providers, *out).out
    assert catchment("imaging", "verify", *out, "--sources").code == 0
    assert "quarantined (not-dicom)" in catchment("imaging", "status", *out).out
    assert "JANE" not in catchment("imaging", "quarantine", *out).out
    assert "JANE" in catchment("imaging", "quarantine", *out, "--names").out
    shown = catchment("imaging", "show", *out)
    assert "CT" in shown.out
    assert "\x1b[31m" not in shown.out
    written = catchment(
        "imaging", "export", str(tmp_path / "x"), *out, "--series", "1.2.3.1.1", "--json"
    ).json["written"]
    assert sum(name.endswith(".dcm") for name in written) == 1
    assert catchment("imaging", "export", str(tmp_path / "x"), *out).code == 4
    assert catchment("imaging", "export", str(tmp_path / "y"), *out, "--series", "9").code == 3


def test_a_conflict_is_listed_and_decided(catchment, providers, tmp_path):
    out = ("--output", str(tmp_path / "out"))
    assert "conflict" in catchment("imaging", "run", *providers, *out).out
    listed = catchment("imaging", "resolve", *out, "--json")
    assert "1.dcm" not in listed.out
    (one,) = listed.json
    digest = one["files"][0]["sha256"]
    uid = one["SOPInstanceUID"]
    assert digest in catchment("imaging", "resolve", *out).out
    assert catchment("imaging", "resolve", uid, *out).code == 2
    assert catchment("imaging", "resolve", uid, *out, "--keep", digest, "--keep-none").code == 2
    assert catchment("imaging", "resolve", "1.1", *out, "--keep-none").code == 3
    assert (
        "published snapshot 2"
        in catchment("imaging", "resolve", uid, *out, "--keep", digest[:12]).out
    )
    assert catchment("imaging", "resolve", *out, "--json").json == []


def test_with_a_workspace(catchment, providers, tmp_path):
    (tmp_path / "catchment.toml").write_text(
        '[imaging.ct]\nkey = "k"\nwarehouse = "w.duckdb"\n[imaging.ct.providers]\nalpha = "alpha"\nbeta = "beta"\n'
    )
    assert "4 files to publish" in catchment("imaging", "sync").out
    assert "4 files" in catchment("imaging", "run", "--dry-run").out
    assert not (tmp_path / "w.duckdb").exists()
    assert catchment("run").code == 0
    assert catchment("imaging", "run", "--no-sync").code == 0
    assert catchment("imaging", "verify", "ct").code == 0
    assert catchment("gc", "--grace", "0", "--json").json["objects"] == []
    orphan = tmp_path / "data/imaging/ct/raw/objects/00/00"
    orphan.parent.mkdir(parents=True)
    orphan.write_text("left by a crash")
    assert catchment("gc", "--grace", "0", "--json").json["objects"] == [
        "imaging/ct/raw/objects/00/00"
    ]
    part = next((tmp_path / "data/imaging/ct/tables/images").rglob("*.parquet"))
    part.write_bytes(b"gone")
    assert catchment("imaging", "verify").code == 1
    assert catchment("imaging", "verify", "--snapshot", "9").code == 3


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ("[imaging.ct]\nproviders = {}\n", "no-providers"),
        ('[imaging.ct]\nsince = "yesterday"\nproviders = {a = "."}\n', "bad-since"),
        (
            '[imaging.ct]\nproviders = {a = "."}\n[imaging.mr]\nproviders = {a = "."}\n',
            "which-aggregate",
        ),
        ('[imaging.ct]\nproviders = {A = "."}\n', "bad-settings"),
    ],
)
def test_settings_that_cannot_be_used(catchment, tmp_path, settings, kind):
    (tmp_path / "catchment.toml").write_text(settings)
    assert catchment("imaging", "run", "--json").json["error"]["kind"] == kind


def test_what_does_not_exist(catchment, tmp_path):
    (tmp_path / "catchment.toml").write_text('[imaging.ct]\nproviders = {a = "."}\n')
    assert catchment("imaging", "run", "mr").code == 3
    assert catchment("imaging", "status").code == 3
    assert catchment("imaging", "run", "--provider", "x").code == 2


def test_a_warehouse_that_is_none_is_said_so(catchment, providers, tmp_path):
    (tmp_path / "w.duckdb").write_bytes(b"x" * 5000)
    done = catchment(
        "imaging",
        "run",
        *providers,
        "--output",
        str(tmp_path / "o"),
        "--warehouse",
        str(tmp_path / "w.duckdb"),
        "--json",
    )
    assert done.json["error"]["kind"] == "bad-warehouse"


def test_names_are_told_to_who_asks_for_them(catchment, tmp_path, monkeypatch):
    (tmp_path / "alpha" / "DOE^JANE").mkdir(parents=True)
    for name, data in {
        "DOE^JANE/us": make_file("1.2.7.1", Modality="US"),
        "2": make_file(),
    }.items():
        (tmp_path / "alpha" / name).write_bytes(data)
    monkeypatch.setenv("CATCHMENT_DEIDENTIFY__BASIC__KEY", "0123456789abcdef")
    out = ("--output", str(tmp_path / "out"))
    what = ("--provider", f"alpha={tmp_path / 'alpha'}", "--deidentify", "basic")
    done = catchment("imaging", "run", *out, *what, "--json")
    assert done.code == 0, done.out
    assert done.json["account"][0]["quarantined"] == {"burned-in": 1}
    # A modality that somebody looked at, named in the settings: what came before it is read again.
    (tmp_path / "catchment.toml").write_text(f"""
[workspace]
store = "{tmp_path / "out"}"
[imaging.default]
deidentify = "basic"
warehouse = "w.duckdb"
[imaging.default.providers]
alpha = "alpha"
[deidentify.basic]
shown = ["us"]
""")
    where = ("-w", str(tmp_path / "catchment.toml"), "imaging")
    again = ("quarantine", "--again", "--reason", "burned-in")
    assert catchment(*where, "quarantine", "--again", "--seen").code == 2
    assert catchment("imaging", "quarantine", "--again", *out).code == 2  # previews, profile?
    done = catchment(*where, *again, "--json").json
    assert [line["kept"] for line in done["account"]] == [1]
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*) FROM images").fetchone() == (2,)
    assert catchment(*where, *again, "--json").json["state"] == "unchanged"
    assert catchment(*where, "quarantine", "--json").json == []


def test_what_was_seen_is_told_no_more(catchment, providers, tmp_path):
    out = ("--output", str(tmp_path / "out"))
    assert "not-dicom" in {
        one["code"]
        for one in catchment("imaging", "run", *providers, *out, "--json").json["findings"]
    }
    done = catchment("imaging", "quarantine", *out, "--seen", "--reason", "not-dicom", "--json")
    assert [one["code"] for one in done.json["findings"]] == ["conflict", "conflict"]
    told = catchment("imaging", "quarantine", *out, "--json").json
    assert {one["reason"]: bool(one["seen"]) for one in told} == {"not-dicom": True, None: False}
    told = catchment("imaging", "quarantine", *out, "--json", "--reason", "conflict").json
    assert {one["state"] for one in told} == {"conflict"}


def test_names_are_kept_from_who_does_not_ask(catchment, tmp_path, monkeypatch):
    (tmp_path / "alpha" / "DOE^JANE").mkdir(parents=True)
    (tmp_path / "alpha" / "DOE^JANE" / "us").write_bytes(make_file("1.2.7.1", Modality="US"))
    monkeypatch.setenv("CATCHMENT_DEIDENTIFY__BASIC__KEY", "0123456789abcdef")
    out = ("--output", str(tmp_path / "out"))
    what = ("--provider", f"alpha={tmp_path / 'alpha'}", "--deidentify", "basic")
    assert catchment("imaging", "run", *out, *what).code == 0
    monkeypatch.delenv("CATCHMENT_DEIDENTIFY__BASIC__KEY")
    assert "JANE" not in catchment("imaging", "quarantine", *out, "--json").out
    told = catchment("imaging", "quarantine", "--names", *out, "--json").json
    assert [line["name"] for line in told] == ["DOE^JANE/us"]
    assert catchment("imaging", "verify", "--sources", *out).code == 0
    assert catchment("imaging", "run", *out, *what).code != 0  # without its secret


def test_folders_are_deidentified_by_the_names_that_one_types(catchment, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.dcm").write_bytes(make_file())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATCHMENT_DEIDENTIFY__BASIC__KEY", "a secret of the tests of the program")
    done = catchment("imaging", "deidentify", "in/", "out/")
    assert done.code == 0, done.out
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 1
