"""Alembic runs this. The connection, and the transaction around it, are `migrations.upgrade`'s."""

from alembic import context

from sessions.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
