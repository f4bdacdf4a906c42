"""Temporary folders: gone afterwards; those of killed processes with the next one."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from catchment.core import scratch
from catchment.core.errors import Unavailable
from catchment.core.scratch import PREFIX, scratch_folder, sweep

OWNER = """
import sys
from catchment.core.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "rows").write_text("of somebody")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._sweep_once.cache_clear()
    return tmp_path


def aged(folder):
    """As if it had been made some minutes ago."""
    os.utime(folder, (1e9, 1e9))


def test_a_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(place):
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", OWNER],
            env=os.environ | {"TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    dead, living = (place / owner.stdout.readline().strip() for owner in owners)
    try:
        for folder in (dead, living):
            aged(folder)
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait()
        assert sweep(dry_run=True) == 1
        assert (dead / "rows").exists()
        with scratch_folder():
            assert not dead.exists()
        assert (living / "rows").exists()
    finally:
        for owner in owners:
            owner.communicate()
    assert list(place.iterdir()) == []


def test_what_is_young_or_no_folder_stays(place):
    """It may be about to be locked; and the stack of a fault is a file with a like name."""
    young, log = place / f"{PREFIX}young", place / f"{PREFIX}20261122.log"
    young.mkdir()
    log.touch()
    aged(log)
    (place / f"{PREFIX}link").symlink_to(place)
    os.utime(place / f"{PREFIX}link", (1e9, 1e9), follow_symlinks=False)
    assert sweep() == 0
    assert (young.exists(), log.exists()) == (True, True)


def test_what_another_user_left_stays(place, monkeypatch):
    (place / f"{PREFIX}other").mkdir()
    aged(place / f"{PREFIX}other")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep() == 0


def test_the_folders_of_other_things_of_ours_stay(place):
    """Of a server that runs for tests, of an earlier version: nobody locks them."""
    for name in ("catchment-pg-x", "catchment-abc"):
        (place / name).mkdir()
        aged(place / name)
    assert sweep() == 0


def test_where_there_are_no_locks_it_works_and_nothing_is_taken_for_left(place, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with scratch_folder() as folder:
        aged(folder)
        assert (folder.exists(), sweep(), folder.exists()) == (True, 0, True)
    assert not folder.exists()


def test_where_there_can_be_no_folder(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(Unavailable) as caught, scratch_folder():
        pass
    assert (caught.value.kind, "TMPDIR" in caught.value.hint) == ("no-scratch-space", True)
