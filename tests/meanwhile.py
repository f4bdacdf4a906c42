"""Something done again and again in a thread while a test goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(look: Callable[[], object], pause: float) -> Iterator[None]:
    """Look every ``pause`` seconds until the block ends; what a look raises is raised then."""
    done, wrong = threading.Event(), []

    def watch() -> None:
        while not done.wait(pause) and not wrong:
            try:
                look()
            except BaseException as error:  # noqa: BLE001 - raised below
                wrong.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if wrong:
        raise wrong[0]
