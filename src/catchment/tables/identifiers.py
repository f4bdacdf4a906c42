"""Who knows at which center a participant is now: a file, an HTTP service, an AWS Lambda function.

All answer one question, :meth:`Identifiers.current`, asked once for all participants of a run.
Identifiers are never logged, and no message holds one.

*A file* (a path, ``file://`` or ``s3://``; Parquet if its name ends in ``.parquet``, else CSV) has
columns ``naccid``, ``adcid`` and, unless all rows are active, ``active``; others are ignored. A
participant has a row for each center.

*A service* is asked page by page. The request is the JSON object ``{"mode": "prod", "naccid":
"NACC000001", "offset": 0, "limit": 100}``; the answer is a status and the JSON text ``{"offset": 0,
"limit": 100, "data": [{"naccid": "NACC000001", "adcid": 20, "active": true}]}``, whose other fields
are ignored. The last page has less entries than its ``limit``. Status 404, or no entry at all, says
that the participant is unknown; 429 and 5xx say to come back later.

* An HTTP service (``https://...``) gets the request as the body of a POST; its status and body are
  the answer. That is what a gateway makes of the function below.
* A Lambda function (``lambda:NAME[:QUALIFIER]``; the qualifier is the mode unless given) gets the
  request as its event and returns ``{"statusCode": 200, "body": "<the JSON text>"}``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol

from catchment.core.errors import Invalid, Unavailable
from catchment.core.strictjson import loads
from catchment.tables.identifiers_file import FileIdentifiers

log = logging.getLogger(__name__)

LIMIT = 100  # entries asked for in one page
MAX_PAGES = 100  # of one participant: more is a service that repeats itself
MAX_ANSWER = 1 << 20  # bytes of one answer
MAX_WAIT = 60.0  # seconds before a retry, whatever the service asks for
_LAMBDA = re.compile(r"lambda:([A-Za-z0-9_-]{1,64})(?::([A-Za-z0-9$_-]{1,128}))?")


class Identifiers(Protocol):
    """The centers of participants."""

    def current(self, naccids: Collection[str]) -> Mapping[str, frozenset[int]]:
        """The active ADCIDs of each participant, empty where none is; unknown ones are missing.

        Raises Unavailable where the answer cannot be had now, Invalid where the question, the
        settings or the file must be mended.
        """
        ...


@dataclass(frozen=True, slots=True)
class IdentifiersOptions:
    """How providers are asked.

    Attributes:
        token: bearer token of an HTTP service.
        region: AWS region of a Lambda function; None: what the ``AWS_*`` environment says.
        store: options of the store that a file is in (:func:`catchment.core.store.open_store`).
        workers: requests at a time.
        timeout: seconds that one request may take.
        attempts: of one request, before the service counts as unavailable.
        wait: seconds before the second attempt; each further wait is twice as long.
    """

    token: str | None = field(default=None, repr=False)
    region: str | None = None
    store: Mapping[str, str] = field(default_factory=dict, repr=False)
    workers: int = 8
    timeout: float = 30.0
    attempts: int = 6
    wait: float = 0.5


def open_identifiers(
    spec: str, mode: str, options: IdentifiersOptions | None = None
) -> Identifiers:
    """The provider that a setting names; nothing is asked yet.

    Args:
        spec: a path, or ``file://``, ``s3://``, ``http://``, ``https://`` or ``lambda:``.
        mode: ``prod`` or ``dev``.
        options: None: the defaults.

    Raises Invalid (kind ``bad-identifiers-spec``) for anything else.
    """
    options = options or IdentifiersOptions()
    url = re.match(r"([a-z0-9+]+):", spec)
    match url[1] if url else "":
        case "":
            path = Path(spec).absolute()
            return FileIdentifiers(path.parent.as_uri(), path.name, options.store)
        case "file" | "s3":
            folder, _, name = spec.rpartition("/")
            return FileIdentifiers(folder, name, options.store)
        case "http" | "https":
            return ServiceIdentifiers("HTTP", partial(_http, spec, options), mode, options)
        case "lambda" if parts := _LAMBDA.fullmatch(spec):
            connect = partial(_lambda, parts[1], parts[2] or mode, options)
            return ServiceIdentifiers("Lambda", connect, mode, options)
    raise Invalid(
        "not a provider of identifiers, expected a file, an s3://, https:// or lambda:NAME",
        kind="bad-identifiers-spec",
        hint="catchment tables run --help",
    )


class Answer(NamedTuple):
    """What a service said: a status as HTTP has them (RFC 9110, section 15), and a JSON text."""

    status: int
    body: bytes | str
    retry_after: str = ""  # seconds, where the service says so


class Later(Exception):
    """The service gave no answer, and may give one later."""

    def __init__(self, problem: str, after: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.seconds = min(float(after), MAX_WAIT) if re.fullmatch(r"[0-9]{1,9}", after) else 0.0


Ask = Callable[[Mapping[str, Any]], Answer]


@dataclass(frozen=True, slots=True)
class ServiceIdentifiers:
    """A service that is asked for one participant at a time, a few of them at once.

    ``current`` raises Unavailable: kind ``identifiers-unavailable`` after all attempts, kind
    ``identifiers-malformed`` for an answer that is not as described above; Invalid (kind
    ``identifiers-refused``) where the service does not accept the question or the token.

    Attributes:
        connect: opens the service: a context manager that gives a function to ask it.
    """

    name: str
    connect: Callable[[], AbstractContextManager[Ask]]
    mode: str
    options: IdentifiersOptions

    def current(self, naccids: Collection[str]) -> Mapping[str, frozenset[int]]:
        """See :class:`Identifiers`."""
        wanted = sorted(set(naccids))
        log.info("asking the %s identifiers service for %d participants", self.name, len(wanted))
        failed = Event()
        with self.connect() as ask, ThreadPoolExecutor(self.options.workers) as pool:
            try:
                answers = list(pool.map(partial(self._centers, ask, failed), wanted))
            except BaseException:
                failed.set()  # who waits for a retry gives up now
                pool.shutdown(cancel_futures=True)
                raise
        return {
            n: centers for n, centers in zip(wanted, answers, strict=True) if centers is not None
        }

    def _centers(self, ask: Ask, failed: Event, naccid: str) -> frozenset[int] | None:
        active: set[int] = set()
        offset = 0
        for _ in range(MAX_PAGES):
            request = {"mode": self.mode, "naccid": naccid, "offset": offset, "limit": LIMIT}
            answer = self._ask(ask, failed, request)
            entries, limit = ([], LIMIT) if answer.status == 404 else self._page(answer, naccid)
            active.update(adcid for adcid, is_active in entries if is_active)
            offset += len(entries)
            if len(entries) < limit:
                return frozenset(active) if offset else None
        raise _malformed(self.name, f"more than {MAX_PAGES} full pages for one participant")

    def _ask(self, ask: Ask, failed: Event, request: Mapping[str, Any]) -> Answer:
        """An answer with status 200 or 404."""
        wait = self.options.wait
        for attempt in range(1, self.options.attempts + 1):
            try:
                answer = ask(request)
                if answer.status in (200, 404):
                    return answer
                if answer.status != 429 and answer.status < 500:
                    raise _refused(self.name, f"status {answer.status}")
                raise Later(f"status {answer.status}", answer.retry_after)
            except Later as later:
                problem = later.problem
                if attempt == self.options.attempts or failed.wait(max(wait, later.seconds)):
                    break
                wait = min(wait * 2, MAX_WAIT)
        raise Unavailable(
            f"the {self.name} identifiers service gave no answer in {attempt} attempts: {problem}",
            kind="identifiers-unavailable",
            hint="run again when the service is back; nothing was published",
        )

    def _page(self, answer: Answer, naccid: str) -> tuple[list[tuple[int, bool]], int]:
        """ADCID and whether it is active, of each entry; and how many a full page has."""
        try:
            page = loads(answer.body)
            limit = min(int(page["limit"]), LIMIT)
            entries = [_entry(entry, naccid) for entry in page["data"]]
        except (ValueError, TypeError, KeyError):
            raise _malformed(
                self.name, "something else than a page of the participant's entries"
            ) from None
        if limit < 1:
            raise _malformed(self.name, f"a limit of {limit} entries a page")
        return entries, limit


def _entry(entry: Mapping[str, Any], naccid: str) -> tuple[int, bool]:
    adcid, active = entry["adcid"], entry["active"]
    # type() and not isinstance: True is an int to Python, and no center's number.
    if entry["naccid"] != naccid or type(adcid) is not int or adcid < 0 or type(active) is not bool:
        raise ValueError("not an entry of the participant")
    return adcid, active


def _refused(name: str, problem: str) -> Invalid:
    return Invalid(
        f"the {name} identifiers service refused the question: {problem}",
        kind="identifiers-refused",
        hint="check its name or URL, and the token or the AWS credentials",
    )


def _malformed(name: str, problem: str) -> Unavailable:
    return Unavailable(
        f"the {name} identifiers service answered with {problem}",
        kind="identifiers-malformed",
        hint="docs/reference/formats.md (Identifiers) tells what it has to answer",
    )


@contextmanager
def _http(url: str, options: IdentifiersOptions) -> Iterator[Ask]:
    import httpx

    headers = {"Authorization": f"Bearer {options.token}"} if options.token else {}
    with httpx.Client(headers=headers, timeout=options.timeout) as client:

        def ask(request: Mapping[str, Any]) -> Answer:
            try:
                with client.stream("POST", url, json=request) as response:
                    body = _bounded("HTTP", response.iter_bytes())
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise _refused("HTTP", "not a URL") from None
            except httpx.HTTPError as error:
                raise Later(type(error).__name__) from None
            return Answer(response.status_code, body, response.headers.get("retry-after", ""))

        yield ask


@contextmanager
def _lambda(name: str, qualifier: str, options: IdentifiersOptions) -> Iterator[Ask]:
    try:
        import boto3
        from botocore import exceptions as aws
        from botocore.config import Config
    except ImportError:
        raise Invalid(
            "a Lambda function needs boto3",
            kind="missing-extra",
            hint="pip install 'catchment[s3]'",
        ) from None
    config = Config(
        connect_timeout=options.timeout,
        read_timeout=options.timeout,
        max_pool_connections=options.workers,
        retries={"total_max_attempts": 1},  # retries are ours, for all providers alike
    )
    try:
        client = boto3.Session().client("lambda", region_name=options.region, config=config)
    except aws.BotoCoreError as error:
        raise _refused("Lambda", type(error).__name__) from None

    def ask(request: Mapping[str, Any]) -> Answer:
        try:
            response = client.invoke(
                FunctionName=name,
                Qualifier=qualifier,
                InvocationType="RequestResponse",
                Payload=json.dumps(request).encode(),
            )
            payload = _bounded("Lambda", response["Payload"].iter_chunks())
        except aws.ClientError as error:
            code, about = error.response["Error"]["Code"], error.response["ResponseMetadata"]
            if (status := about["HTTPStatusCode"]) == 429 or status >= 500:
                raise Later(code, about["HTTPHeaders"].get("retry-after", "")) from None
            raise _refused("Lambda", code) from None
        except (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError) as error:
            raise Later(type(error).__name__) from None
        except aws.BotoCoreError as error:
            raise _refused("Lambda", type(error).__name__) from None
        if "FunctionError" in response:
            raise Later("the function failed")
        try:
            event = loads(payload)
            return Answer(int(event["statusCode"]), str(event.get("body", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _malformed("Lambda", "something else than a status and a body") from None

    with closing(client):
        yield ask


def _bounded(name: str, chunks: Iterable[bytes]) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MAX_ANSWER:
            raise _malformed(name, f"more than {MAX_ANSWER} bytes")
    return bytes(data)
