"""The whole house under damage: a cut of the soak, and the soak itself.

A seed that fails prints the command that plays it again: ``python -m tests.trust.soak --seed 17``.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.trust.soak import Mother, Soak, running

PARTS = pytest.mark.parametrize("parts", ["embedded", "production"])
MINUTES = float(os.environ.get("CATCHMENT_SOAK_MINUTES", "40"))  # of each of the two
FIRST = int(os.environ.get("CATCHMENT_SOAK_SEED", "1000"))
# Kills and faults a minute, at least; together 2,000. Servers are slower to damage.
ENOUGH = {"embedded": 40, "production": 12}


@pytest.fixture
def servers(parts, tmp_path, request):
    """What a workspace stands on."""
    if parts == "production":
        request.getfixturevalue("postgres")  # skips where there is no server
    with running(parts, tmp_path / "servers") as made:
        yield made


@PARTS
def test_a_cut_of_the_soak(parts, servers, template, mother, tmp_path):
    """A few steps of one seed."""
    steps = 25 if parts == "embedded" else 12
    tally = Soak(7, mother, template, tmp_path / "seed", servers).run(steps)
    assert tally.steps == steps
    assert tally.damage >= steps // 2
    assert tally.outcomes["published"] >= 5
    assert tally.looks >= steps


@pytest.mark.soak
@pytest.mark.timeout(7200)
@PARTS
def test_the_soak(parts, servers, template, tmp_path):
    """Seed after seed for its time; what happened is appended to the file that is named."""
    begun, damage, outcomes = time.monotonic(), 0, Counter[str]()
    record = os.environ.get("CATCHMENT_SOAK_RECORD")
    with Mother(tmp_path / "children") as mother:
        seed = FIRST
        while time.monotonic() - begun < 60 * MINUTES:
            tally = Soak(seed, mother, template, tmp_path / f"seed{seed}", servers).run(60)
            damage += tally.damage
            outcomes += tally.outcomes
            if record:
                with Path(record).open("a") as file:
                    file.write(json.dumps({"parts": parts, **tally.to_json()}) + "\n")
            seed += 1
    assert damage >= ENOUGH[parts] * MINUTES, outcomes
