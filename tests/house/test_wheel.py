"""What is handed out: a wheel and a source archive, and an install of the wheel without extras."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("boto3", "pydicom", "zarr", "fastapi", "dagster", "psycopg", "argon2", "dask", "xarray")

# Tests that touch every capability, the ledger, the commands and the pages.
AGAINST = (
    "tests/golden", "tests/core/test_settings.py", "tests/core/test_workspace.py", "tests/cli/test_main.py",
    "tests/cli/test_workspace.py", "tests/cli/test_tables.py", "tests/cli/test_exports.py",
    "tests/cli/test_studies.py", "tests/web/test_pages_roles.py",
)  # fmt: skip

# Run in the fresh environment, in an empty folder: tables and exports from end to end.
WORK = """
import json, pathlib, subprocess, sys
from catchment.testing.centers import make_centers

make_centers("sites", centers=3, columns=6, rows=(20, 30), broken=0)
pathlib.Path("records").mkdir()
pathlib.Path("records/a.ndjson").write_text('{"resourceType":"Patient","id":"1"}\\n')
pathlib.Path("catchment.toml").write_text('''
[tables.main]
centers = "sites/centers.json"
datasets = "sites/datasets/{center}"
identifiers = "sites/identifiers.csv"

[exports.patients]
contract = "Z1"
files = "records"
type = "Patient"
''')
import catchment
print(catchment.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    uv = shutil.which("uv") or ROOT / ".venv-tools" / "bin" / "uv"
    if not Path(uv).exists():
        pytest.skip("uv is not there; tools/bootstrap gets it")
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "site", "dist", "results")
    shutil.copytree(ROOT, source, ignore=ignored)
    done = subprocess.run(
        [uv, "build", "--quiet", "--out-dir", folder, source],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode and "resolve" in done.stderr:
        pytest.skip(f"the package index cannot be reached: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    return uv, wheel, archive


@pytest.mark.soak
def test_the_wheel_holds_all_that_the_program_reads(built):
    _, wheel, archive = built
    held = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    for path in (source / "catchment").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(source).as_posix() in held
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "src/catchment/api.py"} <= names
    assert not any(name.startswith("bench/results") for name in names)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_an_install_without_extras_makes_tables_and_exports(built, tmp_path):
    uv, wheel, _ = built
    fresh = tmp_path / "fresh"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, fresh], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", fresh / "bin" / "python"]
    pins = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*install, *pins, wheel], check=True, timeout=300)
    place = tmp_path / "place"
    place.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTHON"))}

    def call(*words, code=0):
        done = subprocess.run(
            words, cwd=place, env=environment, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    program, python = fresh / "bin" / "catchment", fresh / "bin" / "python"
    assert "fresh" in call(python, "-c", WORK)
    for name in EXTRAS:
        call(python, "-c", f"import {name}", code=1)
    assert "tables" in call(program, "--help")
    call(program, "run", "tables/main")
    call(program, "tables", "show", "main")
    call(program, "tables", "verify", "main")
    call(program, "exports", "run", "patients")
    call(program, "exports", "verify", "patients")
    call(program, "status")
    call(program, "doctor")
    call(program, "verify")
    call(program, "crate", "tables/main", "crate")
    call(program, "lineage")
    # What needs an extra says which.
    assert "catchment[web]" in call(program, "serve", code=2)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_tests_run_against_the_wheel(built, tmp_path):
    """Migrations, pages and templates among them; the sources are out of reach."""
    _, wheel, _ = built
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "wheel")
    shutil.copytree(
        ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTHON"))}
    environment["PYTHONPATH"] = os.pathsep.join([f"{tmp_path}/wheel", str(tmp_path)])

    def call(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False, timeout=800,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        return done.stdout

    where = call("-c", "import catchment; print(catchment.__file__)")
    assert where.startswith(f"{tmp_path}/wheel/")
    told = call("-m", "pytest", "-q", "-p", "no:cacheprovider", *AGAINST)
    assert int(told.split(" passed")[0].split()[-1]) > 150, told
