"""The dashboard API: what is published of studies, for charts and downloads.

All of it is read only, by a key in the header ``x-api-key``, and shows only what was released.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import APIKeyHeader

from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.ledger.keys import Key, Keys, Read
from catchment.core.workspace import Workspace
from catchment.studies import library, subscribe
from catchment.studies.charts.filters import Condition, Group, parse
from catchment.studies.charts.query import Cache
from catchment.studies.check import local
from catchment.studies.model import SITE, Package
from catchment.web.cells import Kind, written
from catchment.web.guard import status_of
from catchment.web.login import Unauthorized

FORMAT = "2"  # of metadata
COLUMNS_FORMAT = "1"
_PAGE = 1000

_key = APIKeyHeader(name="X-API-Key", description="A key of the workspace.", auto_error=False)

Limit = Annotated[int, Query(ge=1, le=10_000, description="At most so many entries.")]
Offset = Annotated[int, Query(ge=0, le=10**9, description="Entries to pass over.")]
IfNoneMatch = Annotated[str | None, Header(description="ETags that the client has.")]


class Forbidden(Invalid):
    """The key is good, but not for this."""

    kind = "forbidden"
    status_code = 403


class KeyNeeded(Unauthorized):
    """No key, or one that opens nothing."""

    challenge = 'ApiKey realm="catchment"'


_ERRORS: dict[int | str, dict[str, Any]] = {
    304: {"description": "As the client has it"},
    400: {"description": "The request is malformed"},
    401: {"description": "No good key"},
    403: {"description": "The key is not for this"},
    404: {"description": "Unknown"},
}


class View:
    """What one key may see of a workspace."""

    def __init__(self, house: Dashboard, key: Key) -> None:
        self.workspace = house.workspace
        self.cache = house.cache
        self.key = key

    def study(self, study: str) -> bool:
        """Whether the key may see a study."""
        return not self.key.studies or study in self.key.studies

    def site(self, site: str) -> bool:
        """Whether the key may see what is a single site's."""
        return not self.key.sites or site in self.key.sites

    def packages(self) -> list[Package]:
        """Those that the key may see, in order of id."""
        return [one for one in library.packages(self.workspace) if self.sees(one)]

    def sees(self, one: Package) -> bool:
        """Whether the key may see a package."""
        return self.study(one.study) and (not one.site or self.site(one.site))

    def package(self, id_: str) -> Package:
        """One by its id; NotFound (kind ``no-package``)."""
        one = library.package(self.workspace, id_)
        if one is not None and self.sees(one):
            return one
        raise NotFound("there is no such data package", kind="no-package", hint="/data-packages")

    def location(self, one: Package) -> str:
        """Where a package's table is, as listings tell it."""
        store = self.workspace.settings.workspace.store
        return f"{store.rstrip('/')}/{one.key}" if store.startswith("s3:") else one.key


class Dashboard:
    """What the routes share: the workspace, its keys, and packages in memory."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.keys = Keys(workspace.ledger)
        self.cache = Cache()


def _view(request: Request, token: Annotated[str | None, Depends(_key)]) -> Iterator[View]:
    house: Dashboard = request.app.state.dashboard
    key = house.keys.find(token) if token else None
    if key is None:
        raise KeyNeeded("expected a key in the header x-api-key", hint="catchment key add NAME")
    status = 200
    try:
        yield View(house, key)
    except CatchmentError as error:
        status = status_of(error)
        raise
    finally:
        path = request.url.path[:500].replace("\0", "").encode(errors="replace").decode()
        house.keys.note([Read(house.keys.now(), key.name, path, status)])


Seen = Annotated[View, Depends(_view, scope="function")]
router = APIRouter(tags=["dashboard"], responses=_ERRORS)


@router.get("/metadata")
@router.get("/metadata/{site}")
@router.get("/metadata/{site}/{study}")
@router.get("/metadata/{site}/{study}/{package}")
@router.get("/metadata/{site}/{study}/{package}/{version}")
def metadata(
    see: Seen,
    site: str | None = None,
    study: str | None = None,
    package: str | None = None,
    version: str | None = None,
) -> dict[str, Any]:
    """When each site's packages were uploaded, changed, aggregated or refused last."""
    tree: dict[str, Any] = {}
    for one in library.times(see.workspace):
        if see.study(one.study) and see.site(one.site):
            told = {"transaction_format_version": FORMAT} | {
                name: at.isoformat() if (at := getattr(one, name)) else None
                for name in (
                    "last_upload",
                    "last_data_update",
                    "last_aggregation",
                    "last_error",
                    "deleted",
                )
            }
            below = tree.setdefault(one.site, {}).setdefault(one.study, {})
            below.setdefault(one.package, {})[f"{one.version:03d}"] = told
    return _below(tree, site, study, package, version)


