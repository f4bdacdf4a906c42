"""Lines of CSV and TSV that a spreadsheet opens without harm, and any reader as they were meant."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(cell: object) -> object:
    """A cell that is no formula to a spreadsheet; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def line(cells: Iterable[object], delimiter: str = ",") -> str:
    """A line with its end; a cell that holds any kind of line break is quoted."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"
