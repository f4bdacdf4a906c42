"""The examples are workspaces: each opens, and does what its README says as far as it can here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

from catchment.cli.main import COMMANDS, GROUPS, run
from catchment.core.capability import aggregates
from catchment.core.settings import Settings
from catchment.core.workspace import Workspace
from catchment.testing.postgres import postgres
from catchment.testing.s3 import moto

__all__ = ["moto", "postgres"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/catchment.toml"))


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """A copy of an example, as the current folder; calls of the program there give JSON."""

    def copied(name):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.delenv("CATCHMENT_WORKSPACE", raising=False)
        monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")
        return tmp_path / name

    return copied


@pytest.fixture
def call(capsys):
    def call(line):
        capsys.readouterr()
        code = run([*shlex.split(line), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, f"{line}: {out}{err}"
        return json.loads(out)

    return call


def test_all_of_them_are_listed():
    text = (EXAMPLES / "README.md").read_text("utf-8")
    assert re.findall(r"^\| \[([a-z-]+)\]\(\1\)", text, re.MULTILINE)
    assert set(re.findall(r"^\| \[([a-z-]+)\]", text, re.MULTILINE)) == set(FOLDERS)
    assert {"laptop", "aws", "flywheel-centers", "study-network", "claims"} < set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_opens_and_names_aggregates(name, example):
    example(name)
    with Workspace.open() as workspace:
        found = aggregates(workspace)
        assert found
        assert workspace.settings.workspace.name != "catchment"


@pytest.mark.parametrize("name", FOLDERS)
def test_each_command_of_a_readme_is_one(name):
    """Commands, groups and options are those of the program."""
    from typer.main import get_command

    from catchment.cli.main import app

    root = get_command(app)
    text = (EXAMPLES / name / "README.md").read_text("utf-8")
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    called = [
        shlex.split(line, comments=True)[1:] for line in lines if line.startswith("catchment ")
    ]
    for words in called:
        assert words[0] in {*COMMANDS, *GROUPS}, words
        command = root.get_command(None, words[0])
        if words[0] in GROUPS:
            command = command.commands[words[1]]
        known = {option for one in command.params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_a_laptop(example, call):
    from catchment.testing.centers import make_centers

    folder = example("laptop")
    make_centers(folder / "sample", centers=3, columns=8, rows=(20, 30), broken=0)
    shutil.copy(folder / "sample" / "identifiers.csv", folder)
    shutil.copytree(folder / "sample" / "datasets", folder / "sites")
    (done,) = call("run")
    assert done["state"] == "published"
    assert done["details"]["skipped"] == {}
    assert call("verify") == {"tables/main": []}
    (again,) = call("run")
    assert again["state"] == "unchanged"


def test_claims_from_files(example, call):
    folder = example("claims")
    text = (folder / "README.md").read_text("utf-8")
    (folder / "records").mkdir()
    written = re.findall(r"printf '(.*)\\n' > (records/\S+)", text)
    assert len(written) == 2
    for line, path in written:
        (folder / path).write_text(line + "\n")
    done = call("exports run files")
    assert [output["count"] for output in done["details"]["outputs"]] == [2]
    assert call("exports verify files")["wrong"] == []


def test_an_imaging_feed(example, call, monkeypatch):
    from catchment.testing.dicom import make_file

    folder = example("imaging-feed")
    monkeypatch.setenv("CATCHMENT_IMAGING__FEED__KEY", "a key of tests, for pseudonyms")
    monkeypatch.setenv("CATCHMENT_DEIDENTIFY__RESEARCH__KEY", "a key of tests, for the profile")
    for provider in ("north", "south"):
        path = folder / "inbox" / provider
        path.mkdir(parents=True)
        path.joinpath("one.dcm").write_bytes(make_file(f"1.2.3.{len(provider)}", patient=provider))
    done = call("imaging run feed")
    assert done["state"] == "published"
    assert call("imaging verify feed")["wrong"] == []


def test_an_eeg_laboratory(example, call):
    from catchment.testing.workspaces import make_recordings

    folder = example("eeg-lab")
    make_recordings(folder / "recordings", 2, 20)
    (planned,) = call("run arrays/eeg --dry-run")
    assert planned["state"] == "planned"
    (done,) = call("run arrays/eeg")
    assert done["state"] == "published"
    assert call("verify") == {"arrays/eeg": []}


def test_a_network_of_studies(example, call):
    from catchment.studies import library
    from catchment.testing.studies import make_uploads

    folder = example("study-network")
    call("site add boston --user anna")
    with Workspace.open() as workspace:
        for site, path in make_uploads(folder / "uploads", ["boston", "denver"]).items():
            key = f"upload_staging/core/{site}/000/{path.name}"
            workspace.store.put(key, path.read_bytes())
            library.submit(workspace, site, "core", 0, path.name, key, "anna", f"tx-{site}")
    entries = {entry["aggregate"]: entry for entry in call("status")}
    assert entries["studies/core"]["snapshot"]["number"] >= 1
    assert call("verify")["studies/core"] == []


def test_centers_of_flywheel(example):
    from catchment.tables.centers import read_centers, select_centers
    from catchment.tables.criteria import read_criteria
    from catchment.tables.model import Options

    folder = example("flywheel-centers")
    centers, faults = read_centers((folder / "centers.json").read_bytes(), "centers.json")
    (text,) = tomllib.loads((folder / "catchment.toml").read_text())["tables"]["main"][
        "exclude_studies"
    ]
    taken, left = select_centers(centers, Options(exclude_studies=frozenset({text})))
    assert [center.id for center in taken] == ["center00", "center01", "center02"]
    assert [(finding.site, finding.code) for finding in left] == [
        ("center01-leads", "study-excluded")
    ]
    assert faults == []
    assert read_criteria((folder / "criteria.json").read_bytes(), "criteria.json")


def test_aws_on_a_server_of_s3_and_postgresql(example, call, moto, postgres, monkeypatch):
    """The settings as they are, with other services in the places of AWS."""
    from catchment.core.store import open_store
    from catchment.testing.centers import make_centers

    folder = example("aws")
    bucket = moto.store().url.rstrip("/")
    options = moto.options
    text = (folder / "catchment.toml").read_text("utf-8")
    text = text.replace("s3://example-catchment", bucket).replace(
        "s3://example-centers", f"{bucket}/c"
    )
    text = re.sub(r"\[lineage\]\nurl = .*\n", '[lineage]\nfile = "lineage.ndjson"\n', text)
    text = re.sub(r"\[s3\]\nregion = .*\n", "", text)
    (folder / "catchment.toml").write_text(text)
    for key, value in options.items():
        monkeypatch.setenv(f"CATCHMENT_S3__{key.upper()}", value)
    monkeypatch.setenv("CATCHMENT_WORKSPACE__LEDGER", postgres.database())
    made = make_centers(
        folder / "sites", datasets=f"{bucket}/c", centers=3, columns=8, rows=(20, 30), broken=0,
        options=options,
    )  # fmt: skip
    for path in (made.centers, made.identifiers):
        open_store(bucket, **options).put(f"settings/{path.name}", path.read_bytes())
    (done, *_) = call("run tables/main")
    assert done["state"] == "published"
    assert done["store"].startswith(bucket)
    assert call("verify tables/main") == {"tables/main": []}
    kinds = [
        json.loads(line)["eventType"]
        for line in (folder / "lineage.ndjson").read_text().splitlines()
    ]
    assert kinds == ["START", "COMPLETE"]


def test_the_container_the_compose_file_and_the_chart():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    container = (EXAMPLES / "aws" / "Containerfile").read_text("utf-8")
    assert set(re.search(r"whl\)\[([a-z0-9,]+)\]", container)[1].split(",")) <= set(extras)
    for path in re.findall(r"^COPY (?!dist)(\S+) /etc", container, re.MULTILINE):
        assert (ROOT / path).is_file()
    command = json.loads(re.search(r"^CMD (\[.*\])$", container, re.MULTILINE)[1])
    from typer.main import get_command

    from catchment.cli.main import app

    known = {o for p in get_command(app).get_command(None, command[0]).params for o in p.opts}
    assert {word for word in command if word.startswith("--")} <= known
    services = yaml.safe_load((EXAMPLES / "aws" / "compose.yaml").read_text("utf-8"))["services"]
    assert {"storage", "database", "serve", "run"} <= set(services)
    for name in ("serve", "run"):
        for variable in services[name]["environment"]:
            if variable.startswith("CATCHMENT_"):
                section, _, key = variable.removeprefix("CATCHMENT_").lower().partition("__")
                kind = Settings.model_fields[section].annotation
                assert key in kind.model_fields, variable
    chart = EXAMPLES / "aws" / "chart"
    values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
    Settings.model_validate(tomllib.loads(values["settings"]))
    template = (chart / "templates" / "catchment.yaml").read_text("utf-8")
    used = set(re.findall(r"\.Values\.(\w+)", template))
    assert used == set(values)
    rendered = template.replace("{{ .Values.settings | indent 4 }}", "    x")
    rendered = re.sub(r"\{\{ toJson [^}]*\}\}", "{}", rendered)
    rendered = re.sub(r"\{\{[^}]*\}\}", "v", rendered)
    kinds = [document["kind"] for document in yaml.safe_load_all(rendered)]
    assert kinds == ["ConfigMap", "Service", "Deployment", "CronJob"]
