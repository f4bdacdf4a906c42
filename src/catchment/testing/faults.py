"""Faults on demand: fail, or kill the process, at the n-th operation on a store or a ledger.

The technique is SQLite's: fail the first, the second, ... the n-th operation until none fails, and
look after each that nothing is lost, counted twice or half visible.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, Self, cast

from catchment.core.errors import Unavailable
from catchment.core.store import Range

VARIABLE = "CATCHMENT_FAULT"

When = Literal["before", "after"]


class Faults:
    """Counts operations; one of them goes wrong. Threads may share it; it survives pickling.

    An operation is a call of a method, a step of an iterator that a method returned, or the entry
    to or the exit from a context that it returned.

    Args:
        fail_at: number of the operation, from 1, that raises the error; None: none does.
        kill_at: number of the operation at which the process dies of SIGKILL; None: it does not.
        when: ``before``: the operation is not applied. ``after``: it is applied, and its answer
            is lost.
        error: what is raised; Unavailable (kind ``injected``) unless told otherwise.

    Attributes:
        count: operations so far.
        fired: the fault has happened.
    """

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        kill_at: int | None = None,
        when: When = "before",
        error: Exception | None = None,
    ) -> None:
        self.count = 0
        self.fired = False
        self._fail_at = fail_at
        self._kill_at = kill_at
        self._when = when
        # Given away when it is raised: with its traceback it would keep alive what a crash ends.
        self._errors = [error or Unavailable("a fault was injected here", kind="injected")]
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What ``CATCHMENT_FAULT`` says, such as ``kill:17:after`` or ``fail:3:before``.

        No fault where it says nothing. It is for the processes of a test: nothing else reads it.
        """
        told = environment.get(VARIABLE)
        if not told:
            return cls()
        what, number, when = told.split(":")
        at: dict[str, Any] = {f"{what}_at": int(number), "when": when}
        return cls(**at)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def around[T](self, operation: Callable[[], T]) -> T:
        """Count and carry out one operation, unless it is the one that goes wrong."""
        with self._lock:
            self.count += 1
            number = self.count
        if self._when == "before":
            self._kill(number)
            self._fail(number)
        try:
            result = operation()
        finally:
            if self._when == "after":
                self.fired |= number == self._fail_at  # also where its own error comes first
                self._kill(number)
        if self._when == "after":
            self._fail(number)
        return result

    def _kill(self, number: int) -> None:
        if number == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _fail(self, number: int) -> None:
        if number == self._fail_at:
            self.fired = True
            raise self._errors.pop()


def inject[T](target: T, faults: Faults) -> T:
    """A stand-in with the same methods, whose operations the faults count."""
    return cast("T", _Proxy(target, faults))


def every_fault(
    *, when: When = "before", error: Exception | None = None, limit: int = 10_000
) -> Iterator[Faults]:
    """Faults at the 1st, 2nd, ... operation, until the work that used them met none.

    ``for faults in every_fault(): ...``: in the loop begin afresh, do the work with the faults
    injected, expect the error, look at what is left. The last round is an undisturbed run.
    """
    for number in range(1, limit + 1):
        faults = Faults(fail_at=number, when=when, error=error)
        yield faults
        if not faults.fired:
            return
    raise AssertionError(f"still a fault after {limit} operations: the work does not end")


class _Proxy:
    def __init__(self, target: Any, faults: Faults) -> None:
        self._target = target
        self._faults = faults

    def __reduce__(self) -> tuple[Any, ...]:
        return inject, (self._target, self._faults)

    def __repr__(self) -> str:
        return f"inject({self._target!r})"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return partial(self._call, value) if callable(value) else value

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        bare = [_bare(value) for value in args]
        named = {name: _bare(value) for name, value in options.items()}
        result = self._faults.around(lambda: method(*bare, **named))
        steps = hasattr(result, "__next__") or hasattr(result, "__enter__")
        if isinstance(result, os.PathLike):  # a path can be entered, but it does nothing
            steps = False
        return _Proxy(result, self._faults) if steps else result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._faults.around(lambda: next(self._target))

    def __enter__(self) -> Any:
        entered = self._faults.around(self._target.__enter__)
        return self if entered is self._target else entered

    def __exit__(self, *error: object) -> Any:
        return self._faults.around(lambda: self._target.__exit__(*error))


def _bare(value: Any) -> Any:
    """The value without stand-ins: a composition of a store's own objects takes its own way."""
    if isinstance(value, _Proxy):
        return value._target  # noqa: SLF001 - our own class
    if isinstance(value, Range):
        return value._replace(store=_bare(value.store))
    if type(value) in (list, tuple):
        return [_bare(item) for item in value]
    return map(_bare, value) if hasattr(value, "__next__") else value
