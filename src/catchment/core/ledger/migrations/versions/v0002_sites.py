"""Users of sites, their secrets, and the uploads that they ask for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
Time = sa.DateTime(timezone=True)
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "site_users",
        sa.Column("user", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("user", name="site_users_pk"),
    )
    op.create_table(
        "site_secrets",
        sa.Column("id", Id, nullable=False),
        sa.Column("user", Text, nullable=False),
        sa.Column("hash", Text, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("ends_at", Time, nullable=True),
        sa.ForeignKeyConstraint(
            ["user"], ["site_users.user"], name="site_secrets_user_fk", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="site_secrets_pk"),
    )
    op.create_index("site_secrets_user_id_ix", "site_secrets", ["user", "id"])
    op.create_table(
        "uploads",
        sa.Column("id", Text, nullable=False),
        sa.Column("site", Text, nullable=False),
        sa.Column("user", Text, nullable=False),
        sa.Column("network", Text, nullable=False),
        sa.Column("study", Text, nullable=False),
        sa.Column("opened_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="uploads_pk"),
    )
    op.create_index("uploads_site_opened_at_ix", "uploads", ["site", "opened_at"])
    op.create_table(
        "upload_files",
        sa.Column("upload", Text, nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("filename", Text, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("state", Text, nullable=False),
        sa.Column("form", Text, nullable=False),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("attempt", Text, nullable=False),
        sa.Column("touched_at", Time, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("digest", Text, nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["upload"], ["uploads.id"], name="upload_files_upload_fk"),
        sa.PrimaryKeyConstraint("upload", "key", name="upload_files_pk"),
    )
    op.create_index("upload_files_state_touched_at_ix", "upload_files", ["state", "touched_at"])
    op.create_index("upload_files_key_state_ix", "upload_files", ["key", "state"])
    op.create_table(
        "upload_locks",
        sa.Column("site", Text, nullable=False),
        sa.Column("study", Text, nullable=False),
        sa.Column("upload", Text, nullable=False),
        sa.ForeignKeyConstraint(["upload"], ["uploads.id"], name="upload_locks_upload_fk"),
        sa.PrimaryKeyConstraint("site", "study", name="upload_locks_pk"),
    )
