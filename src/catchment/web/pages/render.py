"""Facts become pages: Jinja templates, static files by content, and how things are spelt."""

from __future__ import annotations

import gzip
import hashlib
import json
import mimetypes
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from catchment.core.errors import NotFound
from catchment.web.pages import words
from catchment.web.pages.house import UI, csrf_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from catchment.web.pages.house import Asked

HERE = Path(__file__).parent
STATIC = HERE / "static"

# No inline script, no inline style, nothing from elsewhere. `data:` and `blob:` are pictures that
# a page draws itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
POLICIES = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # with less, browsers do not tell where a form comes from
    "Vary": "Cookie, HX-Request",
}
_FOR_EVER = "public, max-age=31536000, immutable"

static = APIRouter(include_in_schema=False)


@cache
def environment() -> Environment:
    """The templates; everything that they print is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "ago": words.ago,
        "when": words.when,
        "day": words.day,
        "size": words.size,
        "number": words.number,
        "share": words.share,
        "seconds": words.seconds,
        "segment": lambda text: quote(str(text), safe=""),
        "query": lambda told: urlencode(
            [(k, v) for k, v in told.items() if v not in (None, "")], doseq=True
        ),
        "first_two": lambda row: list(row[:2]),
        "pretty": lambda told: json.dumps(told, indent=2, ensure_ascii=False),
        "short": lambda text, most=12: text if len(text) <= most else f"{text[:most]}…",
    }
    made.globals |= {
        "static": static_url,
        "UI": UI,
        "now": lambda: datetime.now(UTC),
        "state": words.state,
        "bar": words.bar,
    }
    return made


def page(ask: Asked, template: str, facts: Any, *, part: str = "") -> str:
    """A page, or one block of it."""
    given = common(ask.request) | {
        "me": ask.visitor,
        "csrf": csrf_of(ask.visitor.token),
        "workspace": ask.workspace.settings.workspace.name,
        "f": facts,
    }
    found = environment().get_template(template)
    if not part:
        return found.render(given)
    return "".join(found.blocks[part](found.new_context(given)))


def common(request: Request) -> dict[str, Any]:
    """What every page knows, somebody's or nobody's."""
    return {
        "me": None,
        "csrf": "",
        "workspace": "",
        "path": request.url.path,
        "asked": dict(request.query_params),
        "f": {},
    }


def html(text: str, status: int = 200) -> HTMLResponse:
    """An answer for browsers."""
    return HTMLResponse(text, status)


@cache
def _files() -> dict[str, Path]:
    """What is served, by name: nothing else is looked for, or remembered."""
    return {p.relative_to(STATIC).as_posix(): p for p in STATIC.rglob("*") if p.is_file()}


@cache
def _content(path: Path) -> tuple[bytes, bytes, str]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return content, gzip.compress(content, 9, mtime=0), digest


def _file(name: str) -> tuple[bytes, bytes, str]:
    """Content, the same compressed, and its digest; NotFound (kind ``no-file``)."""
    path = _files().get(name)
    if path is None:
        raise NotFound("there is no such file", kind="no-file")
    return _content(path)


@cache
def static_url(name: str) -> str:
    """Where a static file is; the URL changes with the content, so browsers keep it for ever."""
    return f"/static/{_file(name)[2]}/{name}"


@static.get("/static/{digest}/{name:path}")
def static_file(request: Request, digest: str, name: str) -> Response:
    """A file that a page needs."""
    content, packed, known = _file(name)
    headers = {"Vary": "Accept-Encoding", "ETag": f'"{known}"'}
    headers["Cache-Control"] = _FOR_EVER if digest == known else "no-cache"
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = packed, "gzip"
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    return Response(content, media_type=kind, headers=headers)
