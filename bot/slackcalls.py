"""How often Slack was called, and what it said: counted where the calls leave."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp

_API = "/api/"


class SlackCalls:
    """`counts` by method ("chat.update"; "file" for what is none) and result: "ok", "429", "4xx", "5xx", "none"."""

    def __init__(self) -> None:
        self.counts = Counter[tuple[str, str]]()

    def tracing(self) -> aiohttp.TraceConfig:
        """For the session through which the calls go."""
        import aiohttp

        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._ended)
        config.on_request_exception.append(self._failed)
        return config

    async def _ended(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        status = params.response.status
        result = "429" if status == 429 else "ok" if status < 400 else f"{status // 100}xx"
        self.counts[_method(params.url.path), result] += 1

    async def _failed(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        self.counts[_method(params.url.path), "none"] += 1


def _method(path: str) -> str:
    """Only what our own code calls, so there are few."""
    name = path.rpartition(_API)[2]
    return name if _API in path and "/" not in name else "file"
