"""A folder for what a run keeps on this machine while it works."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from catchment.core.errors import Unavailable


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, gone afterwards. Unavailable (kind ``disk-full``) where there is no room."""
    try:
        with TemporaryDirectory(prefix="catchment-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(
            f"a temporary folder in {gettempdir()} has no room",
            kind="disk-full",
            hint="make room, or set TMPDIR to a larger place; then run the same command again",
        ) from error
