"""The contract in memory."""

from itertools import count

import pytest

from catchment.core.errors import Invalid
from catchment.core.store import open_store
from catchment.testing.store import StoreContract

_names = count()


class TestMemoryStore(StoreContract):
    processes = False

    @pytest.fixture
    def store(self):
        return open_store(f"memory://contract-{next(_names)}")

    @pytest.fixture
    def other(self):
        return open_store(f"memory://contract-{next(_names)}")


def test_a_name_is_one_store_within_a_process():
    open_store("memory://shared").put("k", b"1", mode="overwrite")
    assert open_store("memory://shared").read("k") == b"1"
    assert open_store("memory://shared") is open_store("memory://shared")


@pytest.mark.parametrize("url", ["memory://", "memory://../x", "memory://a//b"])
def test_a_bad_name_is_refused(url):
    with pytest.raises(Invalid):
        open_store(url)
