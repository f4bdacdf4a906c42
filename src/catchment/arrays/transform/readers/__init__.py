"""Readers of recordings: a reader takes a path and gives a :class:`Recording`.

They parse what came from outside, so they run in a child process under limits. Each is known by
the endings of its files; one more format is one more line in :data:`READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

from catchment.arrays.transform.model import Recording, Signal
from catchment.core.errors import CatchmentError, Invalid

Reader = Callable[[str, Mapping[str, Any]], Recording]

READERS = {
    ".edf": "edf",
    ".bdf": "edf",
    ".snirf": "snirf",
    ".xdf": "xdf",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}


def suffix_of(key: str) -> str | None:
    """The ending that a reader is known by; None if there is no such reader."""
    name = key.rpartition("/")[2].lower()
    return next((suffix for suffix in READERS if name.endswith(suffix)), None)


def read(path: str, suffix: str, options: Mapping[str, Any]) -> Recording:
    """The recording in a file. Invalid (kind ``recording-unreadable``) if it is none."""
    module = import_module(f"{__name__}.{READERS[suffix]}")
    reader = cast("Reader", module.read)
    try:
        made = reader(path, options)
        eeg = _chosen(made.eeg, options.get("eeg_channels"))
        fnirs = _chosen(made.fnirs, options.get("fnirs_channels"))
        return replace(made, eeg=eeg, fnirs=fnirs)
    except (CatchmentError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - parsers raise whatever they like
        raise unreadable(f"{suffix[1:].upper()}: {type(error).__name__}") from None


def _chosen(signal: Signal | None, wanted: Sequence[str] | None) -> Signal | None:
    """The channels that are wanted, in that order. Invalid (kind ``no-signal``) if there are none.

    Those that are not there make another schema, and so are told.
    """
    if signal is None or wanted is None:
        return signal
    own = list(signal.labels)
    places = [own.index(label) for label in wanted if label in own]
    if not places:
        raise no_signal(f"none of the {len(wanted)} channels that are wanted")
    if places == list(range(len(own))):
        return signal
    labels = [own[place] for place in places]
    return replace(signal, values=signal.values[:, places], labels=labels)


def unreadable(what: str) -> Invalid:
    """The error of a file that is not what its name says."""
    return Invalid(
        f"the recording cannot be read ({what})",
        kind="recording-unreadable",
        hint="make the file anew from its device, or convert it, and send it again",
    )


def no_signal(what: str) -> Invalid:
    """The error of a file without samples."""
    return Invalid(
        f"the recording has no signal: {what}",
        kind="no-signal",
        hint="send a recording with EEG or fNIRS samples",
    )
