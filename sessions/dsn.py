"""Reads a DSN: `sqlite://data/db.sqlite` (relative), `sqlite:///var/lib/flow/db.sqlite` (absolute), `postgresql://…`.

Pure and light: the start-up's schema check needs it before SQLAlchemy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sessions.errors import StoreUnavailable

_EXAMPLES = "Use sqlite://data/db.sqlite or postgresql://user:password@host/database."


@dataclass(frozen=True, slots=True)
class Dsn:
    """`path` is set for SQLite, `url` (with its password, so never to be shown) for PostgreSQL."""

    path: Path | None = None
    url: str = ""

    def __str__(self) -> str:
        """Without the password."""
        if self.path is not None:
            return f"sqlite://{self.path}"
        parts = urlsplit(self.url)
        return f"postgresql://{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"

    __repr__ = __str__


def parse_dsn(dsn: str) -> Dsn:
    """Raises StoreUnavailable for anything but the two forms."""
    scheme, separator, rest = dsn.partition("://")
    if separator and scheme in ("sqlite", "sqlite+aiosqlite"):
        path = unquote(rest.partition("?")[0])
        if not path or path == "/" or ":memory:" in path:
            raise StoreUnavailable("The database address names no file.", suggestion=_EXAMPLES)
        return Dsn(path=Path(path))
    if separator and scheme in ("postgresql", "postgres", "postgresql+asyncpg"):
        return Dsn(url=f"postgresql://{rest}")
    raise StoreUnavailable(f"{scheme!r} is not a database that Flow knows.", suggestion=_EXAMPLES)
