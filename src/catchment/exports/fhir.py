"""Records from a FHIR server: a search for each member, page by page (FHIR R4, section 3.1.1)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from catchment.core.errors import CatchmentError, Invalid, NotFound, Unavailable
from catchment.core.names import shown
from catchment.core.settings import without_password
from catchment.exports.sources import MAX_TEXT, Item, Pause, Reader, items_of, read_bundle

RETRIES = 6
FIRST_PAUSE = 0.1  # seconds; doubled for each try
LONGEST_PAUSE = 120.0  # seconds, whatever the server asks for
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class FhirSource:
    """A search on a FHIR server.

    Attributes:
        url: base of the server; pages are taken from this origin only.
        resource_type: what is searched for (``ExplanationOfBenefit``).
        parameter: search parameter that takes the member (``patient``).
        parameters: more of them, the same for all members.
        page: resources asked for in a page.
        token: bearer token.
        certificate: PEM files of a client certificate and its key, for mutual TLS.
        authority: PEM file of the authority that signed the server's certificate; None: the usual.
        retries: further tries of a request that fails for a passing reason.
        timeout: seconds without an answer, or a further byte of it.
    """

    url: str
    resource_type: str
    parameter: str = "patient"
    parameters: Mapping[str, str] = field(default_factory=dict)
    page: int = 1000
    token: str | None = field(default=None, repr=False)
    certificate: tuple[str, str] | None = None
    authority: str | None = None
    retries: int = RETRIES
    timeout: float = 60.0

    def __post_init__(self) -> None:
        """Invalid: kind ``bad-url``; ``bad-parameters`` for those that a search sets itself."""
        url = _url(self.url)
        known = url is not None and url.scheme in ("http", "https") and url.host
        if url is None or not known or url.query or url.fragment:  # the type follows the path
            raise Invalid(
                "not the URL of a FHIR server: expected https://host/path, "
                f"got {shown(without_password(self.url))}",
                kind="bad-url",
            )
        if taken := {self.parameter, "_count"} & self.parameters.keys():
            raise Invalid(
                f"the search sets these parameters itself: {', '.join(sorted(taken))}",
                kind="bad-parameters",
                hint="take them out of parameters; page is _count, search is the member's",
            )

    def members(self) -> None:
        """A search does not know for whom."""
        return

    def describe(self) -> dict[str, Any]:
        """The search, without secrets."""
        return {
            "fhir": without_password(self.url),
            "type": self.resource_type,
            "search": self.parameter,
            "parameters": dict(self.parameters),
        }

    @contextmanager
    def open(self, pause: Pause) -> Iterator[Reader]:
        """A reader with connections of its own."""
        headers = {"Accept": "application/fhir+json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        trust = self._trust() if self.url.startswith("https:") else False
        with httpx.Client(
            headers=headers, timeout=self.timeout, verify=trust, follow_redirects=False
        ) as client:
            yield lambda member: self._search(client, pause, member)

    def _trust(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.authority)
            if self.certificate:
                context.load_cert_chain(*self.certificate)
        except OSError as error:
            raise Invalid(
                f"the certificates cannot be used: {error.strerror or type(error).__name__}",
                kind="bad-certificate",
                hint="expected PEM files of certificate, key and authority",
            ) from None
        return context

    def _search(self, client: httpx.Client, pause: Pause, member: str) -> Iterator[Item]:
        base = httpx.URL(self.url.rstrip("/") + "/").join(self.resource_type)
        query = {self.parameter: member, **self.parameters, "_count": str(self.page)}
        url = base.copy_merge_params(query)
        seen: set[httpx.URL] = set()
        while True:
            seen.add(url)
            bundle = read_bundle(self._get(client, pause, url))
            yield from items_of(bundle, self.resource_type, member)
            if bundle.next is None:
                return
            following = _url(bundle.next, base) if bundle.next else None
            if following is None or following in seen or _origin(following) != _origin(base):
                raise Invalid(
                    "the server's next page is one it gave before, on another server, or no URL",
                    kind="bad-next-page",
                )
            url = following

    def _get(self, client: httpx.Client, pause: Pause, url: httpx.URL) -> bytes:
        for attempt in range(self.retries + 1):
            wanted = 0.0
            try:
                with client.stream("GET", url) as response:
                    if response.status_code == httpx.codes.OK:
                        return _body(response)
                    error = _refused(response)
                    wanted = _retry_after(response)
                    if response.status_code not in _AGAIN:
                        raise error
            except httpx.RequestError as failed:
                error = Unavailable(
                    f"the server did not answer ({type(failed).__name__})", kind="source-down"
                )
            if attempt < self.retries:
                pause(max(FIRST_PAUSE * 2**attempt, min(wanted, LONGEST_PAUSE)))
        raise error


def _body(response: httpx.Response) -> bytes:
    chunks = []
    size = 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > MAX_TEXT:
            raise Invalid(f"a page has more than {MAX_TEXT} bytes", kind="too-large")
        chunks.append(chunk)
    return b"".join(chunks)


def _refused(response: httpx.Response) -> CatchmentError:
    status = response.status_code
    message = f"the server answered {status} {httpx.codes.get_reason_phrase(status)}"
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return Invalid(message, kind="source-denied", hint="look at the token or the certificate")
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        return NotFound(message, kind="source-unknown")
    if status in _AGAIN:
        return Unavailable(message, kind="source-down")
    return Invalid(message, kind="source-refused")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait for (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0


def _url(text: str, base: httpx.URL | None = None) -> httpx.URL | None:
    try:
        return base.join(text) if base else httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
