"""All definitions of a workspace, as ``dagster dev -m catchment.flows.definitions`` loads them."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from catchment.core.capability import aggregates
from catchment.core.workspace import Workspace
from catchment.flows.aggregates import assets, checks, jobs, pieces, sensors
from catchment.flows.house import House


@dg.definitions
def defs() -> dg.Definitions:
    """Of the workspace that ``CATCHMENT_WORKSPACE`` names, or the nearest above this folder."""
    return build(House())


def build(house: House) -> dg.Definitions:
    """Assets, checks, jobs, schedules and sensors for each aggregate of the settings."""
    with house.open() as workspace:
        names = aggregates(workspace)
        common = dg.Definitions(
            assets=[
                part
                for name in names
                for part in (*assets.make(name), *pieces.specs(workspace, name))
            ],
            asset_checks=[part for name in names for part in checks.make(name)],
            jobs=jobs.make(names),
            schedules=jobs.schedules(),
            sensors=[sensors.make(name) for name in names],
            resources={"house": house},
            # Untrusted files are read by children of a step already: steps need no processes.
            executor=dg.in_process_executor,
        )
        return dg.Definitions.merge(common, *_imaging(names), *_studies(workspace))


def _imaging(names: Sequence[str]) -> list[dg.Definitions]:
    own = [name.removeprefix("imaging/") for name in names if name.startswith("imaging/")]
    if not own:
        return []
    from catchment.flows.imaging import assets, checks, jobs, sensors

    return [
        dg.Definitions(
            assets=[part for name in own for part in assets.make(name)],
            asset_checks=[part for name in own for part in checks.make(name)],
            jobs=[job for name in own for job in jobs.make(name)],
            sensors=[sensors.make(name) for name in own],
        )
    ]


def _studies(workspace: Workspace) -> list[dg.Definitions]:
    from catchment.flows.studies import jobs
    from catchment.studies import subscribe

    if not subscribe.targets(workspace):
        return []
    return [dg.Definitions(jobs=[jobs.make()], schedules=[jobs.schedule()])]
