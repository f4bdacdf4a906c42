"""A trial of the benchmark of charts."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from bench import studies_charts


def test_charts_are_asked_of_a_cube_of_sites(tmp_path):
    path = studies_charts.prepare(tmp_path, 3000)
    studies_charts.charts(path)
    told = json.loads((tmp_path / studies_charts.MIDDLE).read_text())
    table = pq.read_table(path)
    assert told["rows"] == table.num_rows > 3000
    assert table.column_names[-1] == "site"
    assert 0 < told["median"] <= told["most"]
    assert told["peak_mb"] > 1


def test_requests_are_answered_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(studies_charts, "ASKED", 16)
    studies_charts.requests(tmp_path / "workspace")
