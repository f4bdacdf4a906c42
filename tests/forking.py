"""Children that start in milliseconds: one server for all tests of a process, which forks them.

A process has only one such server, so that it is warm for all of them.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])
