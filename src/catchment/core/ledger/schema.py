"""The tables of the ledger. A change here needs a migration (a test compares the two).

A run, a snapshot or a contribution is never deleted; transitions are only appended.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect

from catchment.core.errors import Invalid


class Text(sa.types.TypeDecorator[str]):
    """Text that both databases store, compare and sort alike: by code point, without NUL."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """The type in the database."""
        return postgresql.TEXT(collation="C") if dialect.name == "postgresql" else sa.Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Refuse what PostgreSQL cannot hold, on SQLite too."""
        if value is not None and ("\0" in value or not _encodes(value)):
            raise Invalid("expected text, got a NUL character or a lone surrogate", kind="bad-text")
        return value


class Time(sa.types.TypeDecorator[datetime]):
    """An instant: aware, in UTC, to the microsecond."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite keeps no zone, so it gets UTC without one."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """PostgreSQL answers in the zone of the session."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Json(sa.types.TypeDecorator[Any]):
    """Plain JSON as text: what is read is what was written, key order and all."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Only what JSON can say: no NaN, no foreign types, no lone surrogates."""
        if value is None:
            return None
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            text.encode()
            return text
        except (TypeError, ValueError) as error:
            raise Invalid(
                f"expected plain JSON, got a value that is not ({type(error).__name__})",
                kind="not-json",
            ) from error

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """The value back."""
        return None if value is None else json.loads(value)


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "ck": "%(table_name)s_%(constraint_name)s_ck",
    }
)

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER only


def _text(name: str, *more: Any, null: bool = False, primary: bool = False) -> sa.Column[str]:
    return sa.Column(name, Text, *more, nullable=null, primary_key=primary)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


# One row for each aggregate: the row that publications queue for, and its lease.
aggregates = sa.Table(
    "aggregates",
    metadata,
    _text("name", primary=True),
    _text("holder", null=True),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("expires_at", Time),
)

contributions = sa.Table(
    "contributions",
    metadata,
    sa.Column("id", Id, primary_key=True),
    _text("aggregate", sa.ForeignKey("aggregates.name")),
    _text("site"),
    _text("name"),
    _text("digest"),
    _number("size"),
    _text("state"),
    sa.Column("received_at", Time, nullable=False),
    sa.Column("meta", Json, nullable=False),
    sa.UniqueConstraint("aggregate", "site", "name", "digest"),
    sa.Index(None, "aggregate", "site", "id"),
    sa.Index(None, "aggregate", "state", "site", "id"),  # listings by state
    sa.Index(None, "site"),  # which sites there are, a step each
)

# How many contributions there are of each kind; changed with them, in their transaction.
contribution_counts = sa.Table(
    "contribution_counts",
    metadata,
    _text("aggregate", sa.ForeignKey("aggregates.name"), primary=True),
    _text("site", primary=True),
    _text("state", primary=True),
    _number("contributions"),
)

transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("contribution", Id, sa.ForeignKey("contributions.id"), nullable=False),
    sa.Column("at", Time, nullable=False),
    _text("was", null=True),
    _text("to"),
    _text("reason"),
    _text("run"),
    _text("batch"),  # the call that made it: tells after a lost answer whether it was made
    sa.Index(None, "contribution", "id"),
)

runs = sa.Table(
    "runs",
    metadata,
    _text("id", primary=True),
    _text("aggregate", sa.ForeignKey("aggregates.name")),
    _text("key", null=True),
    _text("state"),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("finished_at", Time),
    sa.Column("config", Json, nullable=False),
    sa.Column("error", Json),
    sa.UniqueConstraint("aggregate", "key"),
    sa.Index(None, "aggregate", "id"),
    sa.Index(None, "state", "id"),
)

accounts = sa.Table(
    "accounts",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), primary=True),
    _text("site", primary=True),
    _text("part", primary=True),
    _text("unit", primary=True),
    _number("received"),
    _number("kept"),
    sa.Column("dropped", Json, nullable=False),
    sa.Column("quarantined", Json, nullable=False),
    sa.Index(None, "site", "run"),
)

