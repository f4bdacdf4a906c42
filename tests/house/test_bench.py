"""The frame of the benchmarks measures what it says."""

from __future__ import annotations

import json
import time

import pytest

from bench import _common
from bench._common import Failed, Measured, Row, machine, measure, report, timed

GRANDCHILD = """
import subprocess, sys
code = "import time; b = b'x' * (150 << 20); t = time.process_time()\\n"
code += "while time.process_time() - t < 0.3: pass\\ntime.sleep(1)"
subprocess.run([sys.executable, "-c", code], check=True)
"""


@pytest.fixture(autouse=True)
def touch_little(monkeypatch):
    """Nothing here is so quick that new memory would tell."""
    monkeypatch.setattr(_common, "TOUCHED", 1 << 20)


def test_time_is_that_of_the_call():
    measured = measure(time.sleep, 0.3)
    assert 0.3 <= measured.seconds < 1.5  # not the start of the process


def prepared() -> None:
    time.sleep(1.5)
    with timed():
        time.sleep(0.1)


def test_preparation_can_be_left_out():
    assert 0.1 <= measure(prepared).seconds < 1.4


def test_memory_and_cpu_are_those_of_the_whole_tree():
    measured = measure(exec, GRANDCHILD)
    assert 150 < measured.peak_mb < 600
    assert 0.3 < measured.cpu_s < 30


def test_the_median_run_counts_and_each_begins_afresh():
    calls = []
    measured = measure(time.sleep, 0.01, runs=3, before=lambda: calls.append(1))
    assert (len(calls), measured.seconds < 1) == (3, True)


def test_work_that_fails_is_an_error():
    with pytest.raises(Failed, match="exec failed: died"):
        measure(exec, "import os; os._exit(1)")
    with pytest.raises(Failed, match="exec failed: ZeroDivisionError: division by zero"):
        measure(exec, "1 / 0")


def test_work_that_takes_too_much_is_ended():
    with pytest.raises(Failed, match="failed: more than 1 s"):
        measure(time.sleep, 60, most_s=1)
    with pytest.raises(Failed, match="failed: more than 100 MB"):
        measure(exec, "import time; b = b'x' * (150 << 20); time.sleep(60)", most_mb=100)


def test_a_report_is_printed_and_recorded(tmp_path, capsys):
    ours, peer = Measured(0.5, 123.44, 0.777), Measured(2.0, 10, 3)
    rows = [Row("first", ours, {"cat": peer}), Row("second", ours, {"other": ours, "cat": None})]
    report("sample", rows, tmp_path)
    text = capsys.readouterr().out
    assert "4.00x cat" in text
    assert "2.00 (10)" in text
    assert "failed" in text
    result = json.loads((tmp_path / "sample.json").read_text())
    assert list(result) == ["name", "date", "machine", "rows"]
    assert result["rows"][0] == {
        "work": "first",
        "ours_s": 0.5,
        "peers": {"cat": 2.0},
        "ratio": {"cat": 4.0},
        "peak_mb": 123.4,
        "cpu_s": 0.78,
    }

    assert result["rows"][1]["peers"] == {"other": 0.5, "cat": None}
    assert result["rows"][1]["ratio"] == {"other": 1.0, "cat": None}


def test_the_machine_has_no_name():
    import socket

    assert "cores" in machine()
    assert socket.gethostname() not in machine()
