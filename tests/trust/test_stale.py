"""A worker that sleeps while it takes an upload in: what came meanwhile counts, not what it holds."""

from __future__ import annotations

from catchment.studies import library, scan
from catchment.studies.model import State
from catchment.testing.studies import parquet
from tests.studies.studying import model, published, stage, state_of, table, workspace

NAME = "core__count.cube.parquet"


def test_an_upload_that_was_replaced_while_its_worker_slept_does_not_come_back(tmp_path):
    former, newer = (table((n, None, None), (n, "f", "x")) for n in (1, 2))
    with workspace(tmp_path) as space:
        stage(space, "a", parquet(former), name=NAME)
        ledger = space.ledger
        real = ledger.receive_many

        def sleeping(*arguments):
            del ledger.receive_many
            stage(space, "a", parquet(newer), name=NAME)
            scan.scan(library.house(space))
            assert published(space) == model({"a": newer})
            return real(*arguments)

        ledger.receive_many = sleeping
        scan.scan(library.house(space))
        scan.scan(library.house(space))
        assert published(space) == model({"a": newer})
        assert state_of(space)["last_valid"] == 1
        assert state_of(space)[State.ARCHIVED.value] == 1
