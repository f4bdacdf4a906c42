"""Recordings for the benchmark of transforms, and the transform of all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench._common import timed

CHANNELS, RATE, OPTODES, MINUTES = 16, 250, 16, 10
MARCH = 1_772_352_000_000.0  # 2026-03-01 08:00 UTC, in ms


def make(folder: Path, count: int) -> float:
    """Recordings in the first system's HDF5 layout; how many seconds they last together."""
    import h5py
    import numpy as np

    folder.mkdir(parents=True)
    frames = MINUTES * 60 * 1000 // 60  # of EEG, 60 ms each
    samples = RATE * 60 // 1000
    random = np.random.default_rng(0)
    for number in range(count):
        with h5py.File(folder / f"r{number:03}.h5", "w") as file:
            device = file.create_group("devices/eeg")
            device["frames_data"] = random.standard_normal(
                (frames, CHANNELS, samples), dtype="float32"
            ) * np.float32(20)
            clock = MARCH + np.arange(frames) * 60.0
            device["timestamps"] = np.stack([clock * 0, clock, clock * 0], axis=1)
            light = MINUTES * 60 * 1000 // 210
            device = file.create_group("devices/fnirs")
            device["frames_data"] = random.random((light, OPTODES, 1), dtype="float32") + 1
            clock = MARCH + np.arange(light) * 210.0
            device["timestamps"] = np.stack([clock * 0, clock, clock * 0], axis=1)
    return count * MINUTES * 60.0


def transformed(folder: str, workers: int, count: int) -> None:
    """Transform all recordings; the workers have been started by a first run of two."""
    from catchment.arrays.transform.discovery import Choice, Naming
    from catchment.arrays.transform.job import House, Job
    from catchment.arrays.transform.run import run
    from catchment.core.executor import open_executor
    from catchment.core.ledger import Ledger
    from catchment.core.store import open_store

    source = open_store((Path(folder) / "recordings").as_uri())
    for name in ("warm", "all"):
        place = Path(folder) / f"{name}{workers}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    with open_executor("processes", workers) as executor:
        for name, choice in (("warm", Choice(most=2 * workers)), ("all", Choice())):
            place = Path(folder) / f"{name}{workers}"
            job = Job("x", "window", {}, source, "arrays/x/", Naming(b"k"), choice=choice)
            with Ledger.open(f"sqlite:///{place}/ledger.db") as ledger:
                house = House(open_store((place / "data").as_uri()), ledger, executor)
                if name == "warm":
                    run(job, house)
                    continue
                with timed():
                    report = run(job, house)
    kept = report.account.total("sessions").kept
    if kept != count:
        raise RuntimeError(f"expected {count} sessions, got {kept}")
