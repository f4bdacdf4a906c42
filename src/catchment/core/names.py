"""Names that come from outside and become parts of keys: centers, tables, studies, sites."""

from __future__ import annotations

import re
import unicodedata

from catchment.core.errors import Invalid

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

# Words that mean something else in a path or a command: device names, and our own selectors.
RESERVED = frozenset(
    ["all", "aux", "con", "latest", "none", "nul", "null", "prn"]
    + [f"{device}{n}" for device in ("com", "lpt") for n in range(10)]
)


def check_name(name: str, what: str = "name") -> str:
    """The name itself, if it may be part of a key; Invalid (kind ``bad-name``) otherwise.

    A name is 1 to 63 of ``a-z 0-9 _ -``, begins with a letter, and is not reserved. It is matched
    whole and never changed: identity is equality.
    """
    if not NAME.fullmatch(name):
        folded = unicodedata.normalize("NFKC", name)
        looks = " (it only looks like one)" if name != folded and NAME.fullmatch(folded) else ""
        problem = f"expected a-z, then up to 62 of a-z 0-9 _ -, got {shown(name)}{looks}"
    elif name in RESERVED:
        problem = f"{shown(name)} is a reserved word"
    else:
        return name
    raise Invalid(f"not a usable {what}: {problem}", kind="bad-name", hint=f"rename the {what}")


def counted(number: int, things: str) -> str:
    """A number of things, whose plural is given: "1 row", "1,200 rows"."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def shown(name: str) -> str:
    """A name from outside, as messages may print it: ASCII, quoted, of bounded length."""
    return ascii(name if len(name) <= 64 else f"{name[:61]}...")
