"""The only place that spells the keys of a store of sessions.

Below the URL of one store, which is a Zarr group of format 3::

    zarr.json                         the root: metadata of all arrays; replacing it is a commit
    <array>/c/<slot>/<i>/<j>          a chunk; slots are never used twice
    <array>/<slot>/<i>/<j>            the same in odd generations: each rechunk begins a new one
    <array>/c/<k>                     rows of ROWS sessions, of an array of one dimension
    _catchment/log/0000000042.json    commit 42, create-only: the truth that the root follows from
    _catchment/slots/0000000007.000.json   claim of slot 7, create-only: the journal of its append
    _catchment/rechunk/000001/000.json     plan of generation 1, create-only
    _catchment/rechunk/000001/000/7.json   slot 7 is whole in it: the journal of the plan
    _catchment/ids/<sha256>.json      of a store that grows by positions: who is in which commit
    _catchment/clean/0000000042.json  what commit 42 took out is gone from the former chunks, too

Arrays have no metadata of their own beside the root's: two documents could not change at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = "zarr.json"
PRIVATE = "_catchment"
ROWS = 128  # sessions in a chunk of an array of one dimension
FAMILIES = 3  # ways to spell the keys of rows, so that one root replaces them all at once

_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_CLAIM = re.compile(r"(\d{10})\.(\d{3})\.json")


def is_variable(name: object) -> bool:
    """Whether an array may be called so."""
    return isinstance(name, str) and name != ROOT and _VARIABLE.fullmatch(name) is not None


def log(number: int) -> str:
    """A commit's record."""
    return f"{PRIVATE}/log/{number:010}.json"


def marker(session: str) -> str:
    """Which commit brought a session to a store that grows by positions."""
    return f"{PRIVATE}/ids/{hashlib.sha256(session.encode()).hexdigest()}.json"


def cleaned(number: int) -> str:
    """That nothing is left of what a commit took out of a store that grows by positions."""
    return f"{PRIVATE}/clean/{number:010}.json"


def claims() -> str:
    """All claims."""
    return f"{PRIVATE}/slots/"


def claim(slot: int, attempt: int) -> str:
    """An attempt to fill a slot; the greatest attempt has the slot."""
    return f"{claims()}{slot:010}.{attempt:03}.json"


def parse_claim(name: str) -> tuple[int, int] | None:
    """Slot and attempt of a claim's name; None for any other name."""
    match = _CLAIM.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def slots_prefix(array: str, generation: int) -> str:
    """The chunks of all slots in an array."""
    return f"{array}/" if generation % 2 else f"{array}/c/"


def slot_prefix(array: str, slot: int, generation: int) -> str:
    """The chunks of a slot in an array."""
    return f"{slots_prefix(array, generation)}{slot}/"


def slot_encoding(generation: int) -> dict[str, object]:
    """How Zarr shall spell the keys of chunks."""
    name = "v2" if generation % 2 else "default"
    return {"name": name, "configuration": {"separator": "/"}}


def rechunk(generation: int) -> str:
    """Everything about the way to a generation."""
    return f"{PRIVATE}/rechunk/{generation:06}/"


def rechunk_plan(generation: int, attempt: int) -> str:
    """An attempt to make a generation; the greatest attempt has it."""
    return f"{rechunk(generation)}{attempt:03}.json"


def rechunk_work(generation: int, work: int) -> str:
    """What is done of the way to a generation: slots that are whole in it, ``cleared``."""
    return f"{rechunk(generation)}{work:03}/"


def key_encoding(family: int) -> dict[str, object]:
    """How Zarr shall spell the keys of rows: ``c/0``, ``c.0`` or ``0``."""
    if family % FAMILIES == 2:
        return {"name": "v2", "configuration": {"separator": "/"}}
    return {"name": "default", "configuration": {"separator": "/."[family % FAMILIES]}}


def row_key(array: str, chunk: int, family: int) -> str:
    """A chunk of rows, as :func:`key_encoding` makes Zarr spell it."""
    return f"{array}/" + ("c/{}", "c.{}", "{}")[family % FAMILIES].format(chunk)


def spelling(encoding: Mapping[str, Any]) -> int:
    """The family of any array's chunk key encoding."""
    if encoding["name"] != "default":
        return 2
    return 0 if _separator(encoding) == "/" else 1


def respelt(encoding: Mapping[str, Any]) -> dict[str, object]:
    """The encoding whose keys are no keys of this one, nor of the one before it."""
    return key_encoding(spelling(encoding) + 1)


def chunk_key(array: str, index: Sequence[int], encoding: Mapping[str, Any]) -> str:
    """A chunk of any array that has dimensions."""
    parts = [str(number) for number in index]
    if encoding["name"] == "default":
        parts = ["c", *parts]
    return f"{array}/{_separator(encoding).join(parts)}"


def spelling_of_key(name: str) -> int | None:
    """The family of a chunk's key below its array; None for what is no chunk."""
    if name[:1].isdigit():
        return 2
    return {"c/": 0, "c.": 1}.get(name[:2])


def _separator(encoding: Mapping[str, Any]) -> str:
    usual = "/" if encoding["name"] == "default" else "."
    found: str = encoding.get("configuration", {}).get("separator", usual)
    return found
