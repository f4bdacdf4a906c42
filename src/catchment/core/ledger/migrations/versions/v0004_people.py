"""People who look at the pages, their sessions, the audit log; and what lists are paged by."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables and the indexes."""
    op.create_table(
        "people",
        sa.Column("user", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("hash", Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("user", name="people_pk"),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("user", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("ends_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="sessions_pk"),
    )
    op.create_table(
        "audit",
        sa.Column("id", Id, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("user", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("action", Text, nullable=False),
        sa.Column("target", Text, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="audit_pk"),
    )
    op.create_index("sessions_ends_at_ix", "sessions", ["ends_at"])
    op.create_index("sessions_user_ix", "sessions", ["user"])
    op.create_index("contributions_site_ix", "contributions", ["site"])
    op.create_index("accounts_site_run_ix", "accounts", ["site", "run"])
    op.create_index("runs_state_id_ix", "runs", ["state", "id"])
    op.create_index("findings_site_id_ix", "findings", ["site", "id"])
    op.create_index("findings_code_id_ix", "findings", ["code", "id"])
    op.create_index("findings_severity_id_ix", "findings", ["severity", "id"])
