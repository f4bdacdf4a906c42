"""The fuzzers run: for seconds here, for an hour in soak; a fault of any day stays mended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS, TARGETS

ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).with_name("found")  # inputs that once did harm


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_seeds_and_what_was_found_do_no_harm(name):
    found = sorted(FOUND.glob(f"{name}-*"))
    for data in [*SEEDS[name](), *(path.read_bytes() for path in found)]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_short_run_finds_nothing(name, tmp_path):
    fuzz(name, 2, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_quarter_of_an_hour_finds_nothing(name, tmp_path):
    for _ in range(9):  # each goes on with what the one before found
        fuzz(name, 100, tmp_path)


def fuzz(name: str, seconds: int, folder: Path) -> None:
    pytest.importorskip("atheris", reason="there is no wheel of atheris for this system")
    # Coverage of the child is the fuzzer's own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    environment |= {"FUZZ_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, str(seconds)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=seconds + 120,
    )  # fmt: skip
    left = {path.name: path.read_bytes() for path in folder.glob(f"{name}-*")}
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{left}"
    told = dict(
        line.rsplit(":", 1) for line in done.stderr.splitlines() if line.startswith("stat::")
    )
    assert int(told["stat::number_of_executed_units"]) > 100
