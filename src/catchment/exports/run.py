"""The coordinator of a job: batches go out to an executor, outputs come out while they do."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from catchment.core.account import Account, Line
from catchment.core.errors import CatchmentError, Conflict, Unavailable
from catchment.core.executor import bounded_unordered
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Contribution, Lease, Move, Publication, Run, Snapshot
from catchment.core.progress import Event
from catchment.core.provenance import dumps, manifest as program, seal, seal_all
from catchment.exports import layout, manifest
from catchment.exports.batch import Batch, Sign, Task, cancelled, fetch
from catchment.exports.discard import discard
from catchment.exports.job import House, Job, State
from catchment.exports.model import Kind
from catchment.exports.packer import Packer

_BEAT = 0.5  # seconds between two looks at what the ledger says of the job
