"""Is what was published right: its account, its objects, its drift, its age?"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from catchment.core.account import Account
from catchment.core.capability import load
from catchment.core.errors import CatchmentError
from catchment.core.ledger import Snapshot
from catchment.flows import facts
from catchment.flows.house import House

WELL = frozenset({"published", "unchanged"})  # how a run may end
MOST_AGE = timedelta(hours=36)  # since the latest run that ended well


def make(aggregate: str) -> Sequence[dg.AssetChecksDefinition]:
    """The checks of ``<capability>/<name>``."""
    capability, _, name = aggregate.partition("/")
    key = [capability, name]

    @dg.asset_check(asset=key, description="received = kept + dropped + quarantined", blocking=True)
    def account_balances(house: House) -> dg.AssetCheckResult:
        with house.open() as workspace:
            latest = workspace.ledger.latest(aggregate)
            account = workspace.ledger.account(latest.run) if latest else Account()
        try:
            account.check()
        except CatchmentError as error:
            return dg.AssetCheckResult(passed=False, metadata={"wrong": error.message})
        return dg.AssetCheckResult(passed=True, metadata=facts.of_account(account))

    @dg.asset_check(asset=key, description="Every object has the digest that was published.")
    def digests_hold(house: House) -> dg.AssetCheckResult:
        with house.open() as workspace:
            there = workspace.ledger.latest(aggregate) is not None
            wrong = list(load(capability).verify(workspace, name)) if there else []
        return dg.AssetCheckResult(passed=not wrong, metadata={"wrong": wrong})

    @dg.asset_check(asset=key, description="The latest run that ended well is not long ago.")
    def fresh(house: House) -> dg.AssetCheckResult:
        with house.open() as workspace:
            runs = workspace.ledger.runs(aggregate)
        ended = [r.finished_at for r in runs if r.finished_at and r.state in WELL]
        age = datetime.now(UTC) - max(ended) if ended else timedelta.max
        seconds = age.total_seconds()
        return dg.AssetCheckResult(passed=age <= MOST_AGE, metadata={"seconds": seconds})

    @dg.asset_check(asset=key, description="Few columns differ in type between the sites.")
    def drift_is_small(house: House) -> dg.AssetCheckResult:
        with house.open() as workspace:
            shares = _drift(workspace.ledger.latest(aggregate))
            most = workspace.settings.tables[name].most_drift
        passed = all(share <= most for share in shares.values())
        return dg.AssetCheckResult(
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"shares": shares, "most": most},
        )

    common = [account_balances, digests_hold, fresh]
    return [*common, drift_is_small] if capability == "tables" else common


def _drift(snapshot: Snapshot | None) -> dict[str, float]:
    """Share of drifted columns of each table; none before the first snapshot."""
    tables = snapshot.provenance["tables"] if snapshot else {}
    return {name: len(t["drift"]) / max(1, len(t["columns"])) for name, t in tables.items()}
