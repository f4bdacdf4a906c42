"""Sessions as recordings give them, made from a seed: EEG and fNIRS windows on one clock."""

from __future__ import annotations

import numpy as np
import xarray as xr

EPOCH = np.datetime64("2026-03-01T08:00:00.000")
WINDOW_MS = 210


def make_session(
    name: str,
    *,
    seed: int = 0,
    windows: int = 20,
    channels: int = 3,
    samples: int = 10,
    optodes: int = 4,
) -> xr.Dataset:
    """One session: the same arguments give the same values, which compress as recordings do."""
    random = np.random.default_rng([seed, *name.encode()])
    eeg = (random.standard_normal((windows, channels, samples)) * 30).round(1)
    fnirs = random.standard_normal((windows, optodes)).round(3)
    return xr.Dataset(
        {
            "eeg": (
                ("time", "channel", "sample"),
                eeg.astype("float32"),
                {"units": "uV", "sampling_rate_hz": samples * 1000 / WINDOW_MS},
            ),
            "fnirs": (("time", "optode"), fnirs.astype("float32"), {"units": "1"}),
        },
        coords={
            "time": EPOCH + np.arange(windows) * np.timedelta64(WINDOW_MS, "ms"),
            "channel": [f"E{number}" for number in range(channels)],
            "optode": [f"S{number}" for number in range(optodes)],
        },
        attrs={"session_id": name},
    )


def same(found: xr.Dataset, expected: xr.Dataset) -> bool:
    """Whether a session, read without padding, has the values that were appended."""
    return all(
        np.array_equal(
            found[name].values,
            expected[name].values,
            equal_nan=expected[name].dtype.kind in "fc",
        )
        for name in expected.data_vars
    )
