"""The client of the site API: packs, checks as the center will, sends, waits for the answer.

An upload that was interrupted is gone on with: its transaction is remembered in the user's state
folder, by what is sent, by whom and where to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catchment.core.errors import Conflict, Invalid, NotFound, Unavailable
from catchment.core.progress import Event, Progress, silent
from catchment.core.scratch import scratch_folder
from catchment.core.workspace import Workspace
from catchment.studies import layout, library, route
from catchment.studies.model import Kind

if TYPE_CHECKING:
    import httpx

VERSION_TABLE = "__meta_version.meta.parquet"
ATTEMPT = 60.0  # seconds without an answer, after which a request has failed
PAUSES = (0.5, 30.0)  # seconds between attempts: the first, and the longest
POLLS = (0.2, 5.0)  # the same between two questions whether it is done

_AGAIN = {408, 412, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be sent: one file, with its name and what it belongs to."""

    path: Path
    filename: str
    study: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send it, as whom."""

    url: str
    user: str
    secret: str
    network: str = ""
    allow_http: bool = False

    def __repr__(self) -> str:
        return f"Target({self.url!r}, {self.user!r})"


@contextmanager
def packed(source: Path, study: str | None = None, version: int | None = None) -> Iterator[Parcel]:
    """The parcel of a zip, a single file, or a folder of a study's files, for a while.

    A folder's zip is the same for the same files. Invalid (kind ``nothing-to-upload``,
    ``bad-name``) where there is nothing that could be sent.
    """
    with scratch_folder() as folder:
        path = source.absolute()
        if path.is_dir():
            name = study or path.name
            ready = path / f"{name}.zip"
            path = ready if ready.is_file() else _zipped(path, name, folder / f"{name}.zip")
        elif not path.is_file():
            raise Invalid(f"there is no file {source}", kind="nothing-to-upload", hint="check it")
        name = layout.check_part(study or path.name.partition(".")[0].partition("__")[0], "study")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        filename = layout.check_file(path.name)
        number = _version(path) if version is None else version
        yield Parcel(path, filename, name, layout.check_version(number), digest)


def check(parcel: Parcel) -> dict[str, Any]:
    """What the center will say of it, as far as that can be told here: the same code looks at it.

    In the shape of the center's own answer, without a transaction.
    """
    with scratch_folder() as folder:
        here = {
            "workspace.store": f"{folder}/store",
            "workspace.ledger": f"{folder}/ledger.db",
            f"studies.{parcel.study}.min_cell": 0,
        }
        site = "here"
        with Workspace.described(here) as workspace, parcel.path.open("rb") as file:
            key = layout.staging(parcel.study, site, parcel.version, parcel.filename)
            workspace.store.put(key, iter(lambda: file.read(1 << 20), b""))
            answer = library.submit(
                workspace, site, parcel.study, parcel.version, parcel.filename, key, "", "here"
            )
    files = [one.to_json() for one in answer.files]
    for one in files:
        one["quality"] = {}  # there was no previous upload to compare with
    part = {"filename": parcel.filename, "version": parcel.version, "size": answer.size}
    part |= {"state": "checked", "accepted": answer.accepted, "error": None, "files": files}
    told = {"transaction": None, "site": None, "study": parcel.study, "state": "checked"}
    return told | {"accepted": answer.accepted, "uploads": [part]}


def send(
    parcel: Parcel, target: Target, *, patience: float = 900, progress: Progress = silent
) -> dict[str, Any]:
    """Send it, and return the center's answer to each of its files.

    Failures that may pass are tried again, with ever longer pauses, for as long as the patience
    lasts: Unavailable then. Invalid for refusals that no waiting mends.
    """
    import httpx

    _check_url(target)
    memory = _Memory(parcel, target)
    login = httpx.BasicAuth(target.user, target.secret)
    with httpx.Client(timeout=ATTEMPT, follow_redirects=False) as http:
        return _Sending(http, login, parcel, target, memory, patience, progress).run()


class _Sending:
    """One call of :func:`send`."""

    def __init__(  # noqa: PLR0917 - its parts
        self,
        http: httpx.Client,
        login: httpx.BasicAuth,
        parcel: Parcel,
        target: Target,
        memory: _Memory,
        patience: float,
        progress: Progress,
    ) -> None:
        self._http = http
        self._login = login
        self._parcel = parcel
        self._base = target.url.rstrip("/")
        self._network = target.network
        self._memory = memory
        self._deadline = time.monotonic() + patience
        self._progress = progress
        self._pause = PAUSES[0]

    def run(self) -> dict[str, Any]:
        told = self._show() if self._memory.transaction else None
        while told is None or told["state"] in {"open", "abandoned"}:
            self._send_once()
            told = self._show()
        pause = POLLS[0]
        while told is None or told["state"] != "done":
            self._wait(pause, "the center has not processed the upload yet")
            pause = min(2 * pause, POLLS[1])
            told = self._show()
        self._memory.forget()
        return told

    def _send_once(self) -> None:
        """Ask for a form and send the file; whether it has arrived is asked afterwards."""
        self._memory.remember()
        form = self._ask().json()
        try:
            with self._parcel.path.open("rb") as file:
                counted = _Counted(file, self._parcel.path.stat().st_size, self._progress)
                answer = self._http.post(
                    form["url"],
                    data=form["fields"],
                    files={"file": (self._parcel.filename, counted)},  # type: ignore[dict-item]
                )
        except _transport_errors() as error:
            self._wait_longer(f"the upload broke off ({type(error).__name__})")
            return
        if answer.status_code == 204:
            return
        if answer.status_code in _AGAIN | {403, 404, 409}:  # of a form: ask for another
            self._wait_longer(f"the upload was answered {answer.status_code}")
            return
        raise _refused(answer)

    def _ask(self) -> httpx.Response:
        body = {
            "study": self._parcel.study,
            "filename": self._parcel.filename,
            "data_package_version": self._parcel.version,
        }
        url = f"{self._base}/{self._network}"

        headers = {"transaction-id": self._memory.transaction}
        return self._persist(
            lambda: self._http.post(url, json=body, headers=headers, auth=self._login)
        )

    def _show(self) -> dict[str, Any] | None:
        """What the center says of the upload; None if it knows nothing of it."""
        url = f"{self._base}/uploads/{self._memory.transaction}"
        try:
            answer = self._persist(lambda: self._http.get(url, auth=self._login))
        except NotFound:
            self._memory.forget()
            return None
        told: dict[str, Any] = answer.json()
        return told

    def _persist(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """The good answer to a question, asked until there is one."""
        while True:
            try:
                answer = ask()
            except _transport_errors() as error:
                self._wait_longer(f"no answer ({type(error).__name__})")
                continue
            if answer.is_success:
                self._pause = PAUSES[0]
                return answer
            if answer.status_code not in _AGAIN:
                raise _refused(answer)
            self._wait_longer(_message(answer))

    def _wait_longer(self, why: str) -> None:
        self._wait(self._pause * random.uniform(0.5, 1), why)  # noqa: S311 - not a secret
        self._pause = min(2 * self._pause, PAUSES[1])

    def _wait(self, seconds: float, why: str) -> None:
        if time.monotonic() + seconds > self._deadline:
            raise Unavailable(
                f"gave up waiting: {why}",
                kind="center-unavailable",
                hint="run the same command again: it goes on where it stopped",
            )
        self._progress(Event("upload", message=why))
        time.sleep(seconds)


class _Memory:
    """The transaction of an upload that is under way, beyond the end of this process."""

    def __init__(self, parcel: Parcel, target: Target) -> None:
        what = [target.url, target.network, target.user, parcel.study, parcel.version]
        name = hashlib.sha256(json.dumps([*what, parcel.filename, parcel.digest]).encode())
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
        self._path = Path(state, "catchment", "uploads", name.hexdigest()[:32])
        self.transaction = ""
        with suppress(OSError):
            self.transaction = layout.check_transaction(self._path.read_text("ascii").strip())

    def remember(self) -> None:
        """Keep it before the center hears of it: a lost answer then loses nothing."""
        if not self.transaction:
            self.transaction = str(uuid.uuid4())
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self.transaction, "ascii")

    def forget(self) -> None:
        self.transaction = ""
        self._path.unlink(missing_ok=True)


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, file: Any, size: int, progress: Progress) -> None:
        self._file = file
        self._size = size
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        done, state = self._file.tell(), "step" if data else "done"
        self._progress(Event("upload", state, done, self._size, "bytes"))  # type: ignore[arg-type]
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def fileno(self) -> int:
        return int(self._file.fileno())


def _zipped(folder: Path, study: str, target: Path) -> Path:
    """A zip of the study's files in a folder: plain, and the same for the same files."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and (path.name.startswith(f"{study}__") or path.suffix == ".toml")
    ]
    files = [path for path in files if route.route(study, path.name).kind is not Kind.OTHER]
    if not files:
        raise Invalid(
            f"the folder has no files of the study {study!r}",
            kind="nothing-to-upload",
            hint=f"expected names such as {study}__NAME.cube.parquet, or give --study",
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            info = zipfile.ZipInfo(path.name)  # without a time
            info.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as member:
                while chunk := source.read(1 << 20):
                    member.write(chunk)
    return target


def _version(path: Path) -> int:
    """What the study's table of its version says; 0 where there is none, or it cannot be read."""
    import io

    import pyarrow.parquet as pq

    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(VERSION_TABLE))
            table = pq.read_table(io.BytesIO(archive.read(name)))
        return int(float(table.column("data_package_version")[0].as_py()))
    except (
        StopIteration,
        zipfile.BadZipFile,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
    ):
        return 0


def _check_url(target: Target) -> None:
    parts = urlsplit(target.url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username:
        raise Invalid("expected --url https://host", kind="bad-url", hint="ask the center for it")
    if parts.scheme == "http" and not target.allow_http and not _is_here(parts.hostname):
        raise Invalid(
            "plain http:// would show the secret to everybody on the way",
            kind="bad-url",
            hint="use https://, or --allow-http within a network that you trust",
        )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _transport_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.TransportError,)


def _message(answer: httpx.Response) -> str:
    """What an answer says for people; of pages that proxies send, only the status."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if isinstance(told, Mapping):
        told = told.get("message")
    return told if isinstance(told, str) else f"the center answered {answer.status_code}"


def _refused(answer: httpx.Response) -> Exception:
    message = _message(answer)
    match answer.status_code:
        case 401 | 403:
            return Invalid(message, kind="unauthorized", hint="check --user and the secret")
        case 404:
            return NotFound(message, kind="no-upload")
        case 409:
            return Conflict(message, kind="upload-busy")
    return Invalid(message, kind="upload-refused", hint="mend it, then upload again")
