"""How tests are handed out to processes: what shares much stays together, the rest goes one by one.

The largest files come first and single tests last, so that no process waits long for another.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
MANY = 20  # tests of a file


class Together(LoadScopeScheduling):
    """A file that has many tests, or fixtures of its own, which each process would make anew."""

    @cached_property
    def _files(self) -> set[str]:
        counts = Counter(map(_file, self.collection or ()))
        return {
            name
            for name, tests in counts.items()
            if tests >= MANY or 'scope="module"' in (ROOT / name).read_text()
        }

    def _split_scope(self, nodeid: str) -> str:
        return _file(nodeid) if _file(nodeid) in self._files else nodeid


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
