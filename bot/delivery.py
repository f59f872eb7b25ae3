"""The Web API calls that show a turn, one attempt each. Errors are those of the client; `bot.refusals` reads them.

Each message carries in its metadata which part of which turn it is, so that a message whose post got no answer can be
found again (docs.slack.dev, message metadata; read back with `include_all_metadata`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.parts import FILE, Block, Part
from bot.upload import put, share

EVENT_TYPE = "flow_turn"
_PAGE = 900  # messages; Slack gives an internal app up to 999


@dataclass(frozen=True, slots=True)
class Recipient:
    """For whom a stream is; Slack wants to know it in channels, and in direct messages not."""

    user: str
    team: str


def stream_mark(turn_id: str, part: int) -> str:
    """Id of a stream's first block: it carries no metadata until it is stopped."""
    return f"{EVENT_TYPE}:{turn_id}:{part}"


def file_name(turn_id: str) -> str:
    """Of a long answer as a file."""
    return f"answer-{turn_id[:8]}.md"


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

    async def start_stream(
        self, channel: str, thread_ts: str, chunks: Sequence[Block], recipient: Recipient | None
    ) -> str:
        """The new message's ts."""
        answer = await self._client.chat_startStream(
            channel=channel,
            thread_ts=thread_ts,
            chunks=list(chunks),
            recipient_user_id=recipient.user if recipient else None,
            recipient_team_id=recipient.team if recipient else None,
        )
        return str(answer["ts"])

    async def append_stream(self, channel: str, ts: str, chunks: Sequence[Block]) -> None:
        await self._client.chat_appendStream(channel=channel, ts=ts, chunks=list(chunks))

    async def stop_stream(
        self, channel: str, ts: str, turn_id: str, part: int, chunks: Sequence[Block], *, working: bool = False
    ) -> None:
        """From now on the message can be edited. `working`: its turn goes on, and Slack keeps its Stop button."""
        metadata = {"event_type": EVENT_TYPE, "event_payload": {"turn": turn_id, "part": part}}
        status = "processing" if working else None  # Slack's default: active
        await self._client.chat_stopStream(
            channel=channel, ts=ts, chunks=list(chunks), metadata=metadata, session_status=status
        )

    async def delete(self, channel: str, ts: str) -> None:
        await self._client.chat_delete(channel=channel, ts=ts)

    async def put_file(self, name: str, text: str) -> str:
        """The id of a file that nobody sees yet."""
        return await put(self._client, name, text.encode())

    async def share_file(self, channel: str, thread_ts: str | None, file_id: str, title: str) -> bool:
        """Shows it, unless it is shown already. False: Slack has forgotten the upload."""
        try:
            await share(self._client, channel, thread_ts, file_id, title)
        except SlackApiError as error:
            if error.response.get("error") not in ("file_already_shared", "file_already_completed"):
                if error.response.get("error") in ("file_not_found", "file_deleted"):
                    return False
                raise
        return True

    async def has_file(self, channel: str, thread_ts: str | None, file_id: str) -> bool:
        """Whether the file stands in the thread (files.info, `shares`)."""
        try:
            answer = await self._client.files_info(file=file_id)
        except SlackApiError as error:
            if error.response.get("error") in ("file_not_found", "file_deleted"):
                return False
            raise
        shares: dict[str, Any] = (answer.get("file") or {}).get("shares") or {}
        places = [place for kind in shares.values() for place in kind.get(channel, ())]
        return any(place.get("thread_ts") == thread_ts for place in places)

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

    async def all_of(
        self, channel: str, thread_ts: str | None, turn_id: str, part: int, since_ts: str
    ) -> list[tuple[str, str]]:
        """Every message that shows this part, the oldest first: its ts, and what the table calls it by.

        That is the ts, too; of the whole answer as a file the file's id. `thread_ts`, `since_ts` as in `find`.
        """
        oldest, cursor = f"{max(0, int(since_ts.split('.')[0]) - 300)}.000000", None
        found: list[tuple[str, str]] = []
        while True:
            page = await self._page(channel, thread_ts, oldest, cursor)
            for message in page.get("messages") or []:
                ts = str(message["ts"])
                if part == FILE:
                    named = [file["id"] for file in self._files_of(message) if file.get("name") == file_name(turn_id)]
                    found += [(ts, file_id) for file_id in named[:1]]
                elif self._part_of(message, turn_id) == part:
                    found.append((ts, ts))
            cursor = (page.get("response_metadata") or {}).get("next_cursor") or None
            if cursor is None:
                return sorted(found)

    def _files_of(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        return list(message.get("files") or []) if message.get("bot_id") == self._bot_id else []

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
        if message.get("bot_id") == self._bot_id and "streaming_state" in message:
            marks = [str(block.get("block_id") or "") for block in message.get("blocks") or []]
            for mark in marks:
                if mark.startswith(f"{EVENT_TYPE}:{turn_id}:"):
                    return int(mark.rpartition(":")[2])
        metadata = message.get("metadata") or {}
        payload = metadata.get("event_payload") or {}
        ours = metadata.get("event_type") == EVENT_TYPE and payload.get("turn") == turn_id
        # Anybody may copy metadata; only our own messages count.
        return int(payload["part"]) if ours and message.get("bot_id") == self._bot_id and "part" in payload else None
