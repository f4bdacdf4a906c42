"""What the tests of golden workspaces share."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def call(capsys):
    """What a command tells of a workspace, as JSON."""
    from catchment.cli.main import run

    def call(folder, *words):
        capsys.readouterr()
        code = run([*words, "-w", str(folder), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, out + err
        return json.loads(out)

    return call
