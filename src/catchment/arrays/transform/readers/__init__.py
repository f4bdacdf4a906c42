"""Readers of recordings: a reader takes a path and gives a :class:`Recording`.

They parse what came from outside, so they run in a child process under limits. Each is known by
the endings of its files; one more format is one more line in :data:`READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from catchment.arrays.transform.model import Recording
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
        return reader(path, options)
    except (CatchmentError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - parsers raise whatever they like
        raise unreadable(f"{suffix[1:].upper()}: {type(error).__name__}") from None


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
