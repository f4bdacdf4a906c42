"""Do the tables of a month join, and is every image accounted for?"""

from collections.abc import Sequence

import dagster as dg

from catchment.flows.house import House
from catchment.imaging.references import broken_references
from catchment.imaging.snapshot import open_snapshot


def make(name: str) -> Sequence[dg.AssetChecksDefinition]:
    """The checks of the groups of ``imaging/<name>``."""
    key = ["imaging", name]

    @dg.asset_check(
        asset=dg.AssetKey([*key, "stage", "images"]),
        description="Keys are unique, and every reference leads to a row.",
    )
    def references_lead_to_rows(house: House) -> dg.AssetCheckResult:
        with house.open() as workspace:
            shown = open_snapshot(workspace.store, workspace.ledger, name)
            with shown.connect() as connection:
                wrong = broken_references(lambda sql: connection.execute(sql).fetchall())
        return dg.AssetCheckResult(passed=not wrong, metadata={"wrong": wrong})

    @dg.asset_check(
        asset=dg.AssetKey([*key, "processed", "processed_images"]),
        description="Every staged image is there.",
    )
    def every_image_is_there(house: House) -> dg.AssetCheckResult:
        with house.open() as workspace:
            shown = open_snapshot(workspace.store, workspace.ledger, name)
            images = set(shown["images"]["sha256"].to_pylist())
            lost = images - set(shown["processed_images"]["sha256"].to_pylist())
        return dg.AssetCheckResult(passed=not lost, metadata={"lost": len(lost)})

    return references_lead_to_rows, every_image_is_there
