"""Sign-in by OpenID Connect: authorization code with PKCE, and what the identity may do here."""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from catchment.core.errors import CatchmentError, Invalid, NotFound, Unavailable
from catchment.core.ledger.people import STATE
from catchment.core.sections import OidcSettings
from catchment.web.pages.house import (
    BEFORE,
    UI,
    NotForYou,
    Visitor,
    cookie_name,
    house_of,
    safe_next,
    set_cookie,
)
from catchment.web.pages.signin import let_in

PATIENCE = 10.0  # seconds for each question to the provider
LASTS = timedelta(minutes=10)  # from the button to the way back
LEEWAY = 60  # seconds by which clocks may differ
_ROLES = (("operator", "operators"), ("steward", "stewards"), ("viewer", "viewers"))

log = logging.getLogger(__name__)
router = APIRouter(prefix=f"{UI}/oidc", include_in_schema=False)


@router.get("/start")
def start(request: Request, next: str = f"{UI}/") -> Response:  # noqa: A002 - the parameter's name
    """Go to the provider, with a secret that the way back must bring."""
    settings, house = _settings(request), house_of(request)
    state, browser, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    verifier = secrets.token_urlsafe(48)
    kept = {
        "nonce": nonce,
        "verifier": verifier,
        "next": safe_next(next),
        "browser": hashlib.sha256(browser.encode()).hexdigest(),
    }
    house.people.begin(state, STATE, "", "", lasts=LASTS, data=kept)
    with _client(request, settings) as client:
        url, _ = client.create_authorization_url(
            _told(settings)["authorization_endpoint"],
            state=state,
            nonce=nonce,
            code_challenge=base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
            .decode()
            .rstrip("="),
            code_challenge_method="S256",
        )
    response = RedirectResponse(url, 303)
    set_cookie(request, response, browser, name=BEFORE)
    return response


@router.get("/back")
def back(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
    """Come back from the provider: the same browser, with a code that is good once."""
    settings, house = _settings(request), house_of(request)
    kept = house.people.take(state, STATE)
    browser = request.cookies.get(cookie_name(request, BEFORE), "")
    same = kept and kept.data["browser"] == hashlib.sha256(browser.encode()).hexdigest()
    if kept is None or not same:
        raise NotForYou(
            "the sign-in was begun in another browser, or too long ago",
            kind="oidc-refused",
            hint="sign in again",
        )
    if error or not code:
        raise _refused("the provider did not let you in")
    claims = _claims(request, settings, code, kept.data)
    role = role_of(settings, claims)
    user = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])[:200]
    if not role:
        house.people.note(user, "", "sign-in refused", "no group of this identity has a role")
        raise NotForYou(
            "you are known, but none of your groups has a role here",
            kind="oidc-no-role",
            hint="ask whoever runs this service",
        )
    return let_in(request, Visitor(user, role, "", ""), "oidc", str(kept.data["next"]))


def role_of(settings: OidcSettings, claims: Mapping[str, Any]) -> str:
    """The greatest role of the identity's groups; empty for none."""
    found = claims.get(settings.claim) or []
    groups = {found} if isinstance(found, str) else {one for one in found if isinstance(one, str)}
    for role, setting in _ROLES:
        if groups & set(getattr(settings, setting)):
            return role
    return ""


def _settings(request: Request) -> OidcSettings:
    settings = house_of(request).workspace.settings.oidc
    if settings.issuer is None:
        raise NotFound("no provider is named in the settings", kind="no-oidc", hint="[oidc] issuer")
    return settings


def _client(request: Request, settings: OidcSettings) -> Any:
    try:
        from authlib.integrations.httpx_client import OAuth2Client
    except ImportError:
        raise Invalid(
            "sign-in by OpenID Connect needs authlib, which is not installed",
            kind="missing-extra",
            hint="pip install 'catchment[oidc]'",
        ) from None
    base = house_of(request).workspace.settings.serve.base_url or str(request.base_url)
    secret = settings.client_secret.get_secret_value() if settings.client_secret else None
    return OAuth2Client(
        settings.client_id,
        secret,
        scope="openid profile email",
        redirect_uri=f"{base.rstrip('/')}{UI}/oidc/back",
        token_endpoint_auth_method="client_secret_basic" if secret else "none",
        timeout=PATIENCE,
    )


def _told(settings: OidcSettings) -> Any:
    """What the provider says of itself; its issuer must be the one that we trust."""
    issuer = str(settings.issuer).rstrip("/")
    told = _ask(f"{issuer}/.well-known/openid-configuration")
    if str(told.get("issuer", "")).rstrip("/") != issuer:
        raise _refused("the provider names another issuer")
    return told


def _ask(url: str) -> Any:
    try:
        return httpx.get(url, timeout=PATIENCE).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        log.warning("the OpenID provider does not answer: %s", type(error).__name__)
        raise Unavailable(
            "the sign-in provider does not answer", kind="oidc-down", hint="try again later"
        ) from None


def _claims(
    request: Request, settings: OidcSettings, code: str, kept: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The identity that the code stands for, signed by the provider, for us, for this sign-in."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    told = _told(settings)
    try:
        with _client(request, settings) as client:
            tokens = client.fetch_token(
                told["token_endpoint"], code=code, code_verifier=kept["verifier"]
            )
        keys = KeySet.import_key_set(_ask(told["jwks_uri"]))
        # Never HMAC and never "none": the key is public.
        token = jwt.decode(tokens["id_token"], keys, algorithms=["RS256", "ES256", "PS256"])
    except CatchmentError:
        raise
    except (JoseError, KeyError, ValueError, httpx.HTTPError) as error:
        log.warning("a sign-in by OpenID failed: %s", type(error).__name__)
        raise _refused("what the provider says of you cannot be verified") from None
    except Exception as error:  # noqa: BLE001 - authlib's own errors have no public base
        log.warning("a sign-in by OpenID failed: %s", type(error).__name__)
        raise _refused("the provider did not take its code back") from None
    claims: Mapping[str, Any] = token.claims
    audience = claims.get("aud")
    ours = settings.client_id in ([audience] if isinstance(audience, str) else audience or [])
    now = time.time()
    good = (
        str(claims.get("iss", "")).rstrip("/") == str(settings.issuer).rstrip("/")
        and ours
        and secrets.compare_digest(str(claims.get("nonce", "")), str(kept["nonce"]))
        and isinstance(claims.get("exp"), int | float)
        and claims["exp"] > now - LEEWAY
        and claims.get("nbf", 0) <= now + LEEWAY
        and bool(claims.get("sub"))
    )
    if not good:
        raise _refused("what the provider says is not for this sign-in")
    return claims


def _refused(message: str) -> NotForYou:
    return NotForYou(message, kind="oidc-refused", hint="sign in again")
