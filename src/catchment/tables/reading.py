"""What a worker does with a site's file. It imports little, so that a fresh worker starts fast."""

from __future__ import annotations

from typing import NamedTuple

from catchment.core.errors import Invalid
from catchment.core.store import Store
from catchment.tables.keys import scan
from catchment.tables.model import TransferRule
from catchment.tables.parquet import Footer, inspect, read_footer


class Read(NamedTuple):
    """What a worker has found in a file.

    Attributes:
        footer: of the file.
        keys: for a transfer rule; why they cannot be had; None where they were not asked for.
    """

    footer: Footer
    keys: bytes | Invalid | None


def read(store: Store, key: str, size: int, rule: TransferRule | None, *, whole: bool) -> Read:
    """Read a file's footer, its keys where the rule has any, and the ``whole`` file if asked to.

    Its bytes are untrusted: call this in a child process. Errors of :func:`.parquet.inspect`.
    """
    footer = inspect(store, key, size) if whole else read_footer(store, key, size)
    keys: bytes | Invalid | None = None
    if rule is not None and rule.participant in footer.schema.names:
        try:
            keys = scan(store, key, rule, {}, footer)
        except Invalid as error:
            keys = error
    return Read(footer, keys)
