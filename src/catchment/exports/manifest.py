"""The manifest of a job, in the words of FHIR Bulk Data Access.

STU 2 (section *Response - Complete Status*) lists error files under ``error``; the later drafts
list them under ``outcome`` and add ``count`` and ``fileSize``. Files carry both drafts' facts, and
the first system's extensions: digest and length, both of the uncompressed lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from catchment.core.errors import Invalid
from catchment.exports.model import Kind, Output

CHECKSUM = "https://ab2d.cms.gov/checksum"
LENGTH = "https://ab2d.cms.gov/file_length"


class Entry(NamedTuple):
    """One file of a manifest, as a client sees it; None is what the manifest does not tell."""

    url: str
    kind: Kind
    type: str | None
    lines: int | None
    size: int | None  # bytes
    digest: str | None  # "sha256:<hex>"


def write(
    outputs: Iterable[Output],
    resource_type: str | None,
    at: datetime,
    *,
    base_url: str = "",
    request: str | None = None,
    token_required: bool = True,
    later_draft: bool = False,
) -> dict[str, Any]:
    """The manifest of outputs, in order of name.

    Args:
        outputs: all that were made.
        resource_type: of the data files.
        at: when the job began: nothing that changed later is promised.
        base_url: what stands before the files' names.
        request: URL that a client asked; jobs begin without a request of theirs.
        token_required: whether files want the same authorization as the manifest.
        later_draft: say ``outcome`` where STU 2 says ``error``.
    """
    files: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in Kind}
    for output in sorted(outputs, key=lambda output: output.name):
        kind = resource_type if output.kind is Kind.DATA else "OperationOutcome"
        files[output.kind].append(
            {
                "type": kind,
                "url": base_url + output.name,
                "count": output.count,
                "fileSize": output.size,
                "extension": [
                    {"url": CHECKSUM, "valueString": output.digest},
                    {"url": LENGTH, "valueDecimal": output.size},
                ],
            }
        )
    return {
        "transactionTime": at.isoformat(timespec="milliseconds"),
        **({"request": request} if request else {}),
        "requiresAccessToken": token_required,
        "output": files[Kind.DATA],
        "outcome" if later_draft else "error": files[Kind.ERROR],
    }


def read(manifest: Any) -> list[Entry]:
    """The files of a manifest of either draft; Invalid (kind ``not-a-manifest``) otherwise."""
    try:
        return [
            _entry(item, kind)
            for key, kind in (("output", Kind.DATA), ("error", Kind.ERROR), ("outcome", Kind.ERROR))
            for item in manifest.get(key) or ()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise Invalid(
            f"expected a manifest of FHIR Bulk Data, got something else ({type(error).__name__})",
            kind="not-a-manifest",
        ) from None


def _entry(item: Mapping[str, Any], kind: Kind) -> Entry:
    told = {
        extension["url"].rpartition("/")[2]: next(
            (value for key, value in extension.items() if key.startswith("value")), None
        )
        for extension in item.get("extension") or ()
    }
    size = item.get("fileSize", told.get("file_length"))
    return Entry(item["url"], kind, item.get("type"), item.get("count"), size, told.get("checksum"))
