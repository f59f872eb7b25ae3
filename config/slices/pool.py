"""Worklets that stand ready before anybody asks, and how sessions go to sleep in two steps."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

from config.slices.base import Retention, Slice, setting

_MOST = 100


def parse_pool_size(value: object) -> tuple[int, int]:
    """(least, most) of "1-4", "3" (always three) or "0" (none). Raises ValueError with an example."""
    text = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()
    match = re.fullmatch(r"(\d{1,4})(?:\s*[-,]\s*(\d{1,4}))?", text)
    if match is None:
        raise ValueError(f'"{value}" is not a size of the pool; write it like "1-4", "2" or "0"')
    least, most = int(match[1]), int(match[2] or match[1])
    if not least <= most <= _MOST:
        raise ValueError(f'"{value}" is not a size of the pool: the least comes first, and {_MOST} is the most')
    return least, most


PoolSize = Annotated[tuple[int, int], BeforeValidator(parse_pool_size)]


class PoolSettings(Slice):
    size: PoolSize = setting(
        "FLOW_POOL_SIZE", (1, 4), "Worklets that stand ready for new threads: least and most, e.g. 1-4; 0 is none."
    )
    rest_after: Retention = setting(
        "FLOW_CLAUDE_IDLE",
        600.0,
        "Silence after which Claude's process ends while its container stays, e.g. 10m; or never.",
        ge=1,
    )
