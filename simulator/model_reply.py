"""One answer of the Messages API, streamed as server-sent events or collected into one JSON object."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[bytes], Awaitable[None]]


class Reply:
    """Builds the content blocks; with `send` every change also goes out as an event as it happens.

    Text that follows text goes on in the same block after a newline, as a model writes it.
    """

    def __init__(self, model: str, input_tokens: int, send: Send | None) -> None:
        self.message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
            },
        }
        self._send = send
        self._written = 0
        self.started = False

    async def start(self) -> None:
        if not self.started:
            self.started = True
            await self._event("message_start", message=self.message)
            await self.ping()

    async def ping(self) -> None:
        await self._event("ping")

    async def text(self, chunk: str, *, new_step: bool) -> None:
        block = self._block
        if block is None or block["type"] != "text":
            await self._open({"type": "text", "text": ""})
            block = self._block
        elif new_step:
            chunk = "\n" + chunk
        assert block is not None
        block["text"] += chunk
        await self._delta({"type": "text_delta", "text": chunk}, chunk)

    async def thinking(self, text: str) -> None:
        await self._open({"type": "thinking", "thinking": "", "signature": ""})
        block = self._block
        assert block is not None
        block["thinking"], block["signature"] = text, secrets.token_urlsafe(48)
        await self._delta({"type": "thinking_delta", "thinking": text}, text)
        await self._delta({"type": "signature_delta", "signature": block["signature"]}, "")

    async def tool(self, name: str, arguments: dict[str, Any]) -> None:
        await self._open({"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name, "input": {}})
        block = self._block
        assert block is not None
        block["input"] = arguments
        text = json.dumps(arguments)
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            await self._delta({"type": "input_json_delta", "partial_json": part}, part)

    async def finish(self) -> None:
        await self.start()
        await self._close()
        block = self._block
        self.message["stop_reason"] = "tool_use" if block and block["type"] == "tool_use" else "end_turn"
        self.message["usage"]["output_tokens"] = max(1, self._written // 4)
        delta = {"stop_reason": self.message["stop_reason"], "stop_sequence": None}
        await self._event("message_delta", delta=delta, usage=self.message["usage"])
        await self._event("message_stop")

    async def error(self, body: dict[str, Any]) -> None:
        """An `error` event in the middle of a stream."""
        await self._event("error", error=body["error"])

    @property
    def streams(self) -> bool:
        return self._send is not None

    @property
    def _block(self) -> dict[str, Any] | None:
        content: list[dict[str, Any]] = self.message["content"]
        return content[-1] if content else None

    @property
    def _index(self) -> int:
        return len(self.message["content"]) - 1

    async def _open(self, block: dict[str, Any]) -> None:
        await self.start()
        await self._close()
        self.message["content"].append(block)
        await self._event("content_block_start", index=self._index, content_block=block)

    async def _close(self) -> None:
        if self._index >= 0:
            await self._event("content_block_stop", index=self._index)

    async def _delta(self, delta: dict[str, Any], written: str) -> None:
        self._written += len(written)
        await self._event("content_block_delta", index=self._index, delta=delta)

    async def _event(self, name: str, **data: Any) -> None:
        if self._send is not None:
            await self._send(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode())
