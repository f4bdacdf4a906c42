"""Two assets for each aggregate: what its sites send, a partition each, and what is published."""

from collections.abc import Sequence

import dagster as dg

from catchment.core.capability import Outcome, load
from catchment.core.progress import Event, Progress
from catchment.core.workspace import Workspace
from catchment.flows import facts
from catchment.flows.aggregates import pieces
from catchment.flows.aggregates.partitions import by_session, partitions
from catchment.flows.house import House

CONTRIBUTIONS = "contributions"


def make(aggregate: str) -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of ``<capability>/<name>``."""
    capability, _, name = aggregate.partition("/")
    contributions = dg.AssetSpec(
        [capability, name, CONTRIBUTIONS],
        description=f"What each site of {aggregate} has to give; a sensor looks.",
        group_name=capability,
        partitions_def=partitions(aggregate),
        kinds={"catchment"},
    )

    @dg.asset(
        key=[capability, name],
        deps=[dg.AssetDep(contributions.key, partition_mapping=dg.AllPartitionMapping())],
        description=f"The published snapshot of {aggregate}.",
        group_name=capability,
        kinds={"catchment", capability},
        pool=f"catchment/{aggregate}",  # one run of an aggregate at a time; its lease says so, too
    )
    def published(context: dg.AssetExecutionContext, house: House) -> dg.MaterializeResult[None]:
        with house.open() as workspace:
            outcome = load(capability).run(
                workspace, name, dry_run=False, progress=logged(context.log)
            )
            tell(context, workspace, outcome)
            return dg.MaterializeResult(
                metadata=facts.of_outcome(workspace.ledger, outcome),
                data_version=dg.DataVersion(str(outcome.snapshot)),
            )

    return contributions, published


def tell(context: dg.AssetExecutionContext, workspace: Workspace, outcome: Outcome) -> None:
    """Say of each piece of a snapshot that it was made, and of each site that it is there."""
    keep = context.instance.add_dynamic_partitions
    if sites := sorted({line.site for line, _ in outcome.account if line.site}):
        keep(partitions(outcome.aggregate).name or "", sites)
    if sessions := pieces.sessions(outcome):
        keep(by_session(outcome.aggregate).name or "", sessions)
    for event in pieces.events(workspace, outcome, context.instance):
        context.log_event(event)


def logged(log: dg.DagsterLogManager) -> Progress:
    """A listener that writes the beginning and the end of each piece of work into the run's log."""

    def show(event: Event) -> None:
        if event.state != "step":
            total = "" if event.total is None else f" of {event.total}"
            log.info("%s: %s, %s%s %s", event.work, event.state, event.done, total, event.unit)

    return show
