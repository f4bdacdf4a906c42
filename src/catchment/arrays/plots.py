"""Plots of a session for people to look at; needs matplotlib, which the extra ``arrays`` brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.arrays.content import CLOCK
from catchment.core.errors import Invalid

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
MOST_POINTS = 20_000  # of a line
MOST_LINES = 32  # channels of a panel


def draw(session: xr.Dataset, variables: Sequence[str] | None = None) -> Figure:
    """A panel for each numeric variable of one session: channels below each other, over time.

    ``session`` is without padding, as :func:`catchment.arrays.read.session` gives it. Samples
    within windows are laid end to end.
    """
    from matplotlib.figure import Figure

    names = list(variables or _drawable(session))
    if not names:
        raise Invalid(
            "the session has no variable of numbers along time",
            kind="nothing-to-draw",
            hint="catchment arrays show STORE --session ID",
        )
    clock = session[CLOCK].values if CLOCK in session.variables else None
    figure = Figure(figsize=(11, 3 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        _panel(panel, name, session[name], clock)
    label = str(session["session"].values) if "session" in session.coords else ""
    figure.suptitle(label)
    return figure


def save(session: xr.Dataset, path: str) -> None:
    """Draw a session into a file. Invalid (kind ``bad-plot``) for another kind of file."""
    if not path.endswith(FORMATS):
        raise Invalid(
            f"expected a file that ends in {', '.join(FORMATS)}, got {Path(path).name!r}",
            kind="bad-plot",
        )
    figure = draw(session)
    figure.savefig(path, dpi=110)


def _drawable(session: xr.Dataset) -> list[str]:
    return [
        str(name)
        for name, variable in session.data_vars.items()
        if "time" in variable.dims and variable.dtype.kind == "f"
    ]


def _panel(panel: Any, name: str, variable: xr.DataArray, clock: np.ndarray | None) -> None:
    import numpy as np

    values = np.asarray(variable.values, dtype="float64")
    windows = values.shape[0]
    if values.ndim == 3:  # (time, channel, sample)
        lines = values.transpose(1, 0, 2).reshape(values.shape[1], -1)
    else:
        lines = values.reshape(windows, -1).T
    times = np.arange(lines.shape[1]) * windows / lines.shape[1]
    unit = "window"
    if clock is not None and windows > 1 and np.isfinite(clock).all():
        times = np.interp(times, np.arange(windows), (clock - clock[0]) / 1000)
        unit = "s"
    step = max(1, lines.shape[1] // MOST_POINTS)
    shown = lines[:MOST_LINES]
    spread = float(np.nanstd(shown)) * 6 if np.isfinite(shown).any() else 1.0
    for number, line in enumerate(shown):
        middle = np.nanmean(line) if np.isfinite(line).any() else 0.0
        panel.plot(times[::step], line[::step] - middle - number * (spread or 1.0), linewidth=0.4)
    dims = [str(dim) for dim in variable.dims[1:2] if dim in variable.coords]
    if dims:
        labels = [str(label) for label in variable[dims[0]].values[:MOST_LINES]]
        panel.set_yticks([-n * (spread or 1.0) for n in range(len(labels))], labels, fontsize=6)
    panel.set_title(f"{name} [{variable.attrs.get('units', '')}]", fontsize=9)
    panel.set_xlabel(unit)
