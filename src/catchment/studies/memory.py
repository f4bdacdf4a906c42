"""Memory that is free, but that the allocator keeps for later, goes back to the system.

Work on large arrays frees many that are too small to be mapped one by one: of a cube of four
million rows, 260 MB stay behind without this.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any


def give_back() -> None:
    """Give back what can be; nothing where the C library knows no such call."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    with suppress(OSError, AttributeError, TypeError):  # another C library, another system
        return ctypes.CDLL(None).malloc_trim
    return None