findings = sa.Table(
    "findings",
    metadata,
    sa.Column("id", Id, primary_key=True),
    _text("run", sa.ForeignKey("runs.id")),
    _text("site"),
    _text("severity"),
    _text("code"),
    _text("where"),
    _text("message"),
    _text("hint"),
    _text("digest"),  # of all the above: a run says a thing once
    sa.UniqueConstraint("run", "digest"),
    sa.Index(None, "site", "run", "id"),
    sa.Index(None, "site", "id"),
    sa.Index(None, "code", "id"),
    sa.Index(None, "severity", "id"),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    _text("aggregate", sa.ForeignKey("aggregates.name"), primary=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.BigInteger),
    _text("run", sa.ForeignKey("runs.id")),
    _text("key"),
    _text("location"),
    sa.Column("published_at", Time, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sa.Column("expired_at", Time),
    sa.Column("provenance", Json, nullable=False),  # last: SQLite reads a row up to what is asked
    sa.UniqueConstraint("aggregate", "key"),
    # The database itself refuses a gap or a second parent; deferred, for rebuilds in any order.
    sa.CheckConstraint("number = coalesce(parent, 0) + 1", name="number"),
    sa.ForeignKeyConstraint(
        ["aggregate", "parent"],
        ["snapshots.aggregate", "snapshots.number"],
        deferrable=True,
        initially="DEFERRED",
    ),
    sa.Index(
        "snapshots_unsealed_ix",
        "aggregate",
        "number",
        sqlite_where=sa.text("sealed = 0"),
        postgresql_where=sa.text("NOT sealed"),
    ),
)

# Who may upload: a user belongs to one site, and has up to two secrets while they are exchanged.
site_users = sa.Table(
    "site_users",
    metadata,
    _text("user", primary=True),
    _text("site"),
    sa.Column("created_at", Time, nullable=False),
)

site_secrets = sa.Table(
    "site_secrets",
    metadata,
    sa.Column("id", Id, primary_key=True),
    _text("user", sa.ForeignKey("site_users.user", ondelete="CASCADE")),
    _text("hash"),  # argon2id; the secret itself is nowhere
    sa.Column("created_at", Time, nullable=False),
    sa.Column("ends_at", Time),  # of the older secret, once there is a newer one
    sa.Index(None, "user", "id"),
)

# One row for each upload that a site asked for; its id is the transaction id of the site API.
uploads = sa.Table(
    "uploads",
    metadata,
    _text("id", primary=True),
    _text("site"),
    _text("user"),
    _text("network"),
    _text("study"),
    sa.Column("opened_at", Time, nullable=False),
    sa.Index(None, "site", "opened_at"),
)

upload_files = sa.Table(
    "upload_files",
    metadata,
    _text("upload", sa.ForeignKey("uploads.id"), primary=True),
    _text("key", primary=True),  # in the store
    _text("filename"),
    _number("version"),
    _text("state"),
    _text("form"),  # SHA-256 of the form that is good now; empty: the storage checks it
    sa.Column("expires_at", Time, nullable=False),  # of the form
    _text("attempt"),  # the request that sends the bytes; empty: none does
    sa.Column("touched_at", Time, nullable=False),  # when anybody last did anything for it
    sa.Column("size", sa.BigInteger),
    _text("digest"),
    sa.Column("error", Json),  # kind, message, hint: why it came to nothing
    sa.Index(None, "state", "touched_at"),
    sa.Index(None, "key", "state"),
)

# The right to upload a study for a site; the row belongs to its upload and to nobody else.
upload_locks = sa.Table(
    "upload_locks",
    metadata,
    _text("site", primary=True),
    _text("study", primary=True),
    _text("upload", sa.ForeignKey("uploads.id")),
)

# Who may read the dashboard API. A key is 256 random bits: its SHA-256 is all that is kept.
api_keys = sa.Table(
    "api_keys",
    metadata,
    _text("name", primary=True),
    _text("digest"),
    sa.Column("studies", Json, nullable=False),  # empty: all
    sa.Column("sites", Json, nullable=False),  # empty: all
    sa.Column("created_at", Time, nullable=False),
    sa.UniqueConstraint("digest"),
)

# Who read what; only appended to, and kept when a key is gone.
reads = sa.Table(
    "reads",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", Time, nullable=False),
    _text("key"),
    _text("path"),
    _number("status"),
    sa.Index(None, "key", "id"),
)

# Who looks at the pages, beside the users of sites.
people = sa.Table(
    "people",
    metadata,
    _text("user", primary=True),
    _text("role"),
    _text("site"),  # empty unless the role is that of a site
    _text("hash"),  # argon2id
    sa.Column("created_at", Time, nullable=False),
)

# Who is signed in; also links that sign in once. A token is 256 random bits: its SHA-256 is kept.
# Logins that failed are here for a minute, so that all processes count them together.
sessions = sa.Table(
    "sessions",
    metadata,
    _text("digest", primary=True),
    _text("kind"),
    _text("user"),
    _text("role"),
    _text("site"),
    sa.Column("data", Json, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("ends_at", Time, nullable=False),
    sa.Index(None, "ends_at"),
    sa.Index(None, "user"),
)

# Who did what by the pages; only appended to, each line with the digest of the one before.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", Time, nullable=False),
    _text("user"),
    _text("role"),
    _text("action"),
    _text("target"),
    sa.Column("detail", Json, nullable=False),
    _text("digest"),
)
