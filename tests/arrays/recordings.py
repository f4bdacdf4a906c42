"""Small recordings of every format, made on the spot."""

from __future__ import annotations

import struct
from datetime import date, time

import numpy as np

MARCH = 1_772_352_000_000.0  # 2026-03-01 08:00 UTC, in ms


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def edf(
    path, *, seconds=4, labels=("Fp1", "Fp2"), rate=100, unit="uV", seed=0, day=date(2026, 3, 1)
):
    import edfio

    signals = [
        edfio.EdfSignal(
            noise(seed + n, rate * seconds) * 20, rate, label=label, physical_dimension=unit,
            physical_range=(-200, 200),
        )
        for n, label in enumerate(labels)
    ]  # fmt: skip
    edfio.Edf(signals, starttime=time(8, 0), recording=edfio.Recording(startdate=day)).write(path)


def hdf5(path, *, frames=60, seed=0, eeg=True, fnirs=True, start=MARCH, labels=None):
    """The first system's layout: EEG frames of 15 samples each 60 ms, fNIRS each 210 ms."""
    import h5py

    with h5py.File(path, "w") as file:
        if eeg:
            device = file.create_group("devices/eeg")
            device["frames_data"] = noise(seed, frames * 3, 4, 15) * 20
            clock = start + np.arange(frames * 3) * 70.0 + np.abs(noise(seed, frames * 3))
            device["timestamps"] = np.stack([clock * 0, clock, clock * 0], axis=1)
            if labels:
                device.attrs["channels"] = labels
        if fnirs:
            device = file.create_group("devices/fnirs")
            device["frames_data"] = np.abs(noise(seed + 1, frames, 3, 1)) + 1
            clock = start + np.arange(frames) * 210.0
            device["timestamps"] = np.stack([clock * 0, clock, clock * 0], axis=1)


def snirf(
    path, *, samples=60, channels=2, wavelengths=(690.0, 830.0), when=("2026-03-01", "08:00:00")
):
    import h5py

    with h5py.File(path, "w") as file:
        block = file.create_group("nirs/data1")
        block["dataTimeSeries"] = np.abs(noise(1, samples, channels)) + 1
        block["time"] = np.array([0.0, 0.2])  # start and spacing
        file["nirs/probe/wavelengths"] = np.array(wavelengths)
        for number in range(channels):
            one = block.create_group(f"measurementList{number + 1}")
            one["sourceIndex"], one["detectorIndex"] = 1, number + 1
            one["wavelengthIndex"] = 1
        tags = file.create_group("nirs/metaDataTags")
        if when:
            tags["MeasurementDate"], tags["MeasurementTime"] = when


def xdf(path, streams, *, moment="2026-03-01T08:00:00+0000"):
    """Streams of (type, name, rate, values, labels), values float32."""

    def chunk(tag, content):
        return struct.pack("<BIH", 4, len(content) + 2, tag) + content

    data = b"XDF:" + chunk(
        1, f"<info><version>1.0</version><datetime>{moment}</datetime></info>".encode()
    )
    for number, (kind, name, rate, given, labels) in enumerate(streams, 1):
        values = np.asarray(given, "<f4")
        described = "".join(
            f"<channel><label>{label}</label><unit>microvolts</unit></channel>" for label in labels
        )
        header = (
            f"<info><name>{name}</name><type>{kind}</type><channel_count>{values.shape[1]}"
            f"</channel_count><nominal_srate>{rate}</nominal_srate><channel_format>float32"
            f"</channel_format><created_at>1</created_at><desc><channels>{described}</channels>"
            "</desc></info>"
        )
        data += chunk(2, struct.pack("<I", number) + header.encode())
        body = b"".join(
            struct.pack("<Bd", 8, 100.0 + index / rate) + row.tobytes()
            for index, row in enumerate(values)
        )
        count = struct.pack("<BI", 4, len(values))
        data += chunk(3, struct.pack("<I", number) + count + body)
        footer = f"<info><first_timestamp>100</first_timestamp><sample_count>{len(values)}</sample_count></info>"
        data += chunk(6, struct.pack("<I", number) + footer.encode())
    path.write_bytes(data)
