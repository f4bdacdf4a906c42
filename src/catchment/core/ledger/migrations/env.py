"""Run by Alembic inside the transaction that ``migrate`` has begun."""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["version_table"],
    transactional_ddl=True,  # SQLite's is, once the transaction is begun by hand
)
context.run_migrations()
