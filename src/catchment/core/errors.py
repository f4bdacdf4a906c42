"""One tree of errors, sorted by what the caller does next.

Every error carries a stable ``kind`` (a slug to match on), a message that says what was expected
and what was found, and a ``hint``: the next thing to do, a command where there is one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any


class CatchmentError(Exception):
    """Base of all errors that Catchment raises.

    Attributes:
        message: what was expected and what was found, without values of a patient.
        kind: stable slug, the same across versions.
        hint: what to do next; empty where nothing more can be said.
    """

    kind = "error"
    exit_code = 1
    status_code = 500

    def __init__(self, message: str, *, kind: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or type(self).kind
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _bare, (type(self), self.message), vars(self)

    def __str__(self) -> str:
        return self.message


class NotFound(CatchmentError):
    """The thing named does not exist."""

    kind = "not-found"
    exit_code = 3
    status_code = 404


class Conflict(CatchmentError):
    """Somebody else was first, or holds it: read again, then retry."""

    kind = "conflict"
    exit_code = 4
    status_code = 409


class Invalid(CatchmentError):
    """The input or the configuration must be mended before a retry can help."""

    kind = "invalid"
    exit_code = 2
    status_code = 422


class Unavailable(CatchmentError):
    """A service or a resource is not there now: retry later."""

    kind = "unavailable"
    exit_code = 5
    status_code = 503


class Corrupt(CatchmentError):
    """Our own state contradicts itself: call a person."""

    kind = "corrupt"
    exit_code = 6
    status_code = 500


class Translating:
    """Turns foreign errors inside the block into ours, about a key; subclasses say which.

    A class: a context manager made of a generator takes longer than many an operation.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and (ours := self.ours(error)) is not None:
            raise ours from None

    def ours(self, error: BaseException) -> CatchmentError | None:
        """What the error means to the caller; None: it is not of those that are turned."""
        raise NotImplementedError


def _bare(cls: type[CatchmentError], message: str) -> CatchmentError:
    """An error before its ``__init__``: pickle fills in the attributes, a subclass's own too."""
    return cls.__new__(cls, message)
