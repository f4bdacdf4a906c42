"""The Python interface: ``catchment.open(workspace).tables``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import catchment
from catchment.api import Catchment
from catchment.core.errors import Invalid, NotFound
from catchment.core.store import open_store
from tests.tables.running import People, Sites, naive, visits

TOML = """\
[executor]
kind = "threads"
[tables.nacc]
centers = "centers.json"
datasets = "sites/{center}"
"""


@pytest.fixture
def sites(tmp_path):
    made = Sites(open_store((tmp_path / "sites").as_uri()))
    made.add("alpha", 10, visits(("NACC000001", 10, "2020-01-01", 1), ("NACC000002", 10, "x", 2)))
    made.add("beta", 20, visits(("NACC000003", 20, "2020-01-01", 3)))
    mapping = {
        str(c.adcid): {"adcid": c.adcid, "name": "A", "center-id": c.id} for c in made.centers
    }
    (tmp_path / "centers.json").write_text(json.dumps({"centers": mapping}))
    (tmp_path / "catchment.toml").write_text(TOML)
    return made


@pytest.fixture
def opened(sites, tmp_path):
    with catchment.open(tmp_path) as workspace:
        yield workspace


def test_the_public_names():
    assert catchment.__all__ == ["open"]
    public = {"run", "plan", "snapshot", "snapshots"}
    assert {n for n in dir(Catchment(None).tables) if not n.startswith("_")} == public


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_who_does_not_close_the_workspace_leaves_in_peace(sites, tmp_path, kind):
    toml = tmp_path / "catchment.toml"
    toml.write_text(toml.read_text().replace("threads", kind))
    lines = (
        "import catchment, sys",
        "workspace = catchment.open(sys.argv[1])",
        "print(workspace.tables.run().state)",
        "print(workspace.tables.snapshot()['uds'].to_arrow().num_rows)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["published", "3"], "")


def test_the_interface_of_the_readme(opened, sites):
    outcome = opened.tables.run()
    assert (outcome.state, outcome.snapshot) == ("published", 1)
    constants = outcome.details["constants"]
    model = naive(sites.sent(), People(), constants=constants)
    table = opened.tables.snapshot("latest")["uds"]
    assert table.to_arrow().to_pylist() == model.kept
    assert table.to_polars().to_dicts() == model.kept
    assert table.to_duckdb().to_arrow_table().to_pylist() == model.kept
    assert opened.tables.snapshot().account == outcome.account
    assert opened.tables.snapshot(1).verify() == []


def test_a_run_tells_of_its_progress_and_what_changed(opened, sites):
    events = []
    opened.tables.run(progress=events.append)
    assert {e.state for e in events} == {"start", "step", "done"}
    assert opened.tables.run().state == "unchanged"
    assert opened.tables.run("nacc", full=True).state == "unchanged"
    sites.add("beta", 20, visits(("NACC000003", 20, "2020-01-01", 4)))
    planned = opened.tables.plan(progress=events.append)
    assert (planned.state, planned.snapshot, planned.details["changed"]) == ("planned", 1, True)
    assert opened.tables.plan("nacc").details == planned.details
    assert opened.tables.run().snapshot == 2
    assert [s.number for s in opened.tables.snapshots()] == [2, 1]
    first = opened.tables.snapshot(1, name="nacc")
    assert first["uds"].to_arrow().column("value").to_pylist() == [1, 2, 3]


def test_names(opened, sites, tmp_path):
    assert list(opened.tables) == ["nacc"]
    with pytest.raises(NotFound):
        opened.tables.run("other")
    with pytest.raises(NotFound):
        opened.tables.snapshot()
    more = TOML + '[tables.b]\ncenters = "centers.json"\ndatasets = "sites/{center}"\n'
    (tmp_path / "catchment.toml").write_text(more)
    with catchment.open(tmp_path) as two:
        assert list(two.tables) == ["b", "nacc"]
        for ask in (two.tables.run, two.tables.plan, two.tables.snapshots, two.tables.snapshot):
            with pytest.raises(Invalid) as caught:
                ask()
            assert caught.value.kind == "which-aggregate"
        assert two.tables.run("b").location.startswith("tables/b/")


def test_settings_are_overridden_by_name(sites, tmp_path):
    with catchment.open(
        str(tmp_path / "catchment.toml"), tables__nacc__exclude_centers="beta"
    ) as one:
        assert one.tables.run().details["skipped"] == {"beta": "center-excluded"}
    with pytest.raises(Invalid):
        catchment.open(tmp_path, tables__nacc__nothing=True)


def test_the_nearest_workspace_is_opened(sites, tmp_path, monkeypatch):
    below = tmp_path / "some" / "where"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.delenv("CATCHMENT_WORKSPACE", raising=False)
    with catchment.open() as found:
        assert found.workspace.file == Path(tmp_path, "catchment.toml")
    with pytest.raises(NotFound) as caught:
        catchment.open(below)
    assert caught.value.kind == "no-workspace"


def test_a_closed_workspace_opens_again(opened):
    opened.tables.run()
    opened.close()
    assert opened.tables.snapshot().record.number == 1
    opened.close()


def test_to_import_it_costs_little():
    code = "import catchment, sys; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    heavy = {
        "pyarrow",
        "duckdb",
        "polars",
        "sqlalchemy",
        "pydantic",
        "obstore",
        "boto3",
        "typer",
        "numpy",
    }
    assert loaded & heavy == set()
