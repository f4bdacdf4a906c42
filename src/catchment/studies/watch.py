"""Watching ``upload_staging/``: whoever tells of an arrival, the same look at all that is there.

A notification of the kernel, an event of a bucket or the interval only say *when* to look.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from catchment.core.errors import Unavailable
from catchment.core.store import Store
from catchment.studies import layout

if TYPE_CHECKING:
    from catchment.core.store_events import Arrival, Message, Queue

try:
    from inotify_simple import INotify, flags  # type: ignore[import-untyped]
except ImportError:  # not Linux
    INotify = None

logger = logging.getLogger(__name__)

_SLICE = 0.1  # seconds between two looks at the stop event
_POLL = 5  # seconds that one question to the queue waits
_SETTLE = 0.05  # seconds that a burst of arrivals may go on before the look


class Watch:
    """Waits until something may have arrived in a local store, or for a time.

    Where the kernel cannot tell (another system, a bucket, no watches left) it only waits.
    """

    def __init__(self, store: Store) -> None:
        self._inotify: Any = None
        root = getattr(store, "root", None)
        if INotify is None or root is None:
            return
        self._top = Path(root, layout.STAGING)
        try:
            self._top.mkdir(parents=True, exist_ok=True)
            self._inotify = INotify()
            self._known: set[str] = set()
            self._add()
        except OSError as error:
            logger.info("%s cannot be watched (%s)", layout.STAGING, error.strerror)
            self.close()

    def wait(self, seconds: float, stop: Event) -> None:
        """Return when something arrived, when ``stop`` is set, or after the time."""
        end = time.monotonic() + seconds
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            if self._inotify is None:
                stop.wait(left)
            elif select.select([self._inotify], [], [], min(left, _SLICE))[0]:
                stop.wait(_SETTLE)
                self._inotify.read(timeout=0)
                with suppress(OSError):
                    self._add()  # folders that came with it
                return

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _add(self) -> None:
        wanted = flags.CREATE | flags.MOVED_TO | flags.CLOSE_WRITE
        for folder, _, _ in os.walk(self._top):
            if folder not in self._known:
                self._inotify.add_watch(folder, wanted)
                self._known.add(folder)


class Events:
    """Waits until the bucket's queue tells of an upload, or for a time.

    A message goes back to the queue unless the look that it led to came to its end: then another
    worker is told, or this one again.
    """

    def __init__(self, store: Store, queue: Queue) -> None:
        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix.rstrip('/')}/{layout.STAGING}".lstrip("/")
        self._queue = queue
        self._messages: list[Message] = []

    def wait(self, seconds: float, stop: Event) -> None:
        """Return when something arrived, when ``stop`` is set, or after the time.

        What was told of before the look that is over now is taken from the queue first.
        """
        end = time.monotonic() + seconds
        try:
            while self._messages:
                self._queue.done(self._messages[-1])
                self._messages.pop()
            while not stop.is_set() and (left := end - time.monotonic()) > 0:
                self._messages = self._queue.receive(min(left, _POLL))
                if any(self._ours(one) for message in self._messages for one in message.arrivals):
                    return
                while self._messages:
                    self._queue.done(self._messages.pop())
                if left < 1:
                    stop.wait(left)  # the service counts whole seconds
        except Unavailable as error:
            logger.warning("%s; looking every %d s", error, seconds)
            stop.wait(max(0, end - time.monotonic()))

    def close(self) -> None:
        """Nothing is held; what was not looked at comes again."""

    def _ours(self, one: Arrival) -> bool:
        return one.bucket == self._bucket and one.key.startswith(self._prefix)


def watch(
    look: Callable[[], object],
    store: Store,
    stop: Event,
    *,
    interval: float = 10,
    queue: Queue | None = None,
) -> None:
    """Look, then look again whenever something may have come, until ``stop`` is set."""
    told = Watch(store) if queue is None else Events(store, queue)
    try:
        while not stop.is_set():
            look()
            told.wait(interval, stop)
    finally:
        told.close()
