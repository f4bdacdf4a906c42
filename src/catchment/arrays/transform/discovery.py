"""Discovery: every recording below a source, page after page, under a pseudonym."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from catchment.arrays.transform.model import Session
from catchment.core.errors import Invalid
from catchment.core.names import check_name
from catchment.core.store import Store
from catchment.core.store_folders import there

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Naming:
    """How sessions and sites are named.

    Attributes:
        key: of the pseudonyms; whoever has it can tell which recording is which.
        plain: names of files that are plain words stay as they are.
        site: of recordings that lie in no folder whose name could be a site's.
    """

    key: bytes
    plain: bool = False
    site: str = "all"

    def session(self, key: str) -> str:
        """The id of the recording at a key: equal keys, and only they, have equal ids."""
        name = key.replace("/", "-")
        if self.plain and _PLAIN.fullmatch(name):
            return name
        digest = hmac.digest(self.key, key.encode(), hashlib.sha256)
        return f"s{base64.b32encode(digest)[:16].decode().lower()}"

    def site_of(self, key: str) -> str:
        """The first folder of the key, if that may be a site's name."""
        first, _, rest = key.partition("/")
        if rest:
            try:
                return check_name(first, "site")
            except Invalid:
                pass
        return self.site


def discover(
    source: Store, prefix: str, suffixes: Sequence[str], naming: Naming
) -> Iterator[Session | str]:
    """Sessions in order of key; the bare key of what is no recording.

    NotFound (kind ``no-folder``) where the source is a folder that is not there.
    """
    for stat in there(source).list(prefix):
        own = stat.key[len(prefix) :]
        if not own.lower().endswith(tuple(suffixes)):
            yield stat.key
            continue
        yield Session(
            naming.session(own), stat.key, naming.site_of(own), stat.size, stat.etag, stat.modified
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the discovered sessions a run does.

    Attributes:
        sessions: ids or keys; all where empty.
        since: recordings that were modified later.
        start, most: position of the first one, and how many, in order of key.
        again: also those that are done.
        reset: as ``again``, and what is there is replaced.
    """

    sessions: frozenset[str] = frozenset()
    since: datetime | None = None
    start: int = 0
    most: int | None = None
    min_size: int = 0
    max_size: int | None = None
    again: bool = False
    reset: bool = False

    def takes(self, session: Session, position: int) -> bool:
        """Whether a session at a position is chosen, done or not."""
        return (
            (not self.sessions or session.id in self.sessions or session.key in self.sessions)
            and (self.since is None or session.modified > self.since)
            and position >= self.start
            and session.size >= self.min_size
            and (self.max_size is None or session.size <= self.max_size)
        )
