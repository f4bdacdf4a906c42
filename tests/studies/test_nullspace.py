"""What a system of equations fixes, where too many unknowns hang together to solve it."""

from __future__ import annotations

import numpy as np
import pytest

from catchment.studies import nullspace
from catchment.studies.nullspace import Equations, determined

FREE, FIXED = 680, 24


def a_large_system(seed):
    """Equations as a dense matrix: the last unknowns are fixed, and also in equations of others."""
    chance = np.random.default_rng(seed)
    dense = np.zeros((480 + FIXED + 4, FREE + FIXED))
    for row in dense[:480]:
        row[chance.choice(FREE, 6, replace=False)] = chance.choice([-1, 1], 6)
        if chance.random() < 0.3:
            row[FREE + chance.integers(FIXED)] = 1
    for row in dense[480:]:
        row[FREE + chance.choice(FIXED, 8, replace=False)] = chance.choice([-1, 1], 8)
    return dense


@pytest.mark.parametrize("at_once", [1 << 18, 100])
def test_a_large_system_fixes_what_its_rows_span(monkeypatch, at_once):
    """As a decomposition of all of it tells; and it says that it is not exact."""
    monkeypatch.setattr(nullspace, "_AT_ONCE", at_once)
    dense = a_large_system(3)
    _, sizes, basis = np.linalg.svd(dense)
    rank = int(np.sum(sizes > 1e-9))
    fixed = (np.abs(basis[rank:]) < 1e-7).all(axis=0)
    assert fixed[FREE:].all()
    assert not fixed[:FREE].all()
    rows, columns = np.nonzero(dense)
    system = Equations.summed(rows, columns.astype(np.int32), dense[rows, columns], dense.shape[1])
    parts = [system]
    found, exact = determined(parts, np.full(dense.shape[1], 100))
    assert (parts, exact) == ([], False)
    assert found.tolist() == fixed.tolist()
