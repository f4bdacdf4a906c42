"""XDF, read by pyxdf: one stream of EEG, one of fNIRS, on one clock."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from catchment.arrays.transform.model import Recording, Signal
from catchment.arrays.transform.readers import no_signal, unreadable
from catchment.arrays.transform.readers.edf import clock_unknown, unfinished
from catchment.core.errors import Invalid

EEG = {"eeg"}
FNIRS = {"nirs", "fnirs"}
MAGIC = b"XDF:"
_WIDTHS = (1, 4, 8)  # bytes of a chunk's length
_UNITS = {"microvolts": 1.0, "uv": 1.0, "µv": 1.0, "millivolts": 1e3, "mv": 1e3, "volts": 1e6}


def read(path: str, options: Mapping[str, Any]) -> Recording:
    """Streams by their type; clocks are aligned and jitter is taken away by pyxdf."""
    import pyxdf

    logging.getLogger("pyxdf").setLevel(logging.CRITICAL)  # it would tell values
    _check_whole(Path(path))
    streams, header = pyxdf.load_xdf(path)
    eeg = _choose(streams, EEG, options.get("eeg_stream"))
    fnirs = _choose(streams, FNIRS, options.get("fnirs_stream"))
    signals = [_signal(stream) for stream in (eeg, fnirs)]
    firsts = [s.times[0] for s in signals if s is not None]
    if not firsts:
        raise no_signal(f"none of {len(streams)} streams holds samples of EEG or fNIRS")
    start = _start(header)
    findings = []
    if any(stream and not stream.get("footer") for stream in (eeg, fnirs)):
        findings.append(unfinished("xdf", "a stream of the recording has no footer"))
    if start is None:
        findings.append(clock_unknown("xdf"))
    else:  # the streams' clock began whenever a computer did
        offset = start - min(firsts)
        signals = [s and Signal(s.values, s.times + offset, s.rate, s.labels, s.units)
                   for s in signals]  # fmt: skip
    if start is None:
        return Recording(signals[0], signals[1], findings=findings)
    return Recording(signals[0], signals[1], start, findings=findings)


def _check_whole(path: Path) -> None:
    """Invalid where the last chunk is cut off: pyxdf drops it, and says so in its log only."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = len(MAGIC)
        if file.read(at) != MAGIC:
            raise unreadable("XDF: it does not begin as one")
        while at < size:
            width = int.from_bytes(file.read(1), "little")
            at += 1 + width + int.from_bytes(file.read(width), "little")
            if width not in _WIDTHS or at > size:
                raise unreadable(f"XDF: a chunk is cut off or damaged: got {size:,} bytes")
            file.seek(at)


def _choose(streams: list[Any], types: set[str], name: str | None) -> Any:
    """The stream of a type that has samples; by name where there are several."""
    found = [
        stream
        for stream in streams
        if _info(stream, "type").lower() in types
        and isinstance(stream["time_series"], np.ndarray)
        and stream["time_series"].size
        and (name is None or _info(stream, "name") == name)
    ]
    if len(found) > 1:
        raise Invalid(
            f"{len(found)} streams are of type {'/'.join(sorted(types))}",
            kind="streams-ambiguous",
            hint="name the one that is meant in the transform's options: eeg_stream, fnirs_stream",
        )
    return found[0] if found else None


def _signal(stream: Any) -> Signal | None:
    if stream is None:
        return None
    values = np.asarray(stream["time_series"])
    values = values.reshape(len(values), -1).astype("float64")  # a scalar series has one channel
    times = np.asarray(stream["time_stamps"], "float64").reshape(-1) * 1000
    if len(times) != len(values) or not np.isfinite(times).all():
        raise unreadable(f"XDF: {len(times)} times for {len(values)} samples")
    rate = float(_info(stream, "nominal_srate") or 0)
    if rate <= 0:
        raise no_signal("its stream has no nominal rate")
    labels, units = _channels(stream, values.shape[1])
    scale = {_UNITS.get(unit.lower()) for unit in units}
    if len(scale) == 1 and (factor := scale.pop()) is not None:
        return Signal(values * factor, times, rate, labels, "uV")
    unit = units[0] if len(set(units)) == 1 else ""
    return Signal(values, times, rate, labels, unit or "1")


def _channels(stream: Any, count: int) -> tuple[list[str], list[str]]:
    """Labels and units, as the stream's description has them; numbers where it has none."""
    try:
        described = stream["info"]["desc"][0]["channels"][0]["channel"]
        labels = [str(one["label"][0]) for one in described]
        units = [str((one.get("unit") or [""])[0]) for one in described]
    except (IndexError, KeyError, TypeError):
        labels, units = [], []
    if len(labels) != count:
        return [f"ch{number + 1:02}" for number in range(count)], [""] * count
    return labels, units


def _info(stream: Any, name: str) -> str:
    value = stream["info"].get(name) or [""]
    return str(value[0] or "")


def _start(header: Any) -> float | None:
    told = (header.get("info", {}).get("datetime") or [None])[0]
    try:
        moment = datetime.fromisoformat(str(told))
    except ValueError:
        return None
    return moment.timestamp() * 1000 if moment.tzinfo else None
