"""What a start of the program need not pay for: half of a short command is loading of modules."""

from __future__ import annotations

import gc
import os

_LOADING = 100_000  # objects that are made before garbage is looked for, while modules are loaded
_USUAL = gc.get_threshold()


def load_quickly() -> None:
    """Until :func:`loaded`, hardly look for garbage: what modules make stays."""
    gc.set_threshold(_LOADING, *_USUAL[1:])
    # Nobody extends our settings: to look for who might reads the metadata of all packages.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def loaded() -> None:
    """Look for garbage as ever from here on, but not among what was loaded."""
    if gc.get_threshold()[0] == _LOADING:
        gc.freeze()
        gc.set_threshold(*_USUAL)
