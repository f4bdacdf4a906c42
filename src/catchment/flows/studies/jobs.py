"""The crawl of all subscriptions, each week: what a publication could not register is mended."""

import dagster as dg

from catchment.flows.house import House
from catchment.studies import subscribe

CRAWL = "crawl_subscriptions"


@dg.op(description="Make every target of the settings show what is published now.")
def crawl(context: dg.OpExecutionContext, house: House) -> None:
    """Fails if a target, or one of its tables, did; the others were registered all the same."""
    with house.open() as workspace:
        done = subscribe.crawl(workspace)
    for one in done:
        told = {"new": one.new, "changed": one.changed, "removed": one.removed}
        context.log.info("%s: %s, %s unchanged", one.target, told, one.unchanged)
    for one in done:
        for error in one.failed.values():
            raise error


def make() -> dg.JobDefinition:
    """The job of the crawl."""

    @dg.job(name=CRAWL, description="Register what is published of studies in every target.")
    def crawl_subscriptions() -> None:
        crawl()

    return crawl_subscriptions


def schedule() -> dg.ScheduleDefinition:
    """Sundays at four, off until somebody turns it on."""
    return dg.ScheduleDefinition(name="every_week", job_name=CRAWL, cron_schedule="0 4 * * 0")
