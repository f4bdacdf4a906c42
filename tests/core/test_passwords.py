"""Secrets: random, hashed, and no slower to refuse for one user than for another."""

import sys

import pytest

from catchment.core import passwords
from catchment.core.errors import Invalid, NotFound
from catchment.core.passwords import kept_key
from catchment.core.store import open_store


def test_a_secret_matches_its_hash_only():
    secret = passwords.new_secret()
    hashed = passwords.hash_secret(secret)
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert secret not in hashed
    assert passwords.hash_secret(secret) != hashed
    assert passwords.match(secret, [hashed])
    assert passwords.match(secret, [passwords.hash_secret("something else entirely"), hashed])
    assert not passwords.match(secret + "0", [hashed])
    assert not passwords.match(secret, ["no hash at all"])
    assert len({passwords.new_secret() for _ in range(100)}) == 100


def test_no_more_than_the_live_secrets_are_looked_at():
    hashes = [passwords.hash_secret(f"the {n}th secret of all") for n in range(3)]
    assert not passwords.match("the 2th secret of all", hashes)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_refusal_costs_the_same(count, monkeypatch):
    hashes = [passwords.hash_secret(f"secret {n}") for n in range(count)]
    passwords._nobodys()
    looked = []
    compare = passwords._is
    monkeypatch.setattr(passwords, "_is", lambda s, h: looked.append(h) or compare(s, h))
    assert not passwords.match("wrong", hashes)
    assert len(looked) == passwords.LIVE
    assert all(h.startswith("$argon2id$v=19$m=19456,t=2,p=1$") for h in looked)


@pytest.mark.parametrize("bad", ["", "x" * 15, "x" * 1025, "x" * 20 + "\n", "\0" * 20])
def test_a_weak_or_unprintable_secret_is_refused_and_not_repeated(bad):
    with pytest.raises(Invalid) as caught:
        passwords.check_secret(bad)
    assert caught.value.kind == "bad-secret"
    assert not bad or bad not in caught.value.message


def test_a_long_secret_is_taken():
    assert passwords.check_secret("correct horse battery") == "correct horse battery"


def test_argon2_is_an_extra(monkeypatch):
    passwords._hasher.cache_clear()
    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(Invalid) as caught:
        passwords.hash_secret("x")
    passwords._hasher.cache_clear()
    assert caught.value.kind == "missing-extra"


def test_a_key_of_a_workspace_is_made_once():
    """Of two that make it at once, one is first, and both have the same."""
    store = open_store("memory://kept")
    assert kept_key(store, "a/b.key") == kept_key(store, "a/b.key") == store.read("a/b.key")
    assert kept_key(store, "other.key") != kept_key(store, "a/b.key")

    class Later:
        """Sees nothing yet, for the other one writes meanwhile."""

        def read(self, key):
            if not list(store.list("late/")):
                store.put(key, b"first")
                raise NotFound(key)
            return store.read(key)

        put = staticmethod(store.put)

    assert kept_key(Later(), "late/k.key") == b"first"
