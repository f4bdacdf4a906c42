"""The command line, called in this process, and workspaces for it."""

from __future__ import annotations

import json
import logging

import pytest

from catchment.cli.main import run


class Called:
    """What a call of the program left: exit code, text, and JSON where it printed some."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def catchment(capsys, monkeypatch, tmp_path):
    """Calls ``catchment`` with arguments; starts in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CATCHMENT_WORKSPACE", raising=False)
    monkeypatch.delenv("CATCHMENT_DEBUG", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    handlers, level = logging.root.handlers[:], logging.root.level

    def call(*arguments: str) -> Called:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Called(code, *capsys.readouterr())

    yield call
    logging.root.handlers[:], logging.root.level = handlers, level
