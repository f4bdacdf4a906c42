"""What an install without extras brings: no licence that binds whoever installs it; the audit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.test_documents import load_reference

ROOT = Path(__file__).parents[2]
GPL = re.compile(r"(?<!L)(?<!Lesser )A?GPL|(?<!Lesser )General Public", re.IGNORECASE)


def test_the_default_install_holds_no_gpl():
    found = load_reference().installed()
    assert {"pyarrow", "duckdb", "sqlalchemy", "typer", "certifi"} <= set(found)
    assert {"pydicom", "fastapi", "boto3", "dagster"}.isdisjoint(found)
    for name, (licence, _) in found.items():
        assert licence != "unknown", name
        assert not GPL.search(licence), f"{name}: {licence}"


@pytest.mark.parametrize(
    "text", ["GPL-3.0-only", "GNU General Public License v2", "AGPL-3.0", "MIT OR GPLv2"]
)
def test_a_gpl_would_be_found(text):
    assert GPL.search(text)
    assert not GPL.search("LGPL-3.0-only")


def audit(folder, script):
    """Run tools/audit beside a pip-audit of our own."""
    program = folder / "pip-audit"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "audit"], env=environment, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def test_the_audit_says_when_it_cannot_be_made(tmp_path):
    failed = audit(tmp_path, "echo no such host >&2; exit 1")
    assert failed.returncode == 3
    assert "no advisories could be had" in failed.stderr
    told = {"dependencies": [{"name": "a", "skip_reason": "not found on PyPI"}]}
    skipped = audit(tmp_path, f"echo '{json.dumps(told)}'")
    assert skipped.returncode == 3


def test_the_audit_names_what_is_known_to_be_faulty(tmp_path):
    bad = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
    good = {"name": "b", "version": "1", "vulns": []}
    found = audit(tmp_path, f"echo '{json.dumps({'dependencies': [bad, good]})}'; exit 1")
    assert found.returncode == 1
    assert "a 1: PYSEC-1, mended in 2" in found.stdout
    well = audit(tmp_path, f"echo '{json.dumps({'dependencies': [good]})}'")
    assert well.returncode == 0
    assert "1 packages, none with a known fault" in well.stdout
