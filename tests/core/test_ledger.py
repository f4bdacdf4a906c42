"""The ledger's contract, on both databases."""

from itertools import count

import pytest

from catchment.testing.ledger import LedgerContract


class TestSqlite(LedgerContract):
    @pytest.fixture
    def new_url(self, tmp_path):
        numbers = count()
        return lambda: f"sqlite:///{tmp_path / f'ledger-{next(numbers)}.db'}"


class TestPostgres(LedgerContract):
    @pytest.fixture
    def new_url(self, emptied_ledgers):
        urls = iter(emptied_ledgers)
        return lambda: next(urls)

    @pytest.fixture
    def empty_url(self, postgres):
        return postgres.database()
