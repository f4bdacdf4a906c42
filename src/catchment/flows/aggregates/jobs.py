"""Jobs: all of a capability, and everything each night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

NIGHTLY = "nightly"


def make(aggregates: Sequence[str]) -> list[UnresolvedAssetJobDefinition]:
    """``nightly``, and one job for each capability that has aggregates."""
    groups = sorted({aggregate.partition("/")[0] for aggregate in aggregates})
    keys = [aggregate.split("/") for aggregate in aggregates]
    everything = dg.AssetSelection.assets(*keys) if keys else dg.AssetSelection.all()
    return [
        dg.define_asset_job(NIGHTLY, everything, description="Bring every aggregate up to date."),
        *(
            dg.define_asset_job(
                group,
                dg.AssetSelection.assets(*(k for k in keys if k[0] == group)),
                description=f"Bring all {group} up to date.",
            )
            for group in groups
        ),
    ]


def schedules() -> list[dg.ScheduleDefinition]:
    """Every night at two, when sites are asleep; off until somebody turns it on."""
    return [dg.ScheduleDefinition(name="every_night", job_name=NIGHTLY, cron_schedule="0 2 * * *")]
