"""Which files of people are taken, and by whom they are fetched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from config.errors import FlowError
from sessions.types import Attached


class FileRefused(FlowError):
    """The file cannot be had. Its text is a clause, "it was deleted"."""


#: Fetches a file to a path that nothing stands at, at most so many bytes; returns what is known of it then, since a
#: message may tell no more than an id. Raises FileRefused.
Fetch: TypeAlias = Callable[[Attached, Path, int], Awaitable[Attached]]


@dataclass(slots=True)
class FileRules:
    """`limit` in bytes of one file; `most` files of one message. `fetch` is the door's."""

    limit: int = 20 << 20
    most: int = 10
    fetch: Fetch | None = None
