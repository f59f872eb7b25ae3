"""What the listeners of the Slack door share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bot.inbound import Identity
from bot.show import Show
from bot.tasks import Tasks
from sessions.manager import Sessions

Ack = Callable[..., Awaitable[Any]]
Respond = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Door:
    """`version` and `runtime` are words for people. `now` gives seconds since 1970."""

    sessions: Sessions
    show: Show
    client: AsyncWebClient
    me: Identity
    version: str
    runtime: str
    now: Callable[[], float] = time.time
    #: What goes on after an acknowledgement. With `process_before_response` the ack leaves when the listener returns.
    after: Tasks = field(default_factory=lambda: Tasks("slack"))

    def ts(self) -> str:
        """Now, in the form of a message's ts."""
        return f"{self.now():.6f}"
