"""What holds for the whole tree: what may stand in it, and what it may promise."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import catchment

ROOT = Path(__file__).parents[2]
PYPROJECT = ROOT / "pyproject.toml"
# The names that others may build on; one more is a promise, one less breaks somebody.
PUBLIC = ["open"]
MACHINE_PATHS = re.compile(r"/(?:root|work|home|Users)/\w")
PACKAGE_HOSTS = re.compile(r"pythonhosted|pypi\.org|/simple/|index-url|\bartifactory\b")


def tracked() -> list[Path]:
    """Text files that are in the repository, or would be with `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_package_host():
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE_PATHS, PACKAGE_HOSTS):
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_no_lock_file_is_kept():
    names = {path.name for path in tracked()}
    assert not names & {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock"}


def test_constraints_pin_versions_and_name_no_place():
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?==[0-9][\w.!+]*( ; .+)?", line), line


def test_every_dependency_is_pinned():
    pinned = re.findall(r"^([a-z0-9-]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra, names in project["project"]["optional-dependencies"].items():
        wanted += names if extra != "all" else []
    assert {re.match(r"[a-z0-9-]+", name)[0] for name in wanted} <= set(pinned)


def test_all_means_all():
    extras = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")
    assert set(re.findall(r"[\w-]+", everything.partition("[")[2])) == set(extras)


def test_every_exception_to_a_rule_has_its_reason():
    """Ignored rules of style, ignored warnings, untyped libraries, imports that are let through."""
    text = PYPROJECT.read_text("utf-8")
    ruff = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.pydocstyle]")]
    for line in ruff.splitlines():
        if re.match(r'\s+"[A-Z]+\d*",', line):
            assert re.search(r"# \S.{8,}", line), line
    warnings = re.search(r"filterwarnings = \[\n(.*?)\n\]", text, re.DOTALL)[1].splitlines()
    assert warnings[0].strip() == '"error",'
    for above, line in pairwise(warnings):
        if '"ignore' in line:
            assert "#" in above or '"ignore' in above, line


def test_every_noqa_and_type_ignore_names_its_rule():
    for path in (ROOT / "src").rglob("*.py"):
        for line in path.read_text("utf-8").splitlines():
            assert not re.search(r"# noqa(?!: [A-Z]+\d)", line), f"{path.name}: {line}"
            assert not re.search(r"# type: ignore(?!\[)", line), f"{path.name}: {line}"


def test_the_public_names_are_these():
    assert sorted(catchment.__all__) == PUBLIC


def test_no_file_has_grown_past_a_noun():
    """Contract suites may be long: they are lists of cases."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "src").rglob("*.py")
        if "testing" not in path.parts
        and (lines := len(path.read_text("utf-8").splitlines())) > 420
    }
    assert long == {}


def test_the_scripts_are_plain_shell():
    for script in ("tools/bootstrap", "tools/gate", ".ci/run"):
        path = ROOT / script
        assert path.stat().st_mode & 0o111, f"{script} is not executable"
        subprocess.run(["sh", "-n", path], check=True)


def test_recorded_benchmarks_have_one_form():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        result = json.loads(path.read_text("utf-8"))
        assert set(result) == {"name", "date", "machine", "rows"}
        assert result["name"] == path.stem
        for row in result["rows"]:
            assert set(row) == {"work", "ours_s", "peers", "ratio", "peak_mb", "cpu_s"}
