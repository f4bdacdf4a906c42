"""Work on pixels whose effect is the point: pictures are in the store before a run asks for them.

A picture's key is the digest of its bytes, so a run that makes it again finds it there.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor

import dagster as dg

from catchment.core.errors import Invalid, NotFound
from catchment.core.workspace import Workspace
from catchment.flows.house import House
from catchment.imaging import capability, layout
from catchment.imaging import run as runs
from catchment.imaging.compress import Image, Wanted, compress_all
from catchment.imaging.lambda_executor import open_lambda
from catchment.imaging.read import Stored
from catchment.imaging.receive import read_delivery


class Chosen(dg.Config):
    """Which files.

    Attributes:
        name: the aggregate is ``imaging/<name>``.
        month: when they were received, ``2026-11``; empty: whenever.
    """

    name: str
    month: str = ""


class Pictures(dg.Config):
    """What is made of them, where the settings ask for none: previews of these frames."""

    name: str
    previews: str = "middle"


class Remote(Pictures):
    """The same, by a function.

    Attributes:
        function: ``lambda:NAME``; empty: what the settings' ``compress`` says.
    """

    function: str = ""


@dg.op(description="Keys of the files that were received and wait for a run.")
def get_raw_keys(house: House, config: Chosen) -> list[str]:
    """In order of their receipt; each once."""
    found: dict[str, None] = {}
    with house.open() as workspace:
        job = capability.job(workspace, config.name, receives=False, stages=False)
        for one in runs.pending(job, capability.house(workspace)):
            if one.received_at.strftime("%Y-%m").startswith(config.month):
                rows = read_delivery(workspace.store, job, one, ["digest"])
                digests = [digest for digest in rows["digest"].to_pylist() if digest]
                found |= dict.fromkeys(layout.object_key(config.name, d) for d in digests)
    return list(found)


@dg.op(description="The files themselves: where they are, and how large.")
def get_raw_files(
    context: dg.OpExecutionContext, house: House, keys: list[str]
) -> list[tuple[str, int]]:
    """Those that are there: one that is not is told, and stops no other."""
    found = []
    with house.open() as workspace:
        for key in keys:
            try:
                found.append((key, workspace.store.head(key).size))
            except NotFound:
                context.log.warning("%s is not there", key)
    return found


@dg.op(description="Previews and lossless copies of the files' pixels, by our own workers.")
def compress_pixel_data(
    context: dg.OpExecutionContext, house: House, config: Pictures, files: list[tuple[str, int]]
) -> int:
    """How many pictures there are of them."""
    with house.open() as workspace:
        return _compress(context, workspace, workspace.executor, config, files)


@dg.op(description="Previews and lossless copies of the files' pixels, by an AWS Lambda function.")
def compress_pixel_data_remotely(
    context: dg.OpExecutionContext, house: House, config: Remote, files: list[tuple[str, int]]
) -> int:
    """How many pictures there are of them; the function reads and writes the bucket itself."""
    with house.open() as workspace:
        spec = config.function or capability.settings_of(workspace, config.name).compress
        options = workspace.settings.s3.options()
        with open_lambda(spec, workspace.store, options) as executor:
            return _compress(context, workspace, executor, config, files)


def _compress(
    context: dg.OpExecutionContext,
    workspace: Workspace,
    executor: Executor,
    config: Pictures,
    files: Sequence[tuple[str, int]],
) -> int:
    began = time.monotonic()
    options = capability.job(workspace, config.name, receives=False, stages=False).options
    if capability.settings_of(workspace, config.name).deidentify is not None:
        raise Invalid(
            f"imaging/{config.name} is de-identified: no picture is made of what was received",
            kind="raw-pixels",
            hint=f"catchment imaging run {config.name}",
        )
    wanted = Wanted(options.previews, options.archive) or Wanted(config.previews)
    rows = compress_all(executor, workspace.store, _images(config.name, files), wanted)
    made = int(rows.num_rows - rows["object"].null_count)
    context.add_output_metadata(
        {
            "pictures": made,
            "without": rows["object"].null_count,
            "bytes": sum(size or 0 for size in rows["object_size"].to_pylist()),
            "seconds": time.monotonic() - began,
        }
    )
    return made


def _images(name: str, files: Sequence[tuple[str, int]]) -> list[Image]:
    """The files as compression takes them; its rows are not kept, so neither is who they are of."""
    stored = [Stored("", key, key.rpartition("/")[2], size) for key, size in files]
    return [Image(file, "", name) for file in stored]
