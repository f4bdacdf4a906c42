"""HDF5 as the first system's devices wrote it: frames of samples with three clocks each.

``devices/eeg/frames_data`` is (n, channel, sample), ``devices/fnirs/frames_data`` (n, channel, 1),
``timestamps`` beside them (n, 3), of which column 1 is the client's clock in ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from catchment.arrays.transform.model import Recording, Signal
from catchment.arrays.transform.readers import no_signal, unreadable

CLIENT_CLOCK = 1
MAX_VALUES = 1 << 28


def read(path: str, options: Mapping[str, Any]) -> Recording:
    """Both devices, each laid out as one signal on the client's clock."""
    import h5py

    with h5py.File(path) as file:
        devices = file.get("devices")
        if devices is None:
            raise unreadable("HDF5: no group devices")
        eeg = _device(devices, "eeg", "uV", options)
        fnirs = _device(devices, "fnirs", "1", options)
    firsts = [signal.times[0] for signal in (eeg, fnirs) if signal is not None]
    if not firsts:
        raise no_signal("no frames of eeg or fnirs")
    return Recording(eeg, fnirs, float(min(firsts)))


def _device(devices: Any, name: str, unit: str, options: Mapping[str, Any]) -> Signal | None:
    if name not in devices or "frames_data" not in devices[name]:
        return None
    device = devices[name]
    frames, stamps = device["frames_data"], device.get("timestamps")
    if frames.ndim != 3 or stamps is None or stamps.ndim != 2 or stamps.shape[1] <= CLIENT_CLOCK:
        raise unreadable(f"HDF5: devices/{name} is not (n, channel, sample) with timestamps (n, 3)")
    if frames.size > MAX_VALUES:
        raise unreadable(f"HDF5: {frames.size} values, expected at most {MAX_VALUES}")
    if not frames.size:
        return None
    values = np.asarray(frames[()], "float64")
    clock = np.asarray(stamps[:, CLIENT_CLOCK], "float64")
    if len(clock) != len(values) or not np.isfinite(clock).all():
        raise unreadable(f"HDF5: {len(clock)} timestamps for {len(values)} frames of {name}")
    count, channels, samples = values.shape
    steps = np.diff(clock)
    period = float(np.median(steps)) if len(steps) else 0.0
    told = device.attrs.get("sampling_rate", options.get(f"{name}_rate"))
    if told is None and period <= 0:
        raise unreadable(f"HDF5: the clock of {name} does not grow")
    rate = float(told) if told is not None else _nominal(1000.0 * samples / period)
    # Frames come when the computer had time: sample times follow the rate within a frame.
    times = (clock[:, None] + np.arange(samples)[None, :] * (1000.0 / rate)).reshape(-1)
    flat = values.transpose(1, 0, 2).reshape(channels, count * samples).T  # a channel in one piece
    times = _steady(times, rate)
    labels = _labels(device, channels)
    return Signal(flat, times, rate, labels, unit)


def _steady(times: np.ndarray, rate: float) -> np.ndarray:
    """Times without the jitter of arrival, stretch by stretch: a line through each."""
    period = 1000.0 / rate
    breaks = np.flatnonzero(np.abs(np.diff(times)) > max(100.0, 20 * period)) + 1
    made = times.copy()
    edges = [0, *breaks.tolist(), len(times)]
    for start, end in pairwise(edges):
        if end - start > 2:
            index = np.arange(end - start)
            slope, first = np.polyfit(index, times[start:end], 1)
            made[start:end] = first + index * slope
    return made


def _nominal(rate: float) -> float:
    """The rate that a device was set to, from one that a computer's clock measured."""
    return float(round(rate)) if rate >= 10 else float(f"{rate:.2g}")


def _labels(device: Any, count: int) -> list[str]:
    told = device.attrs.get("channels")
    if told is not None and len(told) == count:
        return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in told]
    return [f"ch{number + 1:02}" for number in range(count)]
