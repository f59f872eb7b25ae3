"""Slack's rate limits: per method, workspace and app, on the simulated clock.

Tiers are calls per minute (docs.slack.dev, "Rate limits"): 1+, 20+, 50+, 100+. Slack does not publish bursts; here a
method may be called as often as its tier says within any 60 seconds. Methods with rules of their own get figures that
stay within what the documentation calls tolerable. `chat.postMessage` has one call per second and channel, with a
short burst.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from simulator.clock import Clock
from simulator.errors import RateLimited

WINDOW = 60.0
_TIERS = {1: 1, 2: 20, 3: 50, 4: 100}
_METHOD_TIERS = {
    "chat.update": 3,
    "chat.delete": 3,
    "chat.postEphemeral": 4,
    "chat.startStream": 2,
    "chat.appendStream": 4,
    "chat.stopStream": 2,
    "reactions.add": 3,
    "reactions.remove": 2,
    "reactions.get": 3,
    "assistant.threads.setTitle": 4,
    "assistant.threads.setSuggestedPrompts": 4,
    "agents.sessions.setStatus": 3,
    "agents.sessions.rename": 3,
    "apps.connections.open": 3,
    "conversations.replies": 3,
    "conversations.history": 3,
    "conversations.info": 3,
    "conversations.open": 3,
    "conversations.join": 3,
    "conversations.members": 4,
    "conversations.list": 2,
    "users.info": 4,
    "users.list": 2,
    "usergroups.users.list": 2,
    "bots.info": 3,
    "files.getUploadURLExternal": 4,
    "files.completeUploadExternal": 4,
    "files.info": 4,
    "files.delete": 3,
    "views.open": 4,
    "views.push": 4,
    "views.update": 4,
    "views.publish": 4,
}
_SPECIAL = {"chat.postMessage": 300, "auth.test": 300, "chat.getPermalink": 300, "assistant.threads.setStatus": 300}
REAL: dict[str, int] = {method: _TIERS[tier] for method, tier in _METHOD_TIERS.items()} | _SPECIAL
POST_BURST = 5  # messages that one channel takes at once before "one per second" bites

LimitChoice = Literal["real"] | Mapping[str, int] | None


class RateLimits:
    """Counts calls; `check` raises RateLimited when one is too many.

    `choice`: "real" for Slack's limits, None for none, or a mapping of method to calls per minute for just those.
    `scale` multiplies every limit.
    """

    def __init__(self, clock: Clock, choice: LimitChoice = "real", scale: float = 1.0) -> None:
        self._clock = clock
        self._scale = scale
        self._per_minute = dict(REAL) if choice == "real" else dict(choice or {})
        self._post_rate = scale if choice == "real" else 0.0
        self._calls: dict[tuple[str, str], deque[float]] = {}
        self._posts: dict[tuple[str, str], tuple[float, float]] = {}

    def check(self, app_id: str, method: str, args: Mapping[str, Any]) -> None:
        """Counts this call; RateLimited (with whole seconds to wait, at least 1) if it exceeds the limit."""
        self._check_window(app_id, method)
        if method == "chat.postMessage" and self._post_rate:
            self._check_channel(app_id, str(args.get("channel", "")))

    def _check_window(self, app_id: str, method: str) -> None:
        limit = self._per_minute.get(method)
        if limit is None:
            return
        now = self._clock.now()
        calls = self._calls.setdefault((app_id, method), deque())
        while calls and calls[0] <= now - WINDOW:
            calls.popleft()
        if len(calls) >= max(1, int(limit * self._scale)):
            raise RateLimited(max(1, math.ceil(calls[0] + WINDOW - now)))
        calls.append(now)

    def _check_channel(self, app_id: str, channel: str) -> None:
        now = self._clock.now()
        tokens, since = self._posts.get((app_id, channel), (float(POST_BURST), now))
        tokens = min(float(POST_BURST), tokens + (now - since) * self._post_rate)
        if tokens < 1:
            self._posts[app_id, channel] = (tokens, now)
            raise RateLimited(max(1, math.ceil((1 - tokens) / self._post_rate)))
        self._posts[app_id, channel] = (tokens - 1, now)
