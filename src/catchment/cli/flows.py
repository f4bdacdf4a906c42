"""``catchment flows``: the workspace under Dagster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output
from catchment.cli.place import open_workspace
from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.store import RESERVED

if TYPE_CHECKING:
    import dagster as dg

    from catchment.core.workspace import Workspace

app = typer.Typer(help="The workspace under Dagster.")
MODULE = "catchment.flows.definitions"


@app.command()
def dev(
    ctx: typer.Context,
    port: Annotated[int, typer.Option("--port", help="Of Dagster's page, on this machine.")] = 3000,
) -> None:
    """Start Dagster's page, sensors and schedules for this workspace."""
    _dagster()
    with open_workspace(ctx.obj) as workspace:
        os.environ["DAGSTER_HOME"] = str(_home(workspace))
        os.environ["CATCHMENT_WORKSPACE"] = str(workspace.file)
    program = str(Path(sys.executable).with_name("dagster"))
    arguments = ["dev", "-m", MODULE, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(program, [program, *arguments])  # noqa: S606 - the program is Dagster's own


@app.command()
def check(ctx: typer.Context) -> None:
    """Load and validate all definitions of this workspace."""
    output: Output = ctx.obj
    found = _definitions(output)
    graph = found.resolve_asset_graph()
    told = {
        "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
        "checks": len(graph.asset_check_keys),
        "jobs": sorted(job.name for job in found.resolve_all_job_defs() if job.name[0] != "_"),
        "sensors": sorted(sensor.name for sensor in found.sensors or ()),
    }
    output.result(told, _show_definitions)


@app.command()
def run(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="As `catchment flows check` lists it.")],
    partition: Annotated[
        str | None, typer.Option("--partition", metavar="P", help="One partition of it.")
    ] = None,
) -> None:
    """Run a job here and now, without Dagster's page. Exit code 1 if a step or a check fails."""
    output: Output = ctx.obj
    dg = _dagster()
    found = _definitions(output)
    names = sorted(one.name for one in found.resolve_all_job_defs() if one.name[0] != "_")
    if job not in names:
        raise NotFound(
            f"no job is called {job!r}, expected one of: {', '.join(names)}",
            kind="no-job",
            hint="catchment flows check",
        )
    with open_workspace(output) as workspace:
        os.environ["DAGSTER_HOME"] = str(_home(workspace))
    level = ("CRITICAL", "INFO", "DEBUG")[min(output.verbosity, 2)]
    wanted = found.resolve_job_def(job)
    with dg.DagsterInstance.get() as instance:
        added = _partition(instance, wanted, partition)
        done = wanted.execute_in_process(
            instance=instance,
            partition_key=partition,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": level}}}},
        )
        if added is not None and not done.success:  # it may be of a site that is none
            instance.delete_dynamic_partition(added, partition or "")
    checks = [
        {
            "asset": one.asset_key.to_user_string(),
            "check": one.check_name,
            "passed": one.passed,
            "severity": one.severity.value,
        }
        for one in done.get_asset_check_evaluations()
    ]
    told = {
        "job": job,
        "run": done.run_id,
        "success": done.success,
        "steps": [_step(event) for event in done.all_events if event.is_step_failure],
        "materialized": sorted(
            event.asset_key.to_user_string()
            for event in done.get_asset_materialization_events()
            if event.asset_key
        ),
        "checks": checks,
    }
    output.result(told, _show_run)
    wrong = [c for c in checks if not c["passed"] and c["severity"] == "ERROR"]
    if wrong or not done.success:
        raise typer.Exit(1)


def _dagster() -> Any:
    try:
        import dagster
    except ImportError:
        raise Invalid(
            "flows need Dagster, which is not installed",
            kind="missing-extra",
            hint="pip install 'catchment[flows]'",
        ) from None
    return dagster


def _definitions(output: Output) -> dg.Definitions:
    dg = _dagster()
    from catchment.flows.definitions import build
    from catchment.flows.house import House

    with open_workspace(output) as workspace:
        path = str(workspace.file)
    found = build(House(path=path))
    dg.Definitions.validate_loadable(found)
    return found


def _partition(
    instance: dg.DagsterInstance, job: dg.JobDefinition, given: str | None
) -> str | None:
    """Whether the job takes it. One that grows may have a partition that no sensor saw yet.

    Told is the name of the partitions that it was added to, if it was.
    """
    import dagster as dg

    kind = job.partitions_def
    if (kind is None) != (given is None):
        raise Invalid(
            f"{job.name} {'has no partitions' if kind is None else 'needs a partition'}",
            kind="which-partition",
            hint=f"catchment flows run {job.name}"
            + ("" if kind is None else f" --partition {_last(instance, kind)}"),
        )
    if kind is None or given is None:
        return None
    if isinstance(kind, dg.DynamicPartitionsDefinition):
        name = kind.name or ""
        if given in instance.get_dynamic_partitions(name):
            return None
        instance.add_dynamic_partitions(name, [given])
        return name
    if not kind.has_partition_key(given):
        last = kind.get_last_partition_key()
        raise Invalid(
            f"{job.name} has no partition {given!r}",
            kind="which-partition",
            hint=f"catchment flows run {job.name} --partition {last}",
        )
    return None


def _last(instance: dg.DagsterInstance, kind: dg.PartitionsDefinition[str]) -> str:
    """A partition that a hint may name, the latest if there is any."""
    import dagster as dg

    if isinstance(kind, dg.DynamicPartitionsDefinition):
        known = instance.get_dynamic_partitions(kind.name or "")
        return known[-1] if known else "P"
    return kind.get_last_partition_key() or "P"


def _home(workspace: Workspace) -> Path:
    """Where Dagster keeps what it knows: ``DAGSTER_HOME``, or a folder beside the workspace's file.

    A new one tells nobody about its use.
    """
    beside = Path(workspace.file or ".").absolute().parent / RESERVED / "dagster"
    home = Path(os.environ.get("DAGSTER_HOME") or beside)
    home.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), (home / "dagster.yaml").open("x") as file:
        file.write("telemetry:\n  enabled: false\nnux:\n  enabled: false\n")
    return home


def _step(event: dg.DagsterEvent) -> dict[str, str]:
    """What failed, in the words of our own error where it is one: others may show values."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    name = (error.cls_name if error else None) or "unknown"
    ours = {one.__name__ for one in CatchmentError.__subclasses__()}
    message = error.message.partition(": ")[2].strip() if error and name in ours else name
    return {"step": event.step_key or "", "error": message}


def _show_definitions(data: dict[str, Any]) -> Iterator[str]:
    for name in ("assets", "jobs", "sensors"):
        yield f"{name}: {', '.join(data[name])}"
    yield f"{data['checks']} checks; all definitions are well"


def _show_run(data: dict[str, Any]) -> Iterator[str]:
    yield from (f"materialized {name}" for name in data["materialized"])
    for one in data["checks"]:
        word = "well" if one["passed"] else "WRONG" if one["severity"] == "ERROR" else "warning"
        yield f"{word}: {one['asset']}: {one['check']}"
    yield from (f"failed: {one['step']}: {one['error']}" for one in data["steps"])
    yield f"{data['job']} {'succeeded' if data['success'] else 'FAILED'} (run {data['run']})"
