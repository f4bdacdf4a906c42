"""What readers of the first system rely on, and the cases that every implementation must pass."""

from __future__ import annotations

import hashlib
import io
import json
import re
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.cli.main import run
from catchment.core.store import open_store
from tests.tables.running import Sites, visits

CASES = ("N1-no-criteria", "N2-drop_all-default", "N3-keep_all", "N4-active_only",
         "N5-active_only-batch1", "N6-active_only-no-active")  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")


class Seed:
    """Two centers and the arguments of a run over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sites = Sites(open_store((folder / "sites").as_uri()))
        self.output = folder / "bucket" / "target-prefix"

    def run(self, *arguments: str) -> Path:
        """Run without a workspace; the folder of the snapshot."""
        mapping = {
            str(c.adcid): {"adcid": c.adcid, "name": c.name, "center-id": c.id}
            for c in self.sites.centers
        }
        centers = self.folder / "centers.json"
        centers.write_text(json.dumps({"centers": mapping}))
        datasets = f"{self.folder}/sites/{{center}}"
        options = {"centers": centers, "datasets": datasets, "output": self.output}
        given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        assert run(["tables", "run", *given, *arguments]) == 0
        (snapshot,) = (p for p in self.output.iterdir() if p.name[0] not in "._")
        return snapshot


@pytest.fixture
def seed(tmp_path):
    return Seed(tmp_path)


# --- the shared cases ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cases(shared):
    return {c["id"]: c for c in json.loads((shared / "cases/tables.json").read_text())["cases"]}


def test_no_case_is_left_out(cases):
    assert tuple(cases) == CASES


@pytest.mark.parametrize("split", ["file for each center", "file for each row"])
@pytest.mark.parametrize("name", CASES)
def test_a_shared_case(seed, cases, name, split):
    case = cases[name]
    rows = [tuple(row) for row in case["rows"]]
    for adcid in sorted({row[1] for row in rows}, reverse=True):
        own = [row for row in rows if row[1] == adcid]
        parts = [own] if split == "file for each center" else [[row] for row in own]
        seed.sites.add(
            f"c{adcid}", adcid, {f"{n}.parquet": visits(*p) for n, p in enumerate(parts)}
        )
    people = seed.folder / "identifiers.csv"
    lines = [
        f"{naccid},{entry['adcid']},{str(entry['active']).lower()}"
        for naccid, entries in case["identifiers"].items()
        for entry in entries
    ]
    people.write_text("\n".join(["naccid,adcid,active", *lines]))
    fields = {k: case[k] for k in ("criteria", "on_duplicate") if case[k] is not None}
    criteria = seed.folder / "criteria.json"
    criteria.write_text(json.dumps({"uds": fields} if fields else {}))
    found = seed.run("--identifiers", str(people), "--duplicates-criteria", str(criteria))
    kept = pq.read_table(found / "uds/aggregate_result.parquet").select(case["columns"])
    assert [list(row.values()) for row in kept.to_pylist()] == case["expected_kept_rows"]
    gone = [row for row in case["rows"] if row not in case["expected_kept_rows"]]
    removed = found / "uds/_removed_rows.parquet"
    assert removed.exists() == bool(gone)
    if gone:
        table = pq.read_table(removed)
        assert [list(row.values()) for row in table.select(case["columns"]).to_pylist()] == gone
        quarantined = name == "N6-active_only-no-active"
        reason = ("quarantined", "no-current-center") if quarantined else ("dropped", "duplicate")
        assert {(r["fate"], r["reason"]) for r in table.to_pylist()} == {reason}
        assert [r["removed_from"] for r in table.to_pylist()] == [f"c{row[1]}" for row in gone]


# --- the output ----------------------------------------------------------------------------------


@pytest.fixture
def published(seed):
    one, two = (("NACC000001", adcid, "2020-01-01", adcid) for adcid in (10, 20))
    seed.sites.add("alpha", 10, visits(one), mds={"a.parquet": visits(one)})
    seed.sites.add("beta", 20, visits(two))
    people = seed.folder / "people.csv"
    people.write_text("naccid,adcid\nNACC000001,20\n")
    return seed.run("--identifiers", str(people), "--freeze-date", "20260131")


def test_the_layout_is_that_of_the_first_system(seed, published):
    assert published.parent == seed.output
    assert re.fullmatch(r"\d{8}-\d{6}", published.name)
    datetime.strptime(published.name, "%Y%m%d-%H%M%S")  # noqa: DTZ007 - it has no zone
    files = {p.relative_to(published).as_posix() for p in published.rglob("*") if p.is_file()}
    assert {f for f in files if "/_" not in f} == {
        "provenance.json", "uds/aggregate_result.parquet", "mds/aggregate_result.parquet",
    }  # fmt: skip
    assert {f for f in files if "/_" in f} == {
        "uds/_removed_rows.parquet", "uds/_composition.arrow", "uds/_keys.arrow",
        "mds/_composition.arrow", "mds/_keys.arrow",
    }  # fmt: skip


def test_a_folder_opens_as_one_table(published):
    """Readers of folders pass over names that begin with an underscore."""
    assert pq.read_table(published / "uds").num_rows == 1


def test_provenance_has_the_keys_of_the_first_system_and_more(published):
    data = (published / "provenance.json").read_bytes()
    provenance = json.loads(data)
    assert list(provenance)[:4] == ["manifest", "config", "metadata", "dataset_aggregator"]
    assert provenance["manifest"]["name"] == "catchment"
    assert set(provenance["manifest"]) == {"name", "version"}
    assert provenance["config"]["freeze_date"] == "20260131"
    assert set(provenance["metadata"]["job"]) == {"id", "started"}
    aggregator = provenance["dataset_aggregator"]
    assert aggregator["freeze_date"] == "20260131"
    assert aggregator["etl_date"] == published.name[:8]
    assert aggregator["latest_versions"] == {c: f"{c}/versions/1/" for c in ("alpha", "beta")}
    assert provenance["skipped"] == {}
    uds = provenance["tables"]["uds"]
    assert (uds["rows"], uds["drift"]) == (1, [])
    assert list(uds["columns"]) == ["naccid", "adcid", "visitdate", "value"]
    account = {(x["site"], x["part"], x["unit"]): x for x in provenance["catchment"]["account"]}
    assert account["alpha", "uds", "rows"]["dropped"] == {"transferred": 1}
    assert account["beta", "uds", "rows"]["kept"] == 1


def test_checksums_are_true_and_provenance_came_last(seed, published):
    provenance = json.loads((published / "provenance.json").read_bytes())
    last = (published / "provenance.json").stat().st_mtime_ns
    files = {p for p in published.rglob("*") if p.is_file()} - {published / "provenance.json"}
    assert {seed.output / item["key"] for item in provenance["objects"]} == files
    for item in provenance["objects"]:
        path = seed.output / item["key"]
        data = path.read_bytes()
        assert item["size"] == len(data)
        assert item["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert path.stat().st_mtime_ns <= last
        if item["role"] == "table":
            assert item["rows"] == pq.read_metadata(io.BytesIO(data)).num_rows


def test_constants_are_text(published):
    table = pq.read_table(published / "uds/aggregate_result.parquet")
    assert table.column_names[-2:] == ["freeze_date", "etl_date"]
    assert table.column("freeze_date").to_pylist() == ["20260131"]
    assert table.column("etl_date").to_pylist() == [published.name[:8]]
    assert {table.schema.field(n).type for n in ("freeze_date", "etl_date")} == {pa.string()}
