"""Whether a process of this machine is still there, told by what survives in a record of it."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def table() -> str:
    """Tells this table of processes from that of another machine, boot or container.

    Empty where the system does not say: then nobody is known to be dead.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""


def started(pid: int) -> str:
    """When a process began, in ticks since the machine did; empty if there is none, or it ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
