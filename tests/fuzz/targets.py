"""What is fuzzed: each target takes any bytes, and lets nothing out but what it promises.

``SEEDS`` are good inputs to begin with; ``WORDS`` are what an input is likely to hold.
"""

from __future__ import annotations

import atexit
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import Invalid
from catchment.core.parquet.footer import columns_of
from catchment.core.parquet.parse import parse
from catchment.core.store import open_store
from catchment.imaging import scan
from catchment.imaging.values import Unreadable
from catchment.imaging.walk import BadFile, Unscannable
from catchment.studies.charts import filters
from catchment.studies.charts.query import Chartable
from catchment.studies.intake import Bounds, take_in
from catchment.testing.dicom import EXPLICIT, make_file
from catchment.testing.studies import archive, parquet

BOUNDS = Bounds(upload=1 << 20, members=50, member=1 << 20, total=4 << 20)
CUBE = pa.table(
    {
        "cnt": pa.array([5, 3, 2, 5, 4], pa.int64()),
        "sex": ["f", "f", "m", None, None],
        "born": ["2001-02-03", None, None, "1999-01-01", "x"],
        "n": ["1", "2.5", None, None, "no"],
    }
)


def footer(data: bytes) -> None:
    """The Parquet footer: it is taken apart into what can be put together again, or refused."""
    try:
        raw = parse(data)
    except (ValueError, IndexError):
        return
    assert raw.rows >= 0
    for group in raw.groups:
        assert group.rows >= 0
        assert len(group.ends) == len(raw.paths)
    try:
        columns_of(raw.schema, b"".join(raw.paths))
    except (ValueError, IndexError, KeyError):
        return


def dicom(data: bytes) -> None:
    """The DICOM scanner: a header in JSON, or one of its three refusals."""
    try:
        header = scan.read_header(lambda start, length: data[start : start + length], len(data))
        json.dumps(header.to_json(), allow_nan=False)
    except (Unscannable, BadFile, Unreadable):
        return


def intake(data: bytes) -> None:
    """The intake of uploads: members that are kept by digest, or one refusal; nothing raised."""
    store = open_store("memory://fuzz")
    key = "upload_staging/core/boston/000/u_core.zip"
    store.put(key, data, mode="overwrite")
    found = take_in(store, key, study="core", site="boston", filename="u_core.zip", bounds=BOUNDS)
    assert found.size == len(data)
    assert found.members
    kept = {member.kept for member in found.members if member.kept}
    there = {stat.key: stat.size for stat in store.list("studies/")}
    assert set(there) == kept, "something is kept that nobody was told of"
    assert sum(there.values()) <= BOUNDS.total
    if b".archive.parquet" in data.lower():
        assert not there, "line-level data is kept"
    for one in there:
        store.delete(one)


def grammar(data: bytes) -> None:
    """The grammar of filters: an answer, or a refusal that quotes nothing."""
    kind, text = data[:1], data[1:].decode("utf-8", "replace")
    try:
        asked = filters.parse([], text) if kind == b"{" else filters.parse(text.split("\n"))
        cube().chart("sex", None, asked)
    except Invalid as error:
        assert error.kind in {"bad-filter", "no-column"}, error.kind


@cache
def cube() -> Chartable:
    """A package to ask."""
    folder = tempfile.TemporaryDirectory(prefix="catchment-fuzz-")
    atexit.register(folder.cleanup)
    path = Path(folder.name, "cube.parquet")
    path.write_bytes(parquet(CUBE))
    return Chartable(path)


def _footers() -> list[bytes]:
    tables = [
        CUBE,
        pa.table({"a": pa.array([1, None], pa.int32()), "b": pa.array([[1], [2, 3]])}),
        pa.table({"s": pa.array([{"x": 1.5, "y": "t"}, None])}),
        pa.table({"t": pa.array([0, 1], pa.timestamp("us", "UTC")), "d": pa.array([b"", b"q"])}),
    ]
    made = []
    for table in tables:
        for options in (
            {},
            {"use_dictionary": False, "compression": "zstd"},
            {"row_group_size": 1},
        ):
            sink = io.BytesIO()
            pq.write_table(table, sink, **options)
            data = sink.getvalue()
            length = int.from_bytes(data[-8:-4], "little")
            made.append(data[-8 - length : -8])
    return made


def _dicoms() -> list[bytes]:
    return [
        make_file(),
        make_file(syntax="1.2.840.10008.1.2"),
        make_file(syntax=EXPLICIT, PatientName="Ä^Ö", SpecificCharacterSet="ISO_IR 192"),
        make_file(WindowCenter=[1.5, 2], ImageComments="a" * 300, StudyDate=None),
    ]


def _zips() -> list[bytes]:
    good = parquet(CUBE)
    return [
        archive({"core__count_x.cube.parquet": good}),
        archive({"core__count_x.cube.parquet": good, "manifest.toml": b"[a]\nb = 1\n"}),
        archive({"core__p.archive.parquet": good}),
        archive({"../x": b"", "core__a.flat.parquet": good}),
        b"",
        b"PK\5\6" + bytes(18),
    ]


def _filters() -> list[bytes]:
    texts = [f"sex:{name}:x" for name in filters.OPERATORS]
    texts += ["sex:isNull,n:gt:1.5", "born:sameMonthOrAfter:2001-02", "sex:matches:^f|m$\nn:ne:2"]
    tree = '{"any": [{"all": [["sex", "strEq", "f"], {"column": "n", "op": "gt", "value": 1}]}]}'
    nested = '{"all": [{"any": [["sex", "isNull"], {"all": [["n", "lt", 3]]}]}, ["sex", "isNull"]]}'
    return [b"f" + text.encode() for text in texts] + [b"{" + t.encode() for t in (tree, nested)]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "footer": footer,
    "dicom": dicom,
    "intake": intake,
    "grammar": grammar,
}
SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "footer": _footers,
    "dicom": _dicoms,
    "intake": _zips,
    "grammar": _filters,
}
WORDS: dict[str, list[bytes]] = {
    "footer": [b"\x15\x00", b"\x16\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x19\xfc", b"\x1c"],
    "dicom": [b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xff\xff\xff", b"SQ\0\0", b"UN\0\0"],
    "intake": [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b".archive.parquet", b"../"],
    "grammar": [
        *(name.encode() for name in filters.OPERATORS),
        b'{"any":[{"all":[[',
        b'{"all":[{"any":[',
        b"sex:",
        b"%2C",
        b"\\p{",
    ],
}
