"""JSON from outside, read so that a hostile or a doubtful text is refused, never guessed at."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


class Repeated(dict[str, Any]):
    """An object that gives a name twice, which RFC 7493 section 2.3 forbids; the last value stands.

    Attributes:
        names: the names that are given more than once.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs)
        self.names = frozenset(name for name, count in counts.items() if count > 1)


def loads(data: bytes | str) -> Any:
    """The value of one JSON text (RFC 8259), UTF-8 with or without a byte order mark.

    Raises ValueError, and nothing else, for all that is not JSON: other encodings, ``NaN``, numbers
    of thousands of digits, nesting deeper than Python can follow. An object that repeats a name is
    a :class:`Repeated`, for the caller to refuse.
    """
    try:
        text = str(data, "utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def described(value: object) -> str:
    """What a JSON value is, without the value: for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else Repeated(pairs)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
