"""Secrets of people and sites: made at random, kept as argon2id hashes, compared in one time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from catchment.core.errors import Conflict, Invalid, NotFound

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from catchment.core.store import Store

MIN_LENGTH = 16  # of a secret that a person chose
MAX_LENGTH = 1024
KEY_BYTES = 32  # of a key that no person ever types
LIVE = 2  # secrets of a user at a time: the old and the new one, while they are exchanged

# OWASP's second choice for argon2id: 19 MiB, two passes.
_MEMORY, _PASSES = 19 * 1024, 2
_AT_ONCE = 4  # so many logins at a time cost 76 MiB, and no more

_turns = threading.BoundedSemaphore(_AT_ONCE)


def new_secret() -> str:
    """256 random bits, as 64 hexadecimal digits: no shell and no option parser minds them."""
    return secrets.token_hex(32)


def kept_key(store: Store, place: str) -> bytes:
    """The key that a workspace keeps there for itself; made where there is none."""
    try:
        return store.read(place)
    except NotFound:
        made = secrets.token_bytes(KEY_BYTES)
        try:
            store.put(place, made)
        except Conflict:
            return store.read(place)
        return made


def check_secret(secret: str) -> str:
    """The secret itself, if it may be one; Invalid (kind ``bad-secret``), without it, otherwise."""
    if not MIN_LENGTH <= len(secret) <= MAX_LENGTH or not secret.isprintable():
        raise Invalid(
            f"expected a secret of {MIN_LENGTH} to {MAX_LENGTH} printable characters",
            kind="bad-secret",
            hint="leave --secret-stdin out to have a random one made",
        )
    return secret


def hash_secret(secret: str) -> str:
    """The argon2id hash, which is all that may be stored."""
    with _turns:
        return _hasher().hash(secret)


def match(secret: str, hashes: Sequence[str]) -> str | None:
    """The hash that is the secret's; None if none of them is.

    A refusal always costs as much as :data:`LIVE` comparisons: for unknown users (no hashes) as for
    wrong secrets, so that time tells nothing.
    """
    for one in hashes[:LIVE]:
        if _is(secret, one):
            return one
    for _ in range(LIVE - len(hashes)):
        _is(secret, _nobodys())
    return None


def _is(secret: str, hashed: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    with _turns:
        try:
            return _hasher().verify(hashed, secret)
        except (VerificationError, InvalidHashError):
            return False


@cache
def _hasher() -> PasswordHasher:
    try:
        from argon2 import PasswordHasher, Type
    except ImportError:
        raise Invalid(
            "secrets of sites need argon2, which is not installed",
            kind="missing-extra",
            hint="pip install 'catchment[web]'",
        ) from None
    return PasswordHasher(
        time_cost=_PASSES, memory_cost=_MEMORY, parallelism=1, hash_len=32, type=Type.ID
    )


@cache
def _nobodys() -> str:
    return hash_secret(new_secret())
