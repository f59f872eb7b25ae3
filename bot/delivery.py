"""The Web API calls that show a turn, one attempt each. Errors are those of the client; `bot.refusals` reads them.

Each message carries in its metadata which part of which turn it is, so that a message whose post got no answer can be
found again (docs.slack.dev, message metadata; read back with `include_all_metadata`).
"""

from __future__ import annotations

from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bot.parts import Part

EVENT_TYPE = "flow_turn"
_PAGE = 900  # messages; Slack gives an internal app up to 999


class Delivery:
    """`client` must have no retry handlers: the SDK's own repeat a post that may have succeeded."""

    def __init__(self, client: AsyncWebClient, bot_id: str) -> None:
        self._client = client
        self._bot_id = bot_id

    async def post(self, channel: str, thread_ts: str | None, turn_id: str, part: Part) -> str:
        """The new message's ts."""
        answer = await self._client.chat_postMessage(
            channel=channel,
            thread_ts=thread_ts,
            text=part.text,
            blocks=list(part.blocks) or None,
            metadata={"event_type": EVENT_TYPE, "event_payload": {"turn": turn_id, "part": part.index}},
            unfurl_links=False,
            unfurl_media=False,
        )
        return str(answer["ts"])

    async def edit(self, channel: str, ts: str, part: Part) -> None:
        # An empty list removes blocks that an earlier look had; metadata stays as it is unless given.
        await self._client.chat_update(channel=channel, ts=ts, text=part.text, blocks=list(part.blocks))

    async def delete(self, channel: str, ts: str) -> None:
        await self._client.chat_delete(channel=channel, ts=ts)

    async def find(
        self, channel: str, thread_ts: str | None, turn_id: str, since_ts: str, cursor: str | None = None
    ) -> tuple[dict[int, str], str | None]:
        """One page of a look-up: part to ts of this turn's messages, and the next page's cursor (None: the last).

        In the thread, or for `thread_ts` None in the channel itself. `since_ts`: when the turn was asked; nothing of
        it can be older.
        """
        oldest = f"{max(0, int(since_ts.split('.')[0]) - 300)}.000000"  # our clock may be ahead of Slack's
        page = await self._page(channel, thread_ts, oldest, cursor)
        found: dict[int, str] = {}
        for message in page.get("messages") or []:
            if (part := self._part_of(message, turn_id)) is not None:
                found[part] = str(message["ts"])
        return found, (page.get("response_metadata") or {}).get("next_cursor") or None

    async def _page(self, channel: str, thread_ts: str | None, oldest: str, cursor: str | None) -> dict[str, Any]:
        if thread_ts is None:
            answer = await self._client.conversations_history(
                channel=channel, oldest=oldest, limit=_PAGE, cursor=cursor, include_all_metadata=True
            )
        else:
            answer = await self._client.conversations_replies(
                channel=channel, ts=thread_ts, oldest=oldest, limit=_PAGE, cursor=cursor, include_all_metadata=True
            )
        assert isinstance(answer.data, dict)
        return answer.data

    def _part_of(self, message: dict[str, Any], turn_id: str) -> int | None:
        metadata = message.get("metadata") or {}
        payload = metadata.get("event_payload") or {}
        ours = metadata.get("event_type") == EVENT_TYPE and payload.get("turn") == turn_id
        # Anybody may copy metadata; only our own messages count.
        return int(payload["part"]) if ours and message.get("bot_id") == self._bot_id and "part" in payload else None
