"""Croissant 1.0: what machine learning tools read of a dataset, for the files of a crate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow as pa

    from catchment.core.crate import About, File

PROFILE = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "extract", "field", "fileObject", "fileProperty", "fileSet",
            "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path",
            "recordSet", "references", "regex", "repeated", "replace", "separator", "source",
            "subField", "transform",
        )
    },
}  # fmt: skip


def describe(folder: Path, files: Sequence[File], about: About) -> dict[str, Any]:
    """The description of files below a folder; Parquet files become record sets."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": PROFILE,
        "name": about.name,
        "description": about.text,
        "datePublished": about.published,
        "version": f"{about.number}.0.0",
        "license": about.license,
        "url": f"urn:catchment:{quote(about.name)}",
        "citeAs": f"{about.publisher}: {about.name} ({about.published[:10]})",
        "creator": {"@type": "sc:Organization", "name": about.publisher},
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.path,
                "name": file.path,
                "contentUrl": file.path,
                "contentSize": f"{file.size} B",
                "encodingFormat": file.media.replace("vnd.apache.", "x-"),
                "sha256": file.digest,
            }
            for file in files
        ],
        "recordSet": [
            _records(file, folder / file.path) for file in files if file.path.endswith(".parquet")
        ],
    }


def _records(file: File, path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    name = file.path.removesuffix(".parquet")
    schema: pa.Schema = pq.read_schema(path)
    return {
        "@type": "cr:RecordSet",
        "@id": f"records/{name}",
        "name": name,
        "field": list(_fields(file, f"records/{name}", schema)),
    }


def _fields(file: File, records: str, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    for column in schema:
        yield {
            "@type": "cr:Field",
            "@id": f"{records}/{quote(column.name, safe='')}",
            "name": column.name,
            "dataType": _type(column.type),
            "source": {"fileObject": {"@id": file.path}, "extract": {"column": column.name}},
        }


def _type(kind: pa.DataType) -> str:
    import pyarrow.types as is_

    if is_.is_boolean(kind):
        return "sc:Boolean"
    if is_.is_integer(kind):
        return "sc:Integer"
    if is_.is_floating(kind) or is_.is_decimal(kind):
        return "sc:Float"
    if is_.is_date(kind):
        return "sc:Date"
    return "sc:DateTime" if is_.is_timestamp(kind) else "sc:Text"
