"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "aggregates",
        sa.Column("name", Text, nullable=False),
        sa.Column("holder", Text, nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("expires_at", Time, nullable=True),
        sa.PrimaryKeyConstraint("name", name="aggregates_pk"),
    )
    op.create_table(
        "contributions",
        sa.Column("id", Id, nullable=False),
        sa.Column("aggregate", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", Text, nullable=False),
        sa.Column("received_at", Time, nullable=False),
        sa.Column("meta", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["aggregate"], ["aggregates.name"], name="contributions_aggregate_fk"
        ),
        sa.PrimaryKeyConstraint("id", name="contributions_pk"),
        sa.UniqueConstraint(
            "aggregate",
            "site",
            "name",
            "digest",
            name="contributions_aggregate_site_name_digest_key",
        ),
    )
    op.create_index(
        "contributions_aggregate_site_id_ix", "contributions", ["aggregate", "site", "id"]
    )
    op.create_index(
        "contributions_aggregate_state_site_id_ix",
        "contributions",
        ["aggregate", "state", "site", "id"],
    )
    op.create_table(
        "runs",
        sa.Column("id", Text, nullable=False),
        sa.Column("aggregate", Text, nullable=False),
        sa.Column("key", Text, nullable=True),
        sa.Column("state", Text, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("finished_at", Time, nullable=True),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["aggregate"], ["aggregates.name"], name="runs_aggregate_fk"),
        sa.PrimaryKeyConstraint("id", name="runs_pk"),
        sa.UniqueConstraint("aggregate", "key", name="runs_aggregate_key_key"),
    )
    op.create_index("runs_aggregate_id_ix", "runs", ["aggregate", "id"])
    op.create_table(
        "accounts",
        sa.Column("run", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("part", Text, nullable=False),
        sa.Column("unit", Text, nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("kept", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.Text(), nullable=False),
        sa.Column("quarantined", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="accounts_run_fk"),
        sa.PrimaryKeyConstraint("run", "site", "part", "unit", name="accounts_pk"),
    )
    op.create_table(
        "findings",
        sa.Column("id", Id, nullable=False),
        sa.Column("run", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("severity", Text, nullable=False),
        sa.Column("code", Text, nullable=False),
        sa.Column("where", Text, nullable=False),
        sa.Column("message", Text, nullable=False),
        sa.Column("hint", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="findings_run_fk"),
        sa.PrimaryKeyConstraint("id", name="findings_pk"),
        sa.UniqueConstraint("run", "digest", name="findings_run_digest_key"),
    )
    op.create_index("findings_site_run_id_ix", "findings", ["site", "run", "id"])
    op.create_table(
        "snapshots",
        sa.Column("aggregate", Text, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("parent", sa.BigInteger(), nullable=True),
        sa.Column("run", Text, nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("location", Text, nullable=False),
        sa.Column("published_at", Time, nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("expired_at", Time, nullable=True),
        sa.Column("provenance", sa.Text(), nullable=False),
        sa.CheckConstraint("number = coalesce(parent, 0) + 1", name="snapshots_number_ck"),
        sa.ForeignKeyConstraint(
            ["aggregate", "parent"],
            ["snapshots.aggregate", "snapshots.number"],
            name="snapshots_aggregate_parent_fk",
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(["aggregate"], ["aggregates.name"], name="snapshots_aggregate_fk"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="snapshots_run_fk"),
        sa.PrimaryKeyConstraint("aggregate", "number", name="snapshots_pk"),
        sa.UniqueConstraint("aggregate", "key", name="snapshots_aggregate_key_key"),
    )
    op.create_index(
        "snapshots_unsealed_ix",
        "snapshots",
        ["aggregate", "number"],
        sqlite_where=sa.text("sealed = 0"),
        postgresql_where=sa.text("NOT sealed"),
    )
    op.create_table(
        "transitions",
        sa.Column("id", Id, nullable=False),
        sa.Column("contribution", Id, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("was", Text, nullable=True),
        sa.Column("to", Text, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("run", Text, nullable=False),
        sa.Column("batch", Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["contribution"], ["contributions.id"], name="transitions_contribution_fk"
        ),
        sa.PrimaryKeyConstraint("id", name="transitions_pk"),
    )
    op.create_index("transitions_contribution_id_ix", "transitions", ["contribution", "id"])