@router.get("/study-periods")
@router.get("/study-periods/{site}")
@router.get("/study-periods/{site}/{study}")
def periods(see: Seen, site: str | None = None, study: str | None = None) -> dict[str, Any]:
    """What time each site's data of each study covers."""
    tree: dict[str, Any] = {}
    for one in library.periods(see.workspace):
        if see.study(one.study) and see.site(one.site):
            told = {"earliest_date": one.earliest_date, "latest_date": one.latest_date}
            versions = tree.setdefault(one.site, {}).setdefault(one.study, {})
            versions[f"{one.version:03d}"] = told
    return _below(tree, site, study)


@router.get("/data-packages")
def packages(
    see: Seen, name: str | None = None, limit: Limit = _PAGE, offset: Offset = 0
) -> Response:
    """What is published: merged cubes, and flat tables of sites."""
    found = [one for one in see.packages() if name in {None, one.name}]
    return _page([_described(see, one) for one in found], limit, offset)


@router.get("/aggregates")
def aggregates(see: Seen, limit: Limit = _PAGE, offset: Offset = 0) -> Response:
    """Where the merged cubes are."""
    found = [see.location(one) for one in see.packages() if one.kind == "cube"]
    return _page(found, limit, offset)


@router.get("/subscriptions")
def subscriptions(see: Seen, limit: Limit = _PAGE, offset: Offset = 0) -> Response:
    """The ids of what is registered as a table; without a target, of all that is published."""
    tables = subscribe.registered(see.workspace)
    found = [
        one.id
        for one in (see.packages() if tables is None else tables)
        if see.study(one.study) and (not one.site or see.site(one.site))
    ]
    return _page(found, limit, offset)


