"""The one resource: where the workspace is. ``CATCHMENT_ENV`` decides what its stores are."""

import dagster as dg

from catchment.core.workspace import Workspace


class House(dg.ConfigurableResource[Workspace]):
    """A workspace; opened for each step, since steps run in processes of their own.

    Attributes:
        path: folder of the workspace, or its ``catchment.toml``; empty: ``CATCHMENT_WORKSPACE``, or
            the nearest above this folder.
    """

    path: str = ""

    def open(self) -> Workspace:
        """The workspace. NotFound (kind ``no-workspace``), Invalid (kind ``bad-settings``)."""
        return Workspace.open(self.path or None)
