"""EDF, EDF+ and BDF, read by edfio: EEG of one rate; what is no EEG is left out and told."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from catchment.arrays.transform.model import Recording, Signal
from catchment.arrays.transform.readers import no_signal, unreadable

# Channels that carry codes instead of potentials.
CODES = re.compile(r"(status|trig(ger)?|stim|sti ?\d*|marker|events?|annotations?)", re.IGNORECASE)
_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)[\x14\x15]")
_SCALE = {"uv": 1.0, "µv": 1.0, "μv": 1.0, "mv": 1e3, "v": 1e6, "nv": 1e-3}


def read(path: str, options: Mapping[str, Any]) -> Recording:
    """Channels of the most frequent rate, in µV; the header has no zone, so UTC is assumed."""
    import edfio

    wanted = options.get("eeg_channels")
    wide = path.lower().endswith(".bdf")
    width = 3 if wide else 2
    finished = _check_whole(Path(path), width)
    onsets = _onsets(Path(path), width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a length that is not told: so do we
        opened: Any = (edfio.read_bdf if wide else edfio.read_edf)(path)
    found = [s for s in opened.signals if not CODES.fullmatch(s.label.strip())]
    left = len(opened.signals) - len(found)
    if wanted is not None:
        by_label = {s.label.strip(): s for s in found}
        found = [by_label[label] for label in wanted if label in by_label]
    if not found:
        raise no_signal("all channels carry codes, or none is wanted")
    rate = Counter(s.sampling_frequency for s in found).most_common(1)[0][0]
    other = [s for s in found if s.sampling_frequency != rate]
    found = [s for s in found if s.sampling_frequency == rate]
    findings = [] if finished else [unfinished("edf", "the header does not tell its length")]
    if other or left:
        findings.append(
            (
                "channels-left-out",
                "edf",
                f"{left} channels carry codes, {len(other)} have another rate than {rate:g} Hz",
                "send them as a recording of their own, if they matter",
            )
        )
    units = [s.physical_dimension.strip().lower() for s in found]
    known = _SCALE.keys() >= set(units)
    factors = [_SCALE[unit] if known else 1.0 for unit in units]  # else they stay as they are
    values = np.stack(
        [np.asarray(s.data, "float64") * f for s, f in zip(found, factors, strict=True)], axis=1
    )
    start = _start(opened)
    times = _times(len(values), rate, onsets) + (0.0 if start is None else start)
    unit = "uV" if known else ", ".join(sorted(set(units)))
    signal = Signal(values, times, float(rate), [s.label.strip() for s in found], unit)
    if start is None:
        return Recording(eeg=signal, findings=[*findings, clock_unknown("edf")])
    return Recording(eeg=signal, start=start, findings=findings)


def _check_whole(path: Path, width: int) -> bool:
    """Invalid where a file has fewer bytes than its header says: edfio takes what is there.

    False where the header gives -1 records: the device was interrupted, nothing is promised.
    """
    with path.open("rb") as file:
        fixed = file.read(256)
        head, records, count = int(fixed[184:192]), int(fixed[236:244]), int(fixed[252:256])
        file.seek(256 + 216 * count)  # behind labels, units, ranges and filters
        samples = sum(int(file.read(8)) for _ in range(count))
    expected, found = head + records * samples * width, path.stat().st_size
    if records >= 0 and found < expected:
        raise unreadable(f"it is cut off: expected {expected:,} bytes, got {found:,}")
    return records >= 0


def _onsets(path: Path, width: int) -> np.ndarray | None:
    """Seconds at which each record of a file with gaps (EDF+D) begins; None where there are none.

    The first annotation of a record tells it; edfio reads on as if there were no gaps.
    """
    with path.open("rb") as file:
        if file.read(256)[192:197] not in (b"EDF+D", b"BDF+D"):
            return None
        file.seek(0)
        data = file.read()
    count = int(data[252:256])
    labels = [data[at : at + 16].strip() for at in range(256, 256 + 16 * count, 16)]
    sizes = [int(data[256 + 216 * count + 8 * n :][:8]) * width for n in range(count)]
    place = next((n for n, label in enumerate(labels) if label.endswith(b"Annotations")), None)
    if place is None:
        raise unreadable("EDF: it has gaps, and does not tell where")
    first = int(data[184:192]) + sum(sizes[:place])
    starts = range(first, len(data) - sum(sizes[place:]) + 1, sum(sizes))
    found = [_ONSET.match(data, start, start + sizes[place]) for start in starts]
    if not all(found):
        raise unreadable("EDF: a record does not tell when it begins")
    onsets = np.array([float(one[1]) for one in found if one is not None])
    if (np.diff(onsets) <= 0).any():
        raise unreadable("EDF: its records are not in order of time")
    return np.asarray(onsets - onsets[0])


def _times(count: int, rate: float, onsets: np.ndarray | None) -> np.ndarray:
    """Milliseconds of each sample since the first."""
    if onsets is None:
        return np.arange(count) * (1000.0 / rate)
    each, left = divmod(count, len(onsets))
    if left:
        raise unreadable(f"EDF: {count} samples in {len(onsets)} records")
    return (onsets[:, None] * 1000.0 + np.arange(each) * (1000.0 / rate)).reshape(-1)


def clock_unknown(where: str) -> tuple[str, str, str, str]:
    """What to tell of a recording whose start nobody knows."""
    return (
        "clock-unknown",
        where,
        "the file does not tell when it began: timestamps are ms of its own clock",
        "set the start in the device, or in the file's header",
    )


def unfinished(where: str, what: str) -> tuple[str, str, str, str]:
    """What to tell of a recording that its device did not end; ``what`` says how one sees it."""
    return (
        "recording-unfinished",
        where,
        f"{what}: its device was interrupted",
        "nothing, if the recording is as long as it should be",
    )


def _start(opened: Any) -> float | None:
    """Milliseconds since 1970; None for headers that hide it."""
    try:
        moment = datetime.combine(opened.startdate, opened.starttime, UTC)
    except (AttributeError, TypeError, ValueError):
        return None
    except Exception:  # noqa: BLE001 - edfio has an exception of its own for anonymized headers
        return None
    return moment.timestamp() * 1000
