"""What `flow doctor` found: one line of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do; empty when there is nothing to do.

    `blocks`: what builds on this one cannot be looked at. A "fail" does in any case.
    """

    state: Literal["ok", "warn", "fail", "skip"]
    text: str
    advice: str = ""
    blocks: bool = False
