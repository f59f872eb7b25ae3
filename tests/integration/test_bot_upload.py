"""A file goes into a thread in three steps, by the real SDK against the simulator."""

from __future__ import annotations

import pytest
from slack_sdk.errors import SlackApiError

from bot.socket import web_client
from bot.upload import put, share, upload
from simulator.slack import SlackSimulator


async def test_a_file_stands_in_its_thread_and_is_shared_once() -> None:
    async with SlackSimulator() as slack:
        client = web_client(slack.bot_token, slack.api_url)
        channel = next(iter(slack.workspace.channels.values()))
        root = await client.chat_postMessage(channel=channel.id, text="root")
        file_id = await upload(client, channel.id, str(root["ts"]), "a.md", "# Größe\n".encode(), "All of it")
        (reply,) = channel.replies(str(root["ts"]))
        (file,) = reply.body["files"]
        assert (file["id"], file["name"], file["title"]) == (file_id, "a.md", "All of it")
        assert slack.workspace.files[file_id].content == "# Größe\n".encode()
        with pytest.raises(SlackApiError, match="file_already_shared"):
            await share(client, channel.id, str(root["ts"]), file_id, "All of it")


async def test_what_is_only_put_is_seen_by_nobody() -> None:
    async with SlackSimulator() as slack:
        client = web_client(slack.bot_token, slack.api_url)
        await put(client, "a.md", b"words")
        assert not any(channel.messages for channel in slack.workspace.channels.values())
        with pytest.raises(ValueError, match="empty"):
            await put(client, "a.md", b"")
