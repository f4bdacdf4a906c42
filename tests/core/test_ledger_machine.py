"""The ledger against a model, with faults, on both databases."""

import pytest

from catchment.testing.ledger_machine import check_ledger


def test_sqlite(tmp_path):
    check_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", examples=12, steps=30)


def test_postgres(postgres):
    check_ledger(postgres.database(), examples=6, steps=25)


@pytest.mark.soak
def test_sqlite_for_long(tmp_path):
    check_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", examples=1000, steps=60)


@pytest.mark.soak
def test_postgres_for_long(postgres):
    check_ledger(postgres.database(), examples=400, steps=60)