@router.get("/data-packages/{package_id}")
def package(see: Seen, package_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """One data package."""
    one = see.package(package_id)
    told = _described(see, one)
    return _tagged(_tag(told), if_none_match, lambda: JSONResponse(told))


@router.get("/data-packages/{package_id}/chart")
def chart(  # noqa: PLR0917 - the parameters of the request
    see: Seen,
    package_id: str,
    column: str,
    stratifier: str | None = None,
    filter_: Annotated[
        list[str] | None,
        Query(alias="filter", description="`column:operator[:value]`; `,` is AND; several: OR."),
    ] = None,
    where: Annotated[str | None, Query(description="The same as JSON.")] = None,
    marks: Annotated[  # noqa: FBT002 - a parameter of the request
        bool,
        Query(
            description="Also say of each value how many sites reported it, of how many of these "
            "a cell is suppressed, and how many sites are absent."
        ),
    ] = False,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Counts by a column, and by a stratifier, under filters; each person once."""
    one = see.package(package_id)
    if one.kind != "cube":
        raise Invalid("expected a merged cube to chart, got a flat table", kind="not-a-cube")
    texts, stratifier = filter_ or [], stratifier or None
    tag = _tag(one.released.digest, column, stratifier, texts, where, see.key.sites, marks)

    def answer() -> Response:
        filters = parse(texts, where)
        held = see.cache.get(
            one.released.digest,
            lambda: local(see.workspace.store, one.released.key),
            one.marked,
        )
        used = {column, stratifier, *(c.column for c in filters.conditions())}
        if see.key.sites and SITE in used:
            allowed = tuple(Condition(SITE, "strEq", site) for site in see.key.sites)
            filters = Group("all", (filters, Group("any", allowed)))
        told = held.chart(column, stratifier, filters, sites=len(one.sites) if marks else None)
        first: dict[str, Any] = {"column": column, "filters": texts}
        if stratifier is not None:
            first["stratifier"] = stratifier
        if one.round_to:  # sums are of rounded counts, too
            told["round_to"] = one.round_to
        return JSONResponse(first | told)

    return _tagged(tag, if_none_match, answer)


@router.get("/from-parquet/")
def from_parquet(
    see: Seen,
    s3_path: str,
    type_: Annotated[Kind, Query(alias="type")] = "csv",
    marks: Annotated[  # noqa: FBT002 - a parameter of the request
        bool,
        Query(
            description="Also say of each row whether its count is suppressed, how many sites "
            "reported it, of how many of these it is suppressed, how many are absent, and to what "
            "counts are rounded where they are."
        ),
    ] = False,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A published aggregate as text. Whatever else lies in the store is not served."""
    for one in see.packages():
        if one.kind == "cube" and s3_path in {one.key, see.location(one)}:
            break
    else:
        raise NotFound("there is no such aggregate", kind="no-package", hint="/aggregates")
    if see.key.sites:
        raise Forbidden("the key is for some sites only, and this is of all of them")
    media = {"csv": "text/csv", "tsv": "text/tab-separated-values", "json": "application/json"}
    tag = _tag(one.released.digest, type_, marks)
    return _tagged(
        tag,
        if_none_match,
        lambda: StreamingResponse(
            written(see.workspace, one, type_, marks=marks),
            media_type=f"{media[type_]}; charset=utf-8",
        ),
    )


@router.get("/studies")
def studies(see: Seen, limit: Limit = _PAGE, offset: Offset = 0) -> Response:
    """The studies that something was uploaded for."""
    return _page([one for one in library.studies(see.workspace) if see.study(one)], limit, offset)


def _manifests(see: View, study: str) -> dict[str, Any]:
    if not see.study(study) or study not in library.studies(see.workspace):
        raise NotFound("there is no such study", kind="no-study", hint="/studies")
    every = [one for one in library.manifests(see.workspace) if one.study == study]
    return {f"{one.version:03d}": one for one in sorted(every, key=lambda one: one.version)}


def _manifest(see: View, study: str, version: str) -> Any:
    found = _manifests(see, study)
    name = next(reversed(found), "") if version == "@latest" else version.zfill(3)
    if name not in found:
        raise NotFound("there is no such version", kind="no-version", hint=f"/studies/{study}")
    return found[name]


@router.get("/studies/{study}")
def study(see: Seen, study: str) -> dict[str, Any]:
    """The versions of a study that have a manifest."""
    return {"study": study, "versions": list(_manifests(see, study))}


@router.get("/studies/{study}/versions/{version}")
def version(see: Seen, study: str, version: str) -> dict[str, Any]:
    """What a manifest says, whose it is, and which sites' differ."""
    one = _manifest(see, study, version)
    told = {"study": study, "version": f"{one.version:03d}", "manifest": dict(one.content)}
    shared = not see.key.sites
    return told | ({"owner": one.owner, "conflicts": list(one.conflicts)} if shared else {})


@router.get("/studies/{study}/versions/{version}/dictionary")
def dictionary(see: Seen, study: str, version: str) -> dict[str, Any]:
    """The columns of all published tables of a version."""
    number = _manifest(see, study, version).version
    return {
        one.id: _described(see, one)["columns"]
        for one in see.packages()
        if one.study == study and one.version == number
    }


@router.get("/studies/{study}/versions/{version}/tables")
@router.get("/studies/{study}/versions/{version}/tables/{table}")
def tables(see: Seen, study: str, version: str, table: str | None = None) -> Any:
    """The published tables of a version."""
    number = _manifest(see, study, version).version
    found: dict[str, list[dict[str, Any]]] = {}
    for one in see.packages():
        if one.study == study and one.version == number:
            found.setdefault(one.name, []).append(_described(see, one))
    if table is not None and table not in found:
        raise NotFound("there is no such table", kind="no-table", hint="leave the table out")
    return list(found) if table is None else found[table]


def _below(tree: dict[str, Any], *names: str | None) -> dict[str, Any]:
    """The tree with only the branches of these names; NotFound (kind ``not-found``)."""
    if not names or names[0] is None:
        return tree
    if names[0] not in tree:
        raise NotFound("nothing is known of that")
    return {names[0]: _below(tree[names[0]], *names[1:])}


def _described(see: View, one: Package) -> dict[str, Any]:
    told: dict[str, Any] = {
        "study": one.study,
        "name": one.name,
        "column_types_format_version": COLUMNS_FORMAT,
        "columns": {
            name: {"type": column.type, "distinct_values_count": column.distinct}
            for name, column in one.columns.items()
        },
        "last_data_update": one.updated_at.isoformat(),
        "s3_path": see.location(one),
        "total": one.total,
        "version": f"{one.version:03d}",
        "id": one.id,
    }
    if one.kind == "flat":
        return told | {"site": one.site, "type": "flat"}
    return told | {"min_cell": one.min_cell, "round_to": one.round_to}


def _page(found: Sequence[Any], limit: int, offset: int) -> Response:
    return JSONResponse(found[offset : offset + limit], headers={"X-Total-Count": str(len(found))})


def _tag(*parts: object) -> str:
    text = json.dumps(parts, default=list)
    return f'"{hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]}"'


def _tagged(tag: str, known: str | None, answer: Callable[[], Response]) -> Response:
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "X-API-Key"}
    tags = {one.strip().removeprefix("W/") for one in (known or "").split(",")}
    if tag in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    response = answer()
    response.headers.update(headers)
    return response
