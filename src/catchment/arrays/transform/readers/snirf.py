"""SNIRF 1.x, read by h5py: continuous-wave intensities of one data block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from catchment.arrays.transform.model import Recording, Signal
from catchment.arrays.transform.readers import no_signal, unreadable
from catchment.arrays.transform.readers.edf import clock_unknown

MAX_VALUES = 1 << 28
_BLOCK, _GROUP = re.compile(r"data\d*"), re.compile(r"nirs\d*")
_LIST = re.compile(r"measurementList(\d+)")
_SECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3}


def read(path: str, _options: Mapping[str, Any]) -> Recording:
    """The first data block; channels are named by source, detector and wavelength in nm."""
    import h5py

    with h5py.File(path) as file:
        nirs = next((file[name] for name in ("nirs", "nirs1") if name in file), None)
        if nirs is None:
            raise unreadable("SNIRF: no group nirs")
        block = next((nirs[name] for name in ("data1", "data") if name in nirs), None)
        if block is None or "dataTimeSeries" not in block or "time" not in block:
            raise no_signal("no dataTimeSeries with its time")
        series = block["dataTimeSeries"]
        if series.ndim != 2 or not series.size:
            raise no_signal(f"dataTimeSeries of shape {series.shape}")
        if series.size > MAX_VALUES:
            raise unreadable(f"SNIRF: {series.size} values, expected at most {MAX_VALUES}")
        values = np.asarray(series[()], "float64")
        tags = nirs.get("metaDataTags", {})
        unit = _text(tags, "TimeUnit") or "s"
        times = _times(block["time"], len(values)) * _SECONDS.get(unit, 1000.0)
        labels = _labels(nirs, block, values.shape[1])
        start = _start(tags)
        left = sum(bool(_BLOCK.fullmatch(name)) for name in nirs) - 1
        left += sum(bool(_GROUP.fullmatch(name)) for name in file) - 1
    rate = round(1000.0 / float(np.median(np.diff(times))), 3)
    findings = []
    if left:
        findings.append(
            (
                "blocks-left-out",
                "snirf",
                f"only the first data block is read: {left} more blocks or measurements are not",
                "send each as a file of its own, if they matter",
            )
        )
    moments = times if start is None else times + start
    if start is None:
        findings.append(clock_unknown("snirf"))
    signal = Signal(values, moments, rate, labels, "1")
    if start is None:
        return Recording(fnirs=signal, findings=findings)
    return Recording(fnirs=signal, start=start + float(times[0]), findings=findings)


def _times(told: Any, count: int) -> np.ndarray:
    """The time of each sample, in the file's unit."""
    times = np.asarray(told[()], "float64").reshape(-1)
    if len(times) == 2 and count != 2:  # start and spacing
        times = times[0] + np.arange(count) * times[1]
    if len(times) != count:
        raise unreadable(f"SNIRF: {len(times)} times for {count} samples")
    steps = np.diff(times)
    if not len(steps) or not np.isfinite(times).all() or float(np.median(steps)) <= 0:
        raise unreadable("SNIRF: time does not grow")
    return times


def _labels(nirs: Any, block: Any, count: int) -> list[str]:
    wavelengths = np.asarray(nirs["probe"]["wavelengths"][()]).reshape(-1)
    found = {int(m[1]): block[name] for name in block if (m := _LIST.fullmatch(name))}
    if sorted(found) != list(range(1, count + 1)):
        raise unreadable(f"SNIRF: {len(found)} measurementLists for {count} channels")
    labels = []
    for number in range(1, count + 1):
        one = found[number]
        source, detector, light = (
            int(np.asarray(one[name][()]).reshape(-1)[0])
            for name in ("sourceIndex", "detectorIndex", "wavelengthIndex")
        )
        if not 1 <= light <= len(wavelengths):
            raise unreadable(f"SNIRF: wavelength {light} of {len(wavelengths)}")
        labels.append(f"S{source}_D{detector} {wavelengths[light - 1]:g}")
    return labels


def _text(tags: Any, name: str) -> str:
    if name not in tags:
        return ""
    value = np.asarray(tags[name][()]).reshape(-1)
    return value[0].decode(errors="replace") if len(value) and isinstance(value[0], bytes) else ""


def _start(tags: Any) -> float | None:
    """Milliseconds since 1970; UTC where the file tells no zone."""
    try:
        moment = datetime.fromisoformat(
            f"{_text(tags, 'MeasurementDate')}T{_text(tags, 'MeasurementTime')}"
        )
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
