"""Counts of contributions by aggregate, site and state."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table, and count what is there."""
    op.create_table(
        "contribution_counts",
        sa.Column("aggregate", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("state", Text, nullable=False),
        sa.Column("contributions", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["aggregate"], ["aggregates.name"], name="contribution_counts_aggregate_fk"
        ),
        sa.PrimaryKeyConstraint("aggregate", "site", "state", name="contribution_counts_pk"),
    )
    if op.get_bind().dialect.name == "postgresql":  # what is received meanwhile waits
        op.execute("LOCK TABLE contributions IN SHARE ROW EXCLUSIVE MODE")
    op.execute(
        "INSERT INTO contribution_counts (aggregate, site, state, contributions) "
        "SELECT aggregate, site, state, count(*) FROM contributions "
        "GROUP BY aggregate, site, state"
    )
