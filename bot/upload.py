"""A file into a thread, in Slack's three steps (docs.slack.dev, files.getUploadURLExternal).

The first two, `put`, show nothing to anybody and may be repeated. The third, `share`, may not: whoever goes on after a
crash looks in the thread first (`files[].id` of its messages), so note the file's id down before sharing it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient

from bot.markdown import clean, escape

_UPLOAD_SECONDS = 60


async def upload(
    client: AsyncWebClient, channel: str, thread_ts: str | None, name: str, content: bytes, title: str
) -> str:
    """The id of the file, which is in the thread then. Raises ValueError for an empty one, and what the client does."""
    file_id = await put(client, name, content)
    await share(client, channel, thread_ts, file_id, title)
    return file_id


async def put(client: AsyncWebClient, name: str, content: bytes) -> str:
    """The id of a file that nobody sees yet. Raises ValueError when it is empty, and what the client raises."""
    if not content:
        raise ValueError("Slack takes no empty file")
    answer = await client.files_getUploadURLExternal(filename=name, length=len(content))
    async with AsyncExitStack() as stack:
        session: aiohttp.ClientSession | None = client.session
        if session is None:
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=True))
        timeout = aiohttp.ClientTimeout(_UPLOAD_SECONDS)
        # The address itself is the right to write: no token is sent there.
        async with session.post(str(answer["upload_url"]), data=content, timeout=timeout) as response:
            response.raise_for_status()
    return str(answer["file_id"])


async def share(
    client: AsyncWebClient, channel: str, thread_ts: str | None, file_id: str, title: str, comment: str = ""
) -> None:
    """Shows the file in the thread as a message from the app, `comment` above it; Slack gives no ts of it."""
    await client.files_completeUploadExternal(
        files=[{"id": file_id, "title": clean(title)}],
        channel_id=channel,
        thread_ts=thread_ts,
        initial_comment=escape(clean(comment)) or None,
    )
