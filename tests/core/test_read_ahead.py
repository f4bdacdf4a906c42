"""A hint: it may be taken or not, and never hurts."""

import os
import threading

import pytest

from catchment.core import read_ahead as module
from catchment.core.errors import Unavailable
from catchment.core.read_ahead import read_ahead
from catchment.core.store import open_store
from catchment.testing.faults import Faults, inject


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path.as_uri())
    store.put("a", bytes(10))
    store.put("b", bytes(1000))
    return store


@pytest.fixture
def hinted(monkeypatch):
    """What the kernel was told: start, length."""
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, size, how: told.append((start, size)))
    return told


def wait():
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join()


def test_files_are_read_from_their_start(store, hinted, monkeypatch):
    monkeypatch.setattr(module, "_STEP", 400)
    read_ahead(store, ["a", "b", "missing"])
    wait()
    assert hinted == [(0, 400), (0, 400), (400, 400), (800, 400)]


def test_there_is_an_end_to_it(store, hinted, monkeypatch):
    monkeypatch.setattr(module, "_STEP", 400)
    monkeypatch.setattr(module, "AHEAD", 500)
    read_ahead(store, ["b", "a"])
    wait()
    assert hinted == [(0, 400), (400, 400)]


def test_what_cannot_be_had_is_left_out(store, hinted, tmp_path):
    read_ahead(open_store("memory://ahead"), ["a"])
    read_ahead(inject(store, Faults(fail_at=1, error=Unavailable("gone", kind="x"))), ["a"])
    read_ahead(store, [])
    wait()
    assert not hinted


def test_a_file_that_goes_meanwhile(store, hinted, tmp_path, monkeypatch):
    monkeypatch.setattr(type(store), "path", lambda _, key: tmp_path / key)
    read_ahead(store, ["gone", "a"])
    wait()
    assert len(hinted) == 1


def test_no_thread_can_be_started(store, hinted, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    read_ahead(store, ["a"])
    assert not hinted


def test_another_platform(store, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    read_ahead(store, ["a"])
    wait()
