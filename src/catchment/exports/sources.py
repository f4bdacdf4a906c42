"""Where records come from: one small protocol, and what every source does alike."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import msgspec

from catchment.core.errors import (
    CatchmentError,
    Conflict,
    Corrupt,
    Invalid,
    NotFound,
    Unavailable,
)
from catchment.exports.model import Kind

MAX_TEXT = 256 << 20  # bytes of a bundle, a page or a line

Pause = Callable[[float], None]  # sleeps for seconds; raises where the job is cancelled meanwhile


class Item(NamedTuple):
    """One line that a source has for a member.

    Attributes:
        kind: DATA: a record; ERROR: an OperationOutcome about one, or about the request.
        line: one JSON object, with or without its newline.
        refused: why a record stays out, a slug; the line is then the OperationOutcome that tells.
    """

    kind: Kind
    line: bytes
    refused: str = ""


Reader = Callable[[str], Iterator[Item]]  # the lines of one member; raises CatchmentError


class Source(Protocol):
    """A source survives pickling: batches of members may be read on other machines."""

    @property
    def resource_type(self) -> str | None:
        """The type of the records; None: any."""
        ...

    def members(self) -> Sequence[str] | None:
        """The members that the source has by itself; None where the job must name them."""
        ...

    def open(self, pause: Pause) -> AbstractContextManager[Reader]:
        """A reader, for one batch of members."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, for the ledger: plain JSON, without secrets."""
        ...


class _Search(msgspec.Struct):
    mode: str = ""


class _Entry(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw(b"")
    search: _Search = msgspec.field(default_factory=_Search)


class _Link(msgspec.Struct):
    relation: str = ""
    url: str = ""


class Bundle(msgspec.Struct):
    """A FHIR Bundle, its resources as the bytes that were sent (FHIR R4, section 2.36)."""

    resourceType: str = ""  # noqa: N815 - FHIR's name
    link: list[_Link] = msgspec.field(default_factory=list)
    entry: list[_Entry] = msgspec.field(default_factory=list)

    @property
    def next(self) -> str | None:
        """Where the next page is."""
        return next((link.url for link in self.link if link.relation == "next"), None)


class _Resource(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - FHIR's name


class _Object(msgspec.Struct):
    pass


_bundle = msgspec.json.Decoder(Bundle)
_resource = msgspec.json.Decoder(_Resource)
_object = msgspec.json.Decoder(_Object)


def read_bundle(data: bytes) -> Bundle:
    """The bundle; Invalid (kind ``not-a-bundle``) for anything else."""
    try:
        bundle = _bundle.decode(data.removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        bundle = Bundle()
    if bundle.resourceType != "Bundle":
        raise Invalid("expected a FHIR Bundle, got something else", kind="not-a-bundle")
    return bundle


def items_of(bundle: Bundle, resource_type: str | None, member: str) -> Iterator[Item]:
    """The resources of a bundle, byte for byte but for white space between the tokens.

    Args:
        bundle: of a search, or of any other kind.
        resource_type: the type that is asked for; None: any. Another type is refused (reason
            ``other-type``); OperationOutcomes are what the server has to tell.
        member: whose they are; what is refused says so.
    """
    for entry in bundle.entry:
        data = bytes(entry.resource)
        if not data:
            continue
        try:
            found = _resource.decode(data).resourceType
        except msgspec.MsgspecError:
            told = "a resource is not an object, or its type is not a text"
            yield refusal("not-json", told, member)
            continue
        if b"\n" in data or b"\r" in data:
            data = msgspec.json.format(data, indent=-1)
        if found == "OperationOutcome" and resource_type != found:
            yield Item(Kind.ERROR, data)
        elif resource_type in (None, found):
            yield Item(Kind.DATA, data)
        else:
            yield refusal("other-type", f"a resource is not of type {resource_type}", member)


def item_of(line: bytes, number: int, member: str) -> Item:
    """A line of NDJSON as it stands, or its refusal (reason ``not-json``)."""
    try:
        _object.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return refusal("not-json", f"line {number} is not a JSON object", member)
    return Item(Kind.DATA, line)


def refusal(reason: str, told: str, member: str) -> Item:
    """A record of a member that stays out, for a reason."""
    return Item(Kind.ERROR, outcome("structure", told, member), reason)


def outcome(code: str, told: str, member: str | None = None) -> bytes:
    """A FHIR OperationOutcome (R4, section 2.39) as one line; ``code`` is one of its issue types.

    It goes to the error files, which are as confidential as the data; nowhere else may ``member``
    be told.
    """
    issue = {"severity": "error", "code": code, "diagnostics": told}
    if member is not None:
        issue["diagnostics"] = f"{member}: {told}"
    return json.dumps(
        {"resourceType": "OperationOutcome", "issue": [issue]}, separators=(",", ":")
    ).encode()


def issue_type(error: CatchmentError) -> str:
    """The code of FHIR's value set *issue-type* that says what the error says."""
    if error.kind == "source-denied":
        return "security"
    codes = {
        NotFound: "not-found",
        Conflict: "conflict",
        Invalid: "invalid",
        Unavailable: "transient",
        Corrupt: "exception",
    }
    return codes.get(type(error), "exception")
