"""Which base images Flow itself fetched, in a file of the share directory: only those are ever removed again.

An image that was there before, under whatever name, is somebody else's. So is one that went and that somebody brought
again, one on another engine, and one whose record was lost, in a crash between fetching it and writing that down, say.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MOST = 1_000  # records; more would be a fault of ours


@dataclass(frozen=True, slots=True)
class Fetched:
    """`id`: the image's, which it has wherever it is. `tags`: what it was called when it had come. `at`: since 1970.

    `engine`: the one that it was fetched to. `mark`: how that keeps it, which is otherwise once it has come anew.
    """

    id: str
    base: str
    tags: tuple[str, ...]
    at: float
    engine: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Base:
    """One that Flow fetched and that is on the engine. `busy`: a container or another image is made of it.

    `shared`: it has got a name that it did not come with: somebody else knows it.
    """

    fetched: Fetched
    size: int
    busy: bool
    shared: bool


def read(path: Path) -> list[Fetched]:
    """Nothing where there is no such file, or none that Flow wrote. Raises OSError."""
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        return []  # nothing is then known to be ours
    return [one for row in rows if (one := _record(row)) is not None] if isinstance(rows, list) else []


def _record(row: Any) -> Fetched | None:
    if not isinstance(row, dict) or not isinstance(row.get("tags"), list):
        return None
    texts = [row.get("id"), row.get("base"), row.get("engine"), row.get("mark"), *row["tags"]]
    if not all(isinstance(text, str) for text in texts) or not isinstance(row.get("at"), int | float):
        return None
    return Fetched(row["id"], row["base"], tuple(row["tags"]), float(row["at"]), row["engine"], row["mark"])


def write(path: Path, records: list[Fetched]) -> None:
    """The whole file or none of it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".fetched-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump([asdict(one) for one in records[-_MOST:]], file)
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
