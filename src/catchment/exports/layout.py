"""The only place that spells the paths of exports.

Below a base folder, as any worker of the first system knows it::

    <job>/streaming/tmp_<unique>.ndjson     being written
    <job>/finished/tmp_<unique>.ndjson      whole; waits to be combined
    <job>/C0001_0001.ndjson                 an output of contract C0001
    <job>/C0001_0001_error.ndjson           an output with errors; it has its own numbers
    <job>/.catchment/                       the aggregator's journal while the job is open

Below the workspace's store, where the name of a job is the id of its run::

    exports/<name>/<run>/C0001_0001.ndjson  an output
    exports/<name>/<run>/manifest.json      as FHIR Bulk Data describes it
    exports/<name>/<run>/provenance.json    the mark of completion, written last
    _staging/exports/<name>/<run>/          parts, and marks of outputs that are being made
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.exports.model import Codec, Kind

STREAMING = "streaming"
FINISHED = "finished"
JOURNAL = ".catchment"

SUFFIX = {Kind.DATA: ".ndjson", Kind.ERROR: "_error.ndjson"}
STORED = {Codec.NONE: "", Codec.GZIP: ".gz", Codec.ZSTD: ".zst"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def check(name: str, what: str) -> str:
    """The name of a contract, if it may be part of a key; Invalid (kind ``bad-name``) otherwise."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"not a usable {what}: expected a letter or digit, then up to 62 of A-Z a-z 0-9 _ -, "
            f"got {shown(name)}",
            kind="bad-name",
        )
    return name


def check_folder(name: str, what: str) -> str:
    """The name of a folder that is there already; Invalid (kind ``bad-name``) if it is a path."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Invalid(
            f"not a usable {what}: expected a name without '/', got {shown(name)}", kind="bad-name"
        )
    return name


def part_name(unique: str, kind: Kind) -> str:
    """What a worker calls the file that it streams to."""
    return f"tmp_{unique}{SUFFIX[kind]}"


def kind_of(part: str) -> Kind | None:
    """What a finished part holds, told by its suffix; None for a file that is not a part."""
    stem = part.removesuffix(".gz")
    return next((kind for kind in (Kind.ERROR, Kind.DATA) if stem.endswith(SUFFIX[kind])), None)


def is_gzip(part: str) -> bool:
    """Whether a part is compressed, told by its suffix."""
    return part.endswith(".gz")


def output_name(contract: str, number: int, kind: Kind, codec: Codec = Codec.NONE) -> str:
    """The name of an output; numbers have four digits at least."""
    return f"{contract}_{number:04}{SUFFIX[kind]}{STORED[codec]}"


def output_number(name: str, contract: str, kind: Kind) -> int | None:
    """The number in an output's name, whatever its codec; None for any other name."""
    pattern = rf"{re.escape(contract)}_([0-9]{{4,}}){re.escape(SUFFIX[kind])}(\.gz|\.zst)?"
    match = re.fullmatch(pattern, name)
    return int(match[1]) if match else None


def codec_of(name: str) -> Codec:
    """How an output is stored, told by its name."""
    by_suffix = {suffix: codec for codec, suffix in STORED.items() if suffix}
    return by_suffix.get(PurePosixPath(name).suffix, Codec.NONE)


def location(aggregate: str, run: str = "") -> str:
    """Where the outputs of a job are, or those of all jobs, below the workspace's store."""
    return f"{aggregate}/" + (run and f"{run}/")


def staging(aggregate: str, run: str = "") -> str:
    """What a job, or any job, holds until it is published; no reader looks here."""
    return f"_staging/{location(aggregate, run)}"


def begun(staging: str, name: str) -> str:
    """A mark: the output of this name is being made, and may be there half recorded."""
    return f"{staging}{name}.begun"


def manifest(location: str) -> str:
    """The job's manifest."""
    return f"{location}manifest.json"
