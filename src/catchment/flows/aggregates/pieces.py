"""What a snapshot is made of, as assets of their own: tables, data packages, sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from catchment.core.account import Account
from catchment.core.capability import Outcome
from catchment.core.workspace import Workspace
from catchment.flows.aggregates.partitions import by_session, partitions

Piece = tuple[str, str | None, dict[str, Any]]  # name, partition, what is to be told of it


def specs(workspace: Workspace, aggregate: str) -> list[dg.AssetSpec]:
    """The pieces that the latest snapshot has; more may come with the next one."""
    capability, _, name = aggregate.partition("/")
    if capability == "arrays":
        found: Mapping[str, dg.PartitionsDefinition[str] | None] = {
            "sessions": by_session(aggregate)
        }
    else:
        latest = workspace.ledger_to_read().latest(aggregate)
        told = latest.provenance if latest else {}
        found = dict.fromkeys(_names(capability, told), None)
        if capability == "tables":
            found = dict.fromkeys(found, partitions(aggregate))
    return [
        dg.AssetSpec(
            [capability, name, piece],
            deps=[[capability, name]],
            group_name=capability,
            kinds={"catchment"},
            partitions_def=partition,
        )
        for piece, partition in found.items()
    ]


def events(
    workspace: Workspace, outcome: Outcome, instance: dg.DagsterInstance
) -> Iterator[dg.AssetMaterialization]:
    """One for each piece that a run made anew, or that Dagster has not heard of yet."""
    capability, _, name = outcome.aggregate.partition("/")
    heard: dict[str, set[str | None]] = {}
    for piece, partition, told in _PIECES.get(capability, _none)(workspace, outcome):
        key = dg.AssetKey([capability, name, piece])
        if outcome.state != "published":
            if piece not in heard:
                heard[piece] = _heard(instance, key)
            if partition in heard[piece]:
                continue
        metadata = {"snapshot": outcome.snapshot, **told}
        yield dg.AssetMaterialization(key, metadata=metadata, partition=partition)


def _heard(instance: dg.DagsterInstance, key: dg.AssetKey) -> set[str | None]:
    """Partitions of which Dagster has heard; None among them for the asset as a whole."""
    latest = instance.get_latest_materialization_event(key)
    return {*instance.get_materialized_partitions(key), *([None] if latest else [])}


def sessions(outcome: Outcome) -> list[str]:
    """The partitions that a run of arrays adds."""
    if not outcome.aggregate.startswith("arrays/"):
        return []
    return sorted({one["session"] for one in _kept(outcome)})


def _kept(outcome: Outcome) -> list[dict[str, Any]]:
    return [one for one in outcome.details.get("sessions", ()) if one["status"] == "kept"]


def _names(capability: str, provenance: Mapping[str, Any]) -> list[str]:
    if capability == "tables":
        return sorted(provenance.get("tables", ()))
    return []


def _none(workspace: Workspace, outcome: Outcome) -> Iterable[Piece]:  # noqa: ARG001 - as the others
    return ()


def _tables(workspace: Workspace, outcome: Outcome) -> Iterator[Piece]:  # noqa: ARG001 - the same
    """A table of a center: what became of its rows."""
    account: Account = outcome.account
    for line, balance in account:
        if line.part and line.unit == "rows":
            told = {"received": balance.received, "kept": balance.kept}
            yield line.part, line.site, told | {"dropped": balance.dropped.total()}


def _studies(workspace: Workspace, outcome: Outcome) -> Iterator[Piece]:
    from catchment.studies import library

    for one in library.packages(workspace):
        if f"studies/{one.study}" == outcome.aggregate:
            told = {"rows": one.rows, "version": one.version, "sites": len(one.sites)}
            yield f"{one.name}__{one.site}" if one.site else one.name, None, told


def _arrays(workspace: Workspace, outcome: Outcome) -> Iterator[Piece]:  # noqa: ARG001 - the same
    for one in _kept(outcome):
        plain = {k: v for k, v in one.items() if isinstance(v, str | int | float)}
        yield "sessions", one["session"], plain


_PIECES: Mapping[str, Callable[[Workspace, Outcome], Iterable[Piece]]] = {
    "tables": _tables,
    "studies": _studies,
    "arrays": _arrays,
}
