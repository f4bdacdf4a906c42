"""Signal processing of windows: zero-phase filters, pacing by a clock, validity.

Units: time in ms, rates in Hz; EEG in µV where the file tells its unit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from catchment.arrays.transform.model import Signal
from catchment.core.errors import Invalid

WINDOW_MS = 210.0
HIGHPASS_HZ = 0.5
LOWPASS_HZ = 40.0
ORDER = 4
GAP = 1.5  # sample periods between neighbours that are no neighbours any more


class Windows(NamedTuple):
    """Windows of a signal, and which of them are whole.

    Attributes:
        values: (time, channel, sample), or (time, channel).
    """

    values: np.ndarray
    valid: np.ndarray


def segments(times: np.ndarray, rate: float) -> list[slice]:
    """Stretches without a gap, and without a step back of the clock."""
    steps = np.diff(times)
    period = 1000.0 / rate
    breaks = np.flatnonzero((steps > GAP * period) | (steps <= 0)) + 1
    edges = [0, *breaks.tolist(), len(times)]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


def bandpass(signal: Signal, low: float = HIGHPASS_HZ, high: float = LOWPASS_HZ) -> np.ndarray:
    """The signal between two frequencies, without a shift in time; NaN where it cannot be had.

    A Butterworth filter of order 4 runs forward and backward over each stretch without a gap, so
    amplitudes are filtered twice and phases not at all. Above the Nyquist frequency there is
    nothing to take away: then only the high-pass remains. Missing samples are bridged by a line
    for the filter, and are NaN again in the result. Stretches too short for the filter are NaN.
    """
    from scipy import signal as scipy_signal

    nyquist = signal.rate / 2
    if low >= nyquist:
        raise Invalid(
            f"a rate of {signal.rate:g} Hz is too low to keep {low:g} Hz and above",
            kind="rate-too-low",
            hint="choose a lower high-pass",
        )
    if high < nyquist * 0.99:
        sos = scipy_signal.butter(ORDER, [low, high], "bandpass", fs=signal.rate, output="sos")
    else:
        sos = scipy_signal.butter(ORDER, low, "highpass", fs=signal.rate, output="sos")
    # Channel by channel: one line fits the caches of a core, so that workers side by side do not
    # wait for each other's memory.
    made = np.full(signal.values.shape[::-1], np.nan, dtype="float32")
    padding = 3 * (2 * len(sos) + 1)
    for stretch in segments(signal.times, signal.rate):
        if stretch.stop - stretch.start <= padding:
            continue
        for channel, line in enumerate(made):
            values = np.array(signal.values[stretch, channel], dtype="float64")
            missing = ~np.isfinite(values)
            if missing.any():
                _bridge(values, missing)
            filtered = scipy_signal.sosfiltfilt(sos, values, padlen=padding)
            filtered[missing] = np.nan
            line[stretch] = filtered
    return made.T


def _bridge(values: np.ndarray, missing: np.ndarray) -> None:
    """Put a line where values are missing; zero where all are."""
    known = np.flatnonzero(~missing)
    values[missing] = (
        np.interp(np.flatnonzero(missing), known, values[known]) if known.size else 0.0
    )


def log_intensity(values: np.ndarray) -> np.ndarray:
    """The natural logarithm of what is positive; NaN for all else, which no light can be."""
    values = np.asarray(values, dtype="float64")
    made = np.full(values.shape, np.nan)
    np.log(values, out=made, where=np.isfinite(values) & (values > 0))
    return made


def pace(signal: Signal, window_ms: float = WINDOW_MS) -> np.ndarray:
    """Indices of the frames that begin a window: each, or the first behind every window's end."""
    period = 1000.0 / signal.rate
    if period >= window_ms * 0.75:
        return np.arange(len(signal.times))
    chosen, after = [], -np.inf
    for index, time in enumerate(signal.times.tolist()):
        # Half a frame early is on time: else a jitter of the clock skips one.
        if time >= after - period / 2:
            chosen.append(index)
            after = (after if np.isfinite(after) else time) + window_ms
            after = max(after, time + window_ms - period)
    return np.array(chosen, dtype="int64")


def samples_per_window(rate: float, window_ms: float = WINDOW_MS) -> int:
    """Samples in a window, at least one."""
    return max(1, round(rate * window_ms / 1000))


def cut(
    values: np.ndarray, times: np.ndarray, starts: np.ndarray, rate: float, window_ms: float
) -> Windows:
    """Samples from each start on, as (time, channel, sample); NaN where the recording has none."""
    count, channels = samples_per_window(rate, window_ms), values.shape[1]
    period = 1000.0 / rate
    first = np.searchsorted(times, starts - period / 2)
    offsets = np.arange(count)[None, :]
    index = first[:, None] + offsets
    inside = index < len(times)
    index = np.minimum(index, len(times) - 1)
    # A sample belongs to its place in the window only if the clock agrees.
    expected = starts[:, None] + offsets * period
    outside = ~(inside & (np.abs(times[index] - expected) <= GAP * period))
    made = np.empty((len(starts), channels, count), dtype="float32")
    for channel in range(channels):
        taken = values[:, channel][index].astype("float32", copy=False)
        taken[outside] = np.nan
        made[:, channel] = taken
    return Windows(made, np.isfinite(made).all(axis=(1, 2)))
