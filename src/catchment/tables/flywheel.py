"""Datasets that Flywheel projects point to, asked through its SDK (extra ``flywheel``).

Each center is a group; its project of a given label carries a dataset pointer in its custom
information, under ``dataset`` (:func:`catchment.tables.sources.read_pointer`). The SDK repeats
reading requests by itself and can be told how often by ``FLYWHEEL_SDK_TOTAL_RETRIES``; what it
does not repeat, the lookup of a project, is repeated here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.tables.model import Center
from catchment.tables.sources import Place, Stores, read_pointer

PAUSES = (0.5, 1.0, 2.0)  # seconds before the lookup is tried again
KEY_HINT = "make a new API key in Flywheel's user profile; it reads host:key"


class _Refused(Exception):
    """Flywheel said no, with an HTTP status: 401, 403, 404 ..."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class FlywheelSource:
    """Datasets at the places that projects with one label point to, one project a center.

    The key is handed to the SDK and kept nowhere else; no message and no log holds it.

    Args:
        api_key: of Flywheel, ``host:key`` or ``host:port:key``.
        project: label of the target project, the same in each group.
        allow: URLs that a pointer must not lead out of; see :class:`Stores`.
        options: of :func:`catchment.core.store.open_store`.
        timeout: seconds for one request.
        pauses: seconds to wait before each further try of a lookup.

    Raises Invalid: kind ``missing-extra`` without the SDK, kind ``flywheel-key`` for a key that is
    malformed or refused. Unavailable (kind ``flywheel-unavailable``) if Flywheel does not answer.
    """

    one_bucket = True

    def __init__(
        self,
        api_key: str,
        project: str,
        *,
        allow: Iterable[str] = (),
        options: Mapping[str, str] | None = None,
        timeout: int = 60,
        pauses: Iterable[float] = PAUSES,
    ) -> None:
        if not project or "/" in project:
            raise Invalid("expected the label of one Flywheel project", kind="bad-project")
        # The SDK would look for the key of whoever is logged in if it were given none.
        if len(api_key.split(":")) < 2 or not all(api_key.split(":")):
            raise Invalid(
                "not an API key of Flywheel: expected host:key", kind="flywheel-key", hint=KEY_HINT
            )
        try:
            import flywheel
        except ImportError:
            raise Invalid(
                "datasets in Flywheel need its SDK, which is not installed",
                kind="missing-extra",
                hint="pip install 'catchment[flywheel]'",
            ) from None
        self._refusal: type[Exception] = flywheel.ApiException
        self._project = project
        self._pauses = tuple(pauses)
        self._stores = Stores(allow, options)
        try:
            self._client = self._asked(lambda: flywheel.Client(api_key, request_timeout=timeout))
        except _Refused as refused:
            if refused.status in {401, 403}:
                raise Invalid(
                    "Flywheel does not accept the API key", kind="flywheel-key", hint=KEY_HINT
                ) from None
            raise _unavailable(f"answered with status {refused.status}") from None

    def locate(self, center: Center) -> Place:
        """Where the pointer of the center's project leads.

        NotFound: kind ``no-project`` or ``no-dataset-pointer``. Invalid: kind ``bad-pointer``,
        ``place-not-allowed``, or ``project-forbidden`` if the key may not read the project.
        Unavailable if Flywheel does not answer, or (kind ``flywheel-key``) no longer takes the key.
        """
        path = f"{center.id}/{self._project}"
        try:
            # A lookup leaves out parts of the custom information, a project by its id does not.
            found = self._asked(
                lambda: self._client.lookup([center.id, self._project]), self._pauses
            )
            info = self._asked(lambda: self._client.get_project(found.id).info)
        except _Refused as refused:
            raise _refusal(refused.status, path) from None
        pointer = info.get("dataset") if isinstance(info, dict) else None
        if not pointer:
            raise NotFound(
                f"the project {path} has no dataset in its custom information",
                kind="no-dataset-pointer",
                hint="run its export to datasets first, or exclude the center",
            )
        return self._stores.place(center, read_pointer(pointer))

    def _asked(self, ask: Callable[[], Any], pauses: Iterable[float] = ()) -> Any:
        """The answer; Unavailable if there is none after all tries."""
        for pause in pauses:
            try:
                return self._answer(ask)
            except Unavailable:
                time.sleep(pause)
        return self._answer(ask)

    def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._refusal as refusal:
            status: int | None = getattr(refusal, "status", None)
            problem = f"answered with status {status}"
        # Each version of the SDK has another HTTP library below it, with errors of its own.
        except Exception as error:  # noqa: BLE001
            status, problem = None, f"gave no usable answer ({type(error).__name__})"
        # Raised out here, for what the SDK raises may hold the request, and so the key.
        if status and 400 <= status < 500 and status != 429:
            raise _Refused(status)
        raise _unavailable(problem)


def _refusal(status: int, path: str) -> NotFound | Invalid | Unavailable:
    match status:
        case 404:
            return NotFound(
                f"Flywheel has no project {path}",
                kind="no-project",
                hint="create it there, or exclude the center",
            )
        case 403:
            return Invalid(
                f"the API key may not read the project {path}",
                kind="project-forbidden",
                hint="give its user a role in the project",
            )
        case 401:
            return Unavailable(
                "Flywheel does not accept the API key any more", kind="flywheel-key", hint=KEY_HINT
            )
        case _:
            return _unavailable(f"answered with status {status} for the project {path}")


def _unavailable(problem: str) -> Unavailable:
    return Unavailable(
        f"Flywheel {problem}", kind="flywheel-unavailable", hint="run again when Flywheel is well"
    )
