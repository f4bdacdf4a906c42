"""The ledger's contract, on both databases."""

from itertools import count

import pytest

from catchment.testing.ledger import LedgerContract
from tests.forking import CONTEXT


class Contract(LedgerContract):
    processes = staticmethod(lambda: CONTEXT)  # one server of processes for all tests


class TestSqlite(Contract):
    @pytest.fixture
    def new_url(self, tmp_path):
        numbers = count()
        return lambda: f"sqlite:///{tmp_path / f'ledger-{next(numbers)}.db'}"


class TestPostgres(Contract):
    @pytest.fixture
    def new_url(self, emptied_ledgers):
        urls = iter(emptied_ledgers)
        return lambda: next(urls)

    @pytest.fixture
    def empty_url(self, postgres):
        return postgres.database()


def test_a_suite_has_processes_of_its_own():
    child = LedgerContract.processes().Process(target=abs, args=(1,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
