"""What charts call the type of a column, by the reference's rule."""

from __future__ import annotations

import re

_PERIOD = re.compile(r"(?:^|_)(year|month|week|day)$")
_MEASURES = {"median", "average", "std_dev", "percentage"}


def chart_type(name: str, kind: str) -> str:
    """The type of a column with a plain Arrow type: by its name first, then by the type."""
    if period := _PERIOD.search(name):
        return period[1]
    if name.startswith("cnt") or kind.startswith(("int", "uint")):
        return "integer"
    if name in _MEASURES:
        return "double"
    if kind in {"float", "double", "halffloat"}:
        return "float"
    return "boolean" if kind == "bool" else "string"
