"""What lies in ``finished``: parts, the pieces that they still have to give, and the problems."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import chain

from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.names import shown
from catchment.exports import layout
from catchment.exports.directories import JobDirectories
from catchment.exports.files import failure, told
from catchment.exports.journal import Journal, Use
from catchment.exports.model import Kind, Piece
from catchment.exports.parts import Identity, PartFolder, Span
from catchment.exports.watch import Watch

LOOK_SECONDS = 2.0  # between two looks at the whole folder, for what the kernel does not tell


class Inventory:
    """The parts of one job that may be combined, kept up to date by :meth:`look`.

    Attributes:
        done: all workers are done, and every part that they left is known.
        totals: bytes of all pieces, by kind.
        problems: parts that cannot be combined now, with the reason.
    """

    def __init__(
        self, directories: JobDirectories, folder: PartFolder, max_bytes: int, journal: Journal
    ) -> None:
        self.done = False
        self.totals = dict.fromkeys(Kind, 0)
        self.problems: dict[str, CatchmentError] = {}
        self._directories = directories
        self._folder = folder
        self._max_bytes = max_bytes
        self._journal = journal
        self._watch = Watch()
        self._looked = float("-inf")
        self._identities: dict[str, Identity] = {}
        self._pieces: dict[Kind, dict[str, list[Piece]]] = {kind: {} for kind in Kind}

    def open(self) -> None:
        """Begin to watch."""
        self._watch.open(self._directories.job_path, self._folder.path)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def wait(self, stop: threading.Event) -> None:
        """Return when it is worth to look again, or when ``stop`` is set."""
        self._watch.wait(LOOK_SECONDS, stop)

    def pieces(self, kind: Kind) -> Iterable[Piece]:
        """All that may be combined."""
        return chain.from_iterable(self._pieces[kind].values())

    def look(self) -> bool:
        """Take in what came since the last look; whether that changes what may be combined.

        One look after the end of the workers shows all there is.
        """
        if self.done:
            return False
        done = self._directories.done  # first: what is finished before that must not be missed
        arrived = self._watch.names()
        late = time.monotonic() - self._looked > LOOK_SECONDS
        if arrived == set() and not late and not done:
            return False
        self._journal.settle()  # first: what is removed now must not be taken for new
        names = self._list() if arrived is None or late or done else arrived
        if done:
            for name in [*self.problems, *self._journal.stuck]:
                self._identities.pop(name, None)  # perhaps it is mended
            self.problems.clear()
        new = [name for name in names if name not in self._identities]
        for name in new:
            self._try_to_add(name)
        self.done = done
        return done or bool(new)

    def reopen(self) -> None:
        """Look again although the workers were done: a part came late."""
        self.done = False

    def uses(self, kind: Kind, pieces: Sequence[Piece]) -> list[Use]:
        """What an output of these pieces takes, for the journal."""
        left = {piece.part: len(self._pieces[kind][piece.part]) for piece in pieces}
        uses = []
        for piece in pieces:
            left[piece.part] -= 1
            span = Span(piece.start, piece.size)
            uses.append(Use(piece.part, self._identities[piece.part], span, not left[piece.part]))
        return uses

    def take(self, kind: Kind, pieces: Sequence[Piece]) -> None:
        """Strike off what an output took."""
        for piece in pieces:
            self.totals[kind] -= piece.size
            rest = self._pieces[kind][piece.part]
            rest.remove(piece)
            if not rest:
                del self._pieces[kind][piece.part]
                del self._identities[piece.part]

    def set_aside(self, kind: Kind, pieces: Sequence[Piece]) -> bool:
        """Whether a part is not what it was when it was measured; it becomes a problem."""
        changed = [part for part in {piece.part for piece in pieces} if not self._is_same(part)]
        for part in changed:
            self.totals[kind] -= sum(piece.size for piece in self._pieces[kind].pop(part))
            self.problems[part] = Unavailable(
                f"{part} changed after it was finished",
                kind="part-changed",
                hint="workers must write elsewhere, then move the file here; run again",
            )
        return bool(changed)

    def _list(self) -> list[str]:
        self._looked = time.monotonic()
        with told("the folder of finished files cannot be read"):
            return self._folder.names()

    def _try_to_add(self, name: str) -> None:
        try:
            self._add(name)
        except FileNotFoundError:
            self._identities.pop(name, None)
        except OSError as error:
            self.problems[name] = failure(error, f"{name} cannot be read")
        except CatchmentError as error:
            self.problems[name] = error

    def _add(self, name: str) -> None:
        status = self._folder.stat(name)
        identity = self._identities[name] = Identity.of(status)
        kind = layout.kind_of(name)
        if kind is None or not stat.S_ISREG(status.st_mode):
            raise Invalid(
                f"{shown(name)} in the folder of finished files is not one that a worker writes",
                kind="not-a-part",
                hint="move it away, then run the same command again",
            )
        used = self._journal.used(name, identity)
        pieces = self._folder.measure(name, identity.size, self._max_bytes, used)
        if pieces:
            self._pieces[kind][name] = pieces
            self.totals[kind] += sum(piece.size for piece in pieces)
        elif self._journal.remove(name, identity):  # it was empty, or used up
            del self._identities[name]

    def _is_same(self, part: str) -> bool:
        try:
            return Identity.of(self._folder.stat(part)) == self._identities[part]
        except OSError:
            return False
