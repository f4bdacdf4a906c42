"""What comes into a folder and what goes: told by the kernel, where it can."""

from __future__ import annotations

import logging
import select
import time
from pathlib import Path
from threading import Event
from typing import Any

try:
    from inotify_simple import INotify, flags  # type: ignore[import-untyped]
except ImportError:  # not Linux
    INotify = None

logger = logging.getLogger(__name__)

_SLICE = 0.1  # seconds between two looks at the stop event


class Watch:
    """Watches a job's folder for what is removed there, and ``finished`` for what comes in.

    Where the kernel cannot tell (another system, no watches left) it only waits. Changes that
    another machine makes on a network file system are never told: look yourself from time to time.
    """

    def __init__(self) -> None:
        self._inotify: Any = None
        self._finished = 0

    def open(self, job: Path, finished: Path) -> None:
        """Begin to watch."""
        if INotify is None:
            return
        try:
            self._inotify = INotify()
            self._inotify.add_watch(job, flags.DELETE | flags.MOVED_FROM)
            self._finished = self._inotify.add_watch(finished, flags.MOVED_TO | flags.CLOSE_WRITE)
        except OSError as error:
            logger.info("%s cannot be watched (%s): looking at intervals", finished, error.strerror)
            self.close()

    def names(self) -> set[str] | None:
        """File names that came into ``finished`` since the last call; None if only a look tells."""
        if self._inotify is None:
            return None
        events = self._inotify.read(timeout=0)
        if any(event.mask & flags.Q_OVERFLOW for event in events):
            return None
        return {event.name for event in events if event.wd == self._finished and event.name}

    def wait(self, seconds: float, stop: Event) -> None:
        """Return when something changed, when ``stop`` is set, or after the time."""
        end = time.monotonic() + seconds
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            if self._inotify is None:
                stop.wait(left)
            elif select.select([self._inotify], [], [], min(left, _SLICE))[0]:
                return

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
