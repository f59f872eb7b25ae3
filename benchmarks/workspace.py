"""A Slack in memory: what the outbox needs of `AsyncWebClient`, with the simulator's own rate limits and a latency."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from slack_sdk.errors import SlackApiError

from simulator.limits import RateLimits

LATENCY = 0.15  # seconds a call


class _LoopClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback)


class Workspace:
    """`seen(thread, ts, text)` hears what a reader sees of a message from now on."""

    def __init__(self, seen: Callable[[str, str, str], None]) -> None:
        self.calls: Counter[str] = Counter()
        self.refused = 0  # calls answered with 429
        self._seen = seen
        self._limits = RateLimits(_LoopClock())
        self._numbers = itertools.count(1)
        self._threads: dict[str, str] = {}

    async def chat_postMessage(self, **args: Any) -> dict[str, Any]:
        await self._call("chat.postMessage", args)
        ts = f"{1_700_000_000 + next(self._numbers)}.000100"
        self._threads[ts] = args["thread_ts"] or ts
        self._seen(self._threads[ts], ts, _text(args))
        return {"ok": True, "ts": ts}

    async def chat_update(self, **args: Any) -> dict[str, Any]:
        await self._call("chat.update", args)
        self._seen(self._threads[args["ts"]], args["ts"], _text(args))
        return {"ok": True, "ts": args["ts"]}

    async def _call(self, method: str, args: dict[str, Any]) -> None:
        from simulator.errors import RateLimited

        await asyncio.sleep(LATENCY)
        self.calls[method] += 1
        try:
            self._limits.check("A1", method, args)
        except RateLimited as limited:
            self.refused += 1
            answer = SimpleNamespace(
                status_code=429, headers={"Retry-After": str(limited.retry_after)}, data={"error": "ratelimited"}
            )
            raise SlackApiError("ratelimited", answer) from limited  # type: ignore[no-untyped-call]


def _text(args: dict[str, Any]) -> str:
    return "\n".join(block["text"] for block in args["blocks"] or [] if block["type"] == "markdown")
