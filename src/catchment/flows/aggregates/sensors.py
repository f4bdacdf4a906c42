"""One sensor for each aggregate: it looks at what the sites have, and runs what changed.

The look is a listing of all sites, so a sensor that was off, or an event that was missed, is caught
up at the next one.
"""

import hashlib
import json

import dagster as dg

from catchment.core.capability import load
from catchment.core.errors import CatchmentError
from catchment.flows.aggregates.assets import CONTRIBUTIONS
from catchment.flows.aggregates.partitions import partitions
from catchment.flows.house import House

SECONDS = 300  # between two looks
SITES, STAMP = "sites", "stamp"  # of a cursor


def make(aggregate: str) -> dg.SensorDefinition:
    """The sensor of ``<capability>/<name>``."""
    capability, _, name = aggregate.partition("/")

    @dg.sensor(
        name=f"{capability}_{name}_changed".replace("-", "_").replace(".", "_"),
        target=dg.AssetSelection.assets([capability, name]),
        minimum_interval_seconds=SECONDS,
        description=f"Runs {aggregate} when a site has something new.",
    )
    def changed(context: dg.SensorEvaluationContext, house: House) -> dg.SensorResult:
        with house.open() as workspace:
            try:
                now = dict(load(capability).sites(workspace, name))
            except CatchmentError as error:
                return dg.SensorResult(skip_reason=f"{error.message}. {error.hint}")
        before, stamp = _seen(context.cursor)
        news = {site: digest for site, digest in now.items() if before.get(site) != digest}
        if not news and before.keys() == now.keys():
            return dg.SensorResult(skip_reason="no site has anything new")
        # Of all looks so far: what is as it was once before is asked for again, for it changed.
        told = json.dumps([stamp, now], sort_keys=True)
        stamp = hashlib.sha256(told.encode()).hexdigest()
        cursor = json.dumps({SITES: now, STAMP: stamp}, sort_keys=True)
        events = [
            dg.AssetMaterialization(
                [capability, name, CONTRIBUTIONS], partition=site, metadata={"digest": digest}
            )
            for site, digest in sorted(news.items())
        ]
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{aggregate}:{stamp}")],
            dynamic_partitions_requests=[partitions(aggregate).build_add_request(sorted(now))],
            asset_events=events,
            cursor=cursor,
        )

    return changed


def _seen(cursor: str | None) -> tuple[dict[str, str], str]:
    """What the sensor saw at its last look, and the stamp of it; an earlier version had none."""
    told = json.loads(cursor or "{}")
    if isinstance(told.get(SITES), dict):
        return told[SITES], told[STAMP]
    return told, ""
