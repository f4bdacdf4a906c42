from __future__ import annotations

import pytest

from tests.studies import studying


@pytest.fixture
def space(tmp_path):
    with studying.workspace(tmp_path) as made:
        yield made
