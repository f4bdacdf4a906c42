"""A job for each group of an aggregate, and those of its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from catchment.flows.imaging.assets import GROUPS, group
from catchment.flows.imaging.ops import (
    compress_pixel_data,
    compress_pixel_data_remotely,
    get_raw_files,
    get_raw_keys,
)

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )


def make(name: str) -> Sequence[UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """The jobs of ``imaging/<name>``."""
    groups = [
        dg.define_asset_job(group(name, which), dg.AssetSelection.groups(group(name, which)))
        for which in GROUPS
    ]
    about = {"config": {"name": name}}

    @dg.job(
        name=group(name, "compress"),
        description="Pictures of what was received, before a run asks for them.",
        config={"ops": {"get_raw_keys": about, "compress_pixel_data": about}},
    )
    def compress() -> None:
        compress_pixel_data(get_raw_files(get_raw_keys()))

    @dg.job(
        name=group(name, "compress_remotely"),
        description="The same by an AWS Lambda function.",
        config={"ops": {"get_raw_keys": about, "compress_pixel_data_remotely": about}},
    )
    def compress_remotely() -> None:
        compress_pixel_data_remotely(get_raw_files(get_raw_keys()))

    return [*groups, compress, compress_remotely]
