"""Catchment: many sites send health data; one place makes trustworthy datasets of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from catchment.api import Catchment

__all__ = ["open"]


def open(path: str | PathLike[str] | None = None, **settings: Any) -> Catchment:  # noqa: A001
    """Open a workspace; see :func:`catchment.api.open_workspace`. Loads nothing until then."""
    from catchment.api import open_workspace

    return open_workspace(path, **settings)


def __getattr__(name: str) -> Any:
    """``catchment.imaging`` without an import of its own; loads it at its first use."""
    if name == "imaging":
        from importlib import import_module

        return import_module("catchment.imaging")
    raise AttributeError(f"module 'catchment' has no attribute {name!r}")
