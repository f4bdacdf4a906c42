"""``WindowTransform``: EEG and fNIRS recordings become windows of 210 ms, paced by fNIRS frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from catchment.arrays.content import CLOCK_ATTRIBUTES
from catchment.arrays.transform import signals
from catchment.arrays.transform.base import BaseTransform, bad_option
from catchment.arrays.transform.model import Recording, Session, TransformResult
from catchment.arrays.transform.sinks import check_key
from catchment.core.errors import Invalid
from catchment.core.finding import Finding, Severity

if TYPE_CHECKING:
    import xarray as xr


class WindowTransform(BaseTransform):
    """Windows of EEG ``(time, eeg_channel, eeg_sample)`` and fNIRS ``(time, fnirs_channel)``.

    EEG is filtered from 0.5 to 40 Hz without a shift in time (µV, float32). fNIRS is the natural
    logarithm of the intensity where that is positive, else NaN (float32). ``timestamp`` is the
    true time at which a window begins, in ms since 1970 UTC; ``eeg_valid`` and ``fnirs_valid`` say
    which windows are whole. Without fNIRS, windows follow each other from the first sample on.
    """

    NAME: ClassVar[str] = "window"
    VERSION: ClassVar[str] = "1"
    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "append_to_common": True,
        "common_store_name": "windows_combined",
        "window_ms": signals.WINDOW_MS,
        "highpass_hz": signals.HIGHPASS_HZ,
        "lowpass_hz": signals.LOWPASS_HZ,
        "chunk_windows": None,
        "eeg_channels": None,  # labels, in the order wanted; all where None
        "fnirs_channels": None,
        "eeg_stream": None,  # of an XDF file
        "fnirs_stream": None,
        "eeg_rate": None,  # of HDF5 files that do not tell
        "fnirs_rate": None,
    }

    def check_options(self) -> None:
        """Each option is of its kind, and the filter lets something pass."""
        given = self.options
        for name in ("window_ms", "highpass_hz", "lowpass_hz", "eeg_rate", "fnirs_rate"):
            value, told = given[name], not (name.endswith("_rate") and given[name] is None)
            if told and not (_is_number(value) and 0 < value < math.inf):
                raise bad_option(name, "a number above 0", value)
        if given["highpass_hz"] >= given["lowpass_hz"]:
            raise bad_option("highpass_hz", "less than lowpass_hz", given["highpass_hz"])
        chunk = given["chunk_windows"]
        if chunk is not None and not (isinstance(chunk, int) and chunk > 0):
            raise bad_option("chunk_windows", "a whole number above 0", chunk)
        for name in ("eeg_channels", "fnirs_channels"):
            value = given[name]
            if value is not None and not (
                isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value)
            ):
                raise bad_option(name, "a list of labels", value)
        name = str(given["common_store_name"])
        if "/" in name:
            raise bad_option("common_store_name", "a name without slashes", name)
        check_key(f"{name}.zarr")

    def process_session(self, session: Session) -> TransformResult:
        """Read, filter, cut, and append to the common store or to a store of the session's own."""
        recording = self.read_recording(session)
        dataset = self.windows(recording).assign_attrs(session_id=session.id)
        wanted = self.options["chunk_windows"]
        chunks = {"time": int(wanted)} if wanted else None
        name = self.options["common_store_name"]
        if self.options["append_to_common"]:
            key = f"{self.DEST_PREFIX}{name}.zarr"
            self.append_dataset_to_s3_zarr(dataset, key, append_dim="session", chunks=chunks)
        else:
            key = f"{self.DEST_PREFIX}{session.id}_windowed.zarr"
            self.save_dataset_to_s3_zarr(dataset, key, chunks)
        return TransformResult(
            "success",
            metadata={"windows": dataset.sizes["time"], "seconds": _seconds(recording)},
            zarr_stores=[key],
            findings=[
                Finding(session.site, Severity.WARNING, code, f"{session.id}: {where}", text, hint)
                for code, where, text, hint in recording.findings
            ],
        )

    def windows(self, recording: Recording) -> xr.Dataset:
        """The dataset of one recording."""
        import xarray as xr

        window_ms = float(self.options["window_ms"])
        starts = _starts(recording, window_ms)
        if not len(starts):
            raise Invalid(
                f"the recording is shorter than one window of {window_ms:g} ms",
                kind="no-windows",
                hint="send a longer recording",
            )
        variables: dict[str, Any] = {}
        coords: dict[str, Any] = {}
        if recording.eeg is not None:
            eeg = recording.eeg
            low, high = float(self.options["highpass_hz"]), float(self.options["lowpass_hz"])
            filtered = signals.bandpass(eeg, low, high)
            if np.isnan(filtered).all():
                raise Invalid(
                    f"the EEG has no stretch long enough to filter, of {len(eeg.times)} samples",
                    kind="recording-too-short",
                    hint="send a longer recording, without gaps",
                )
            made = signals.cut(filtered, eeg.times, starts, eeg.rate, window_ms)
            attrs = {
                "units": eeg.units,
                "sampling_rate_hz": eeg.rate,
                "window_ms": window_ms,
                "highpass_hz": low,
                "lowpass_hz": high,
                "filter": "Butterworth, order 4, forward and backward",
            }
            variables["eeg"] = (("time", "eeg_channel", "eeg_sample"), made.values, attrs)
            variables["eeg_valid"] = (("time",), made.valid)
            coords["eeg_channel"] = list(eeg.labels)
        if recording.fnirs is not None:
            fnirs = recording.fnirs
            logs = signals.log_intensity(fnirs.values)[signals.pace(fnirs, window_ms)]
            attrs = {"units": "1", "window_ms": window_ms, "long_name": "ln(intensity)"}
            attrs["sampling_rate_hz"] = fnirs.rate
            variables["fnirs"] = (("time", "fnirs_channel"), logs.astype("float32"), attrs)
            variables["fnirs_valid"] = (("time",), np.isfinite(logs).all(axis=1))
            coords["fnirs_channel"] = list(fnirs.labels)
        variables["start"] = recording.start  # NaN where only the recording's own clock is known
        variables["timestamp"] = (("time",), starts, dict(CLOCK_ATTRIBUTES))
        return xr.Dataset(variables, coords=coords, attrs=dict(recording.attributes))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _starts(recording: Recording, window_ms: float) -> np.ndarray:
    """When windows begin: at fNIRS frames, else one behind the other in each stretch of EEG."""
    if recording.fnirs is not None:
        frames = signals.pace(recording.fnirs, window_ms)
        return np.asarray(recording.fnirs.times[frames])
    eeg = recording.eeg
    if eeg is None or not len(eeg.times):
        return np.empty(0)
    starts = [np.empty(0)]
    for stretch in signals.segments(eeg.times, eeg.rate):
        times = eeg.times[stretch]
        count = math.floor((times[-1] - times[0] + 1000.0 / eeg.rate) / window_ms + 1e-6)
        starts.append(times[0] + np.arange(count) * window_ms)
    return np.concatenate(starts)


def _seconds(recording: Recording) -> float:
    ends = [
        float(s.times[-1] - s.times[0]) for s in (recording.eeg, recording.fnirs) if s is not None
    ]
    return round(max(ends, default=0.0) / 1000, 3)
