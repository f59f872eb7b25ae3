"""The server side: an HTTP gateway in front of SQLite, PostgreSQL or Supabase."""
