"""The partitions of aggregates; they grow as sites and sessions come."""

import dagster as dg


def partitions(aggregate: str) -> dg.DynamicPartitionsDefinition:
    """The sites of an aggregate; a sensor adds those that come."""
    return dg.DynamicPartitionsDefinition(name=aggregate.replace("/", "_"))


def by_session(aggregate: str) -> dg.DynamicPartitionsDefinition:
    """The sessions of an aggregate of arrays; a run adds those that come."""
    return dg.DynamicPartitionsDefinition(name=f"{aggregate.replace('/', '_')}_sessions")
