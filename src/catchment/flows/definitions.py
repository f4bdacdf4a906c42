"""All definitions of a workspace, as ``dagster dev -m catchment.flows.definitions`` loads them."""

from __future__ import annotations

import dagster as dg

from catchment.core.capability import aggregates
from catchment.flows.aggregates import assets, checks, jobs, sensors
from catchment.flows.house import House


@dg.definitions
def defs() -> dg.Definitions:
    """Of the workspace that ``CATCHMENT_WORKSPACE`` names, or the nearest above this folder."""
    return build(House())


def build(house: House) -> dg.Definitions:
    """Assets, checks, jobs, schedules and sensors for each aggregate of the settings."""
    with house.open() as workspace:
        names = aggregates(workspace)
    return dg.Definitions(
        assets=[part for name in names for part in assets.make(name)],
        asset_checks=[part for name in names for part in checks.make(name)],
        jobs=jobs.make(names),
        schedules=jobs.schedules(),
        sensors=[sensors.make(name) for name in names],
        resources={"house": house},
        # Untrusted files are read by children of a step already: steps need no processes of theirs.
        executor=dg.in_process_executor,
    )
