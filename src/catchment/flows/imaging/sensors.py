"""A finished remote compression: pictures that a function made are published by a run.

The queue of the settings tells at once; a listing of what remote workers told catches up with what
it did not.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from catchment.core.errors import CatchmentError
from catchment.core.store_events import Queue
from catchment.core.workspace import Workspace
from catchment.flows import facts
from catchment.flows.house import House
from catchment.flows.imaging.assets import MONTHS, group
from catchment.imaging import layout

SECONDS = 60  # between two looks
LOOKS = 10  # into the queue at a time: a look gives ten messages


def make(name: str) -> dg.SensorDefinition:
    """The sensor of ``imaging/<name>``."""

    @dg.sensor(
        name=group(name, "compressed"),
        job_name=group(name, "stage"),
        minimum_interval_seconds=SECONDS,
        description=f"Publishes imaging/{name} when a remote compression has finished.",
    )
    def compressed(context: dg.SensorEvaluationContext, house: House) -> dg.SensorResult:
        with house.open() as workspace:
            try:
                there = {stat.key for stat in workspace.store.list(layout.results(name))}
                told = set(_told(workspace, layout.results(name)))
            except CatchmentError as error:
                return dg.SensorResult(skip_reason=f"{error.message}. {error.hint}")
        news = sorted((there | told) - set(json.loads(context.cursor or "[]")))
        cursor = json.dumps(sorted(there | told))
        if not news:
            return dg.SensorResult(skip_reason="no compression has finished", cursor=cursor)
        month = MONTHS.get_partition_key_for_timestamp(datetime.now(UTC).timestamp())
        request = dg.RunRequest(run_key=f"{name}:{facts.digest(news)}", partition_key=month)
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return compressed


def _told(workspace: Workspace, prefix: str) -> Iterator[str]:
    """The keys below a prefix of the store that the queue tells of; others wait for others."""
    settings = workspace.settings
    if settings.events.queue is None:
        return
    _, _, below = workspace.store.url.removeprefix("s3://").partition("/")
    whole = f"{below.rstrip('/')}/{prefix}".lstrip("/")
    queue = Queue(settings.events.queue, settings.s3.options())
    for _ in range(LOOKS):
        messages = queue.receive(0)
        for message in messages:
            keys = [one.key for one in message.arrivals]
            if all(key.startswith(whole) for key in keys):
                yield from (key[len(whole) - len(prefix) :] for key in keys)
                queue.done(message)
        if not messages:
            return
