"""Tasks of readers that die, as native code may; importable by children."""

from __future__ import annotations

import os
import time


def read(items):
    """The items, unless one of them kills."""
    for item in items:
        if item == "abort":
            os.abort()
        if item == "hang":
            time.sleep(60)
        if item == "eat":
            bytearray(600 << 20).count(1)
            time.sleep(5)
    return list(items)
