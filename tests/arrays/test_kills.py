"""kill -9 at random instants, and many writers at once: each session once, and whole."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import numpy as np
import pytest
import xarray as xr

from catchment.arrays import api, layout, read
from catchment.arrays.generations import drop_former, rechunk
from catchment.arrays.stack import Stack
from catchment.arrays.verify import verify
from catchment.core.errors import NotFound
from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same
from tests.forking import CONTEXT

QUICK, SOAK = 10, 200
WRITERS, SESSIONS = 4, (3, pytest.param(8, marks=pytest.mark.soak))


def session(number):
    """Ragged; made anew wherever it is needed."""
    return make_session(f"s{number:03}", windows=3 + number % 5, channels=2, samples=20)


def stack_of(url, ledger, options=None):
    return Stack(open_store(url, **(options or {})), ledger, "arrays/x", lease=timedelta(seconds=1))


def work(url, ledger_url, numbers):
    """Append sessions, as one command after the other would."""
    with Ledger.open(ledger_url) as ledger:
        for number in numbers:
            assert not api.append(session(number), stack_of(url, ledger)).refused


def looks(folder):
    """What anybody sees at this instant; each session that is shown is whole."""
    if not (folder / layout.ROOT).exists():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xr.open_zarr(folder, chunks=None).load()
        names = found["session"].values.tolist()
        for name in names:
            if not name.startswith("~"):
                one = found.sel(session=name)
                one = one.isel(time=slice(int(one["n_windows"])))
                assert same(one.load(), session(int(name[1:]))), name
    return [name for name in names if not name.startswith("~")]


def killed(target, arguments, seconds):
    """Run in a child; whether it was killed before it ended. Its exit code must say all else."""
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    child.join(seconds)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        return True
    assert child.exitcode == 0, "it failed, and not of our doing"
    return False


def undisturbed(target, arguments):
    """How many seconds it takes: kills are to meet it at work, on a slow machine or a quick one."""
    begun = time.monotonic()
    assert not killed(target, arguments, None)
    return time.monotonic() - begun


def kill_writers(tmp_path, kills, seed):
    chance = random.Random(seed)
    folder, ledger_url = tmp_path / "x.zarr", f"sqlite:///{tmp_path}/ledger.db"
    killed(work, (folder.as_uri(), ledger_url, ()), None)  # the fork server is up
    span = undisturbed(work, (folder.as_uri(), ledger_url, range(6)))
    done, total, seen = 0, 12, looks(folder)
    while done < kills:
        numbers = list(range(total))
        if chance.random() < 0.3:
            chance.shuffle(numbers)
        begun = time.monotonic()
        dead = killed(work, (folder.as_uri(), ledger_url, numbers), chance.uniform(0.01, span))
        done += dead
        if not dead:  # the machine has become quicker
            span = min(span, time.monotonic() - begun)
        now = looks(folder)
        assert now[: len(seen)] == seen  # what was shown stays, in its order
        assert len(set(now)) == len(now)
        seen = now
        total = len(now) + 6
    assert not killed(work, (folder.as_uri(), ledger_url, range(total)), None)
    assert sorted(looks(folder)) == [f"s{number:03}" for number in range(total)]
    with Ledger.open(ledger_url) as ledger:
        assert verify(stack_of(folder.as_uri(), ledger)).wrong == []


def test_killed_writers(tmp_path):
    kill_writers(tmp_path, QUICK, 1)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [11, 12])
def test_many_killed_writers(tmp_path, seed):
    kill_writers(tmp_path, SOAK, seed)


def send(url, ledger_url, options, numbers):
    """Each session twice, as an acknowledgement that was lost makes one do."""
    with Ledger.open(ledger_url) as ledger:
        for number in numbers:
            for _ in range(2):
                outcome = api.append(session(number), stack_of(url, ledger, options))
                assert not outcome.refused


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sessions", SESSIONS)
@pytest.mark.parametrize("where", ["local", "s3"])
def test_writers_at_once(tmp_path, request, where, sessions):
    if where == "s3":
        server = request.getfixturevalue("moto")
        url, options = server.store().url, server.options
    else:
        url, options = (tmp_path / "x.zarr").as_uri(), {}
    ledger_url = f"sqlite:///{tmp_path}/ledger.db"
    share = [range(w * sessions, (w + 1) * sessions) for w in range(WRITERS)]
    children = [
        CONTEXT.Process(target=send, args=(url, ledger_url, options, numbers)) for numbers in share
    ]
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        if where == "local":
            looks(tmp_path / "x.zarr")
        time.sleep(0.2)
    for child in children:
        child.join()
        assert child.exitcode == 0
    stack = stack_of(url, None, options)
    verdict = verify(stack)
    assert (verdict.wrong, verdict.sessions) == ([], WRITERS * sessions)
    present = Counter(e.row.session for e in read.entries(stack.store)[1])
    assert present == Counter(f"s{number:03}" for number in range(WRITERS * sessions))


def test_writers_that_share_no_ledger(tmp_path):
    """Commits alone keep them apart: slots that lost are given up, no session is lost or doubled."""
    url = (tmp_path / "x.zarr").as_uri()
    children = [
        CONTEXT.Process(target=send, args=(url, f"sqlite:///{tmp_path}/{w}.db", {}, range(4)))
        for w in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    verdict = verify(stack_of(url, None))
    assert (verdict.wrong, verdict.sessions) == ([], 4)
    assert sorted(looks(tmp_path / "x.zarr")) == [f"s{number:03}" for number in range(4)]


def other_chunks(url, ledger_url, size):
    """Rechunk, and drop the former chunks, as two commands would."""
    with Ledger.open(ledger_url) as ledger:
        rechunk(stack_of(url, ledger), {"time": size})
        drop_former(stack_of(url, ledger))


def kill_rechunks(tmp_path, kills, seed):
    """Under every kill plain readers see all sessions, in the former chunks or in the new ones."""
    chance = random.Random(seed)
    folder, ledger_url = tmp_path / "x.zarr", f"sqlite:///{tmp_path}/ledger.db"
    work(folder.as_uri(), ledger_url, range(12))
    expected, done, size = looks(folder), 0, 2
    killed(work, (folder.as_uri(), ledger_url, ()), None)  # the fork server is up
    span = undisturbed(other_chunks, (folder.as_uri(), ledger_url, size))
    while done < kills:
        size = 5 - size
        arguments = folder.as_uri(), ledger_url, size
        # After the last kill it may take its time: a slow machine would be killed for ever.
        while killed(other_chunks, arguments, chance.uniform(0.01, span) if done < kills else None):
            done += 1
            assert looks(folder) == expected
        assert looks(folder) == expected
        assert xr.open_zarr(folder, chunks=None)["eeg"].encoding["chunks"][1] == size
    with Ledger.open(ledger_url) as ledger:
        assert verify(stack_of(folder.as_uri(), ledger)).wrong == []


def test_killed_rechunks(tmp_path):
    kill_rechunks(tmp_path, 6, 3)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_many_killed_rechunks(tmp_path):
    kill_rechunks(tmp_path, 100, 4)


def stretch(number, name=None, size=5):
    """Positions of a long recording; what is in them says whose they are."""
    values = np.full((size, 2), number, dtype="float32")
    name = name or f"p{number}"
    return xr.Dataset({"eeg": (("time", "channel"), values)}, attrs={"session_id": name})


def along(url, ledger_url, verbs):
    """Append, replace and withdraw along positions, as one command after the other would."""
    with Ledger.open(ledger_url) as ledger:
        for verb, number in verbs:
            stack = stack_of(url, ledger)
            if verb == "withdraw":
                with suppress(NotFound):  # it was withdrawn before a kill
                    stack.withdraw(f"p{number}")
                continue
            new = stretch(number + 1000, f"p{number}", 7) if verb == "replace" else stretch(number)
            outcome = api.append(
                new, stack, append_dim="time", chunks={"time": 4}, on_conflict="replace"
            )
            assert not outcome.refused


def kill_positions(tmp_path, kills, seed):
    """Whatever is killed, plain readers see the state before a verb or after it, and no other."""
    chance = random.Random(seed)
    folder, ledger_url = tmp_path / "x.zarr", f"sqlite:///{tmp_path}/ledger.db"
    done, following, now = 0, 0, ()  # now: whose positions stand there, in their order

    def seen():
        if not (folder / layout.ROOT).exists():
            return ()
        values = xr.open_zarr(folder, chunks=None)["eeg"].values
        assert (values[:, 0] == values[:, 1]).all()
        numbers = values[:, 0].astype(int).tolist()
        found = tuple(dict.fromkeys(numbers))
        assert numbers == [n for n in found for _ in range(7 if n >= 1000 else 5)]
        return found

    while done < kills:
        verbs, states = [], [now]
        for _ in range(5):
            last, verb = states[-1], chance.choice(["append", "append", "replace", "withdraw"])
            old = chance.choice(last) if last else None
            if old is None or verb == "append" or (verb == "replace" and old >= 1000):
                verbs.append(("append", following))
                states.append((*last, following))
                following += 1
            elif verb == "replace":
                verbs.append((verb, old))
                states.append(tuple(n + 1000 if n == old else n for n in last))
            else:
                verbs.append((verb, old % 1000))
                states.append(tuple(n for n in last if n != old))
        while True:
            arguments = folder.as_uri(), ledger_url, verbs
            # After the last kill it may take its time: a slow machine would be killed for ever.
            most = chance.uniform(0.01, 0.9) if done < kills else None
            interrupted = killed(along, arguments, most)
            done += interrupted
            now = seen()
            assert now in states
            at = states.index(now)
            verbs, states = verbs[at:], states[at:]
            if not interrupted:
                break
        assert now == states[-1]
    with Ledger.open(ledger_url) as ledger:
        assert verify(stack_of(folder.as_uri(), ledger)).wrong == []


def test_killed_along_positions(tmp_path):
    kill_positions(tmp_path, 6, 5)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [6, 12])
def test_many_killed_along_positions(tmp_path, seed):
    kill_positions(tmp_path, 100, seed)
