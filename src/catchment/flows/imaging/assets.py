"""The groups of ``imaging/NAME``: operational, raw, stage, processed.

Files come by provider, tables grow by month. The snapshot itself is an asset of
:mod:`catchment.flows.aggregates`: either way leads to the same one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import dagster as dg

from catchment.core.capability import named
from catchment.flows import facts
from catchment.flows.aggregates.assets import logged
from catchment.flows.aggregates.partitions import partitions
from catchment.flows.house import House
from catchment.imaging import capability
from catchment.imaging import run as runs
from catchment.imaging.snapshot import ImagingSnapshot, open_snapshot

GROUPS = ("operational", "raw", "stage", "processed")
STAGE = ("devices", "patients", "studies", "series", "images", "compressed_images")
MONTHS = dg.MonthlyPartitionsDefinition(start_date="2026-01-01", end_offset=1)


def group(name: str, which: str) -> str:
    """The group of an aggregate's assets, and the job that makes them."""
    return f"imaging_{name}_{which}".replace("-", "_").replace(".", "_")


def make(name: str) -> Sequence[dg.AssetsDefinition]:
    """The assets of ``imaging/<name>``, group by group."""
    key, by_provider = ["imaging", name], partitions(f"imaging/{name}")

    @dg.asset(
        key=[*key, "operational", "paths"],
        group_name=group(name, "operational"),
        partitions_def=by_provider,
        description="What a provider shows: a digest of names, sizes and etags.",
    )
    def paths(context: dg.AssetExecutionContext, house: House) -> dg.MaterializeResult[None]:
        with house.open() as workspace:
            known = capability.sites(workspace, name)
            digest = named(known, f"imaging.{name}.providers", context.partition_key)
        return dg.MaterializeResult(
            metadata={"digest": digest}, data_version=dg.DataVersion(digest)
        )

    @dg.asset(
        key=[*key, "raw", "files"],
        deps=[paths],
        group_name=group(name, "raw"),
        partitions_def=by_provider,
        pool=f"catchment/imaging/{name}",
        description="A provider's files as received, each kept once, and the lists of them.",
    )
    def files(context: dg.AssetExecutionContext, house: House) -> dg.MaterializeResult[None]:
        with house.open() as workspace:
            whole = capability.job(workspace, name)
            known = {p.name: p for p in whole.providers}
            one = (named(known, f"imaging.{name}.providers", context.partition_key),)
            place = capability.house(workspace, logged(context.log))
            done = runs.sync_only(replace(whole, providers=one), place)
        return dg.MaterializeResult(
            metadata={"waiting": done.files, "findings": len(done.findings)}
        )

    @dg.multi_asset(
        name=group(name, "stage_tables"),
        specs=[
            dg.AssetSpec(
                [*key, "stage", table],
                deps=[dg.AssetDep(files.key, partition_mapping=dg.AllPartitionMapping())],
                group_name=group(name, "stage"),
                description=f"Rows of {table} that came in a month, as published.",
            )
            for table in STAGE
        ],
        partitions_def=MONTHS,
        pool=f"catchment/imaging/{name}",
    )
    def stage(
        context: dg.AssetExecutionContext, house: House
    ) -> Iterator[dg.MaterializeResult[None]]:
        with house.open() as workspace:
            capability.run(workspace, name, sync=False, progress=logged(context.log))
            shown = open_snapshot(workspace.store, workspace.ledger, name)
            for table in STAGE:
                yield _of_month(shown, [*key, "stage", table], context.partition_key[:7])

    @dg.asset(
        key=[*key, "processed", "processed_images"],
        deps=[dg.AssetKey([*key, "stage", t]) for t in ("images", "compressed_images")],
        group_name=group(name, "processed"),
        partitions_def=MONTHS,
        pool=f"catchment/imaging/{name}",
        description="Images joined with their pictures: in the store, and in the warehouse.",
    )
    def processed(context: dg.AssetExecutionContext, house: House) -> dg.MaterializeResult[None]:
        with house.open() as workspace:
            shown = open_snapshot(workspace.store, workspace.ledger, name)
            capability.load_warehouse(workspace, name, shown.record)
            return _of_month(shown, context.asset_key.path, context.partition_key[:7])

    return paths, files, stage, processed


def _of_month(shown: ImagingSnapshot, key: Sequence[str], month: str) -> dg.MaterializeResult[None]:
    """What a snapshot has of one table and month."""
    parts = [part for part in shown.parts()[key[-1]] if part.month == month]
    return dg.MaterializeResult(
        asset_key=list(key),
        metadata={
            "snapshot": shown.record.number,
            "rows": sum(part.rows for part in parts),
            "bytes": sum(part.size for part in parts),
            "objects": facts.listed(part.key for part in parts),
        },
        data_version=dg.DataVersion(facts.digest(part.digest for part in parts)),
    )
