"""A workspace with tables and an export, and its definitions."""

from __future__ import annotations

import pytest

from catchment.testing.centers import make_centers

pytest.importorskip("dagster")

SETTINGS = """
[executor]
kind = "threads"

[tables.main]
centers = "{centers}"
datasets = "{datasets}"
identifiers = "{identifiers}"

[exports.claims]
contract = "c1"
files = "claims"
"""


@pytest.fixture
def made(tmp_path):
    return make_centers(
        tmp_path / "sites", centers=3, columns=8, rows=(20, 40), drift_columns=0, broken=0
    )


@pytest.fixture
def workspace(tmp_path, made):
    """The folder of a workspace."""
    text = SETTINGS.format(
        centers=made.centers, datasets=made.datasets, identifiers=made.identifiers
    )
    (tmp_path / "catchment.toml").write_text(text)
    (tmp_path / "claims").mkdir()
    lines = [f'{{"resourceType": "ExplanationOfBenefit", "id": "{n}"}}\n' for n in range(5)]
    (tmp_path / "claims" / "a.ndjson").write_text("".join(lines))
    return tmp_path
