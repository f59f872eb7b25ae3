from collections.abc import AsyncIterator

import aiohttp
import pytest
from simulator_helpers import error_of, web_client
from slack_sdk.errors import SlackApiError

from simulator.clock import ManualClock
from simulator.manifest import Manifest
from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(limits=None) as simulator:
        yield simulator


async def test_auth_test_names_the_bot_and_its_scopes(slack: SlackSimulator) -> None:
    answer = await web_client(slack).auth_test()
    assert (answer["user_id"], answer["bot_id"]) == (slack.bot_user_id, slack.app.bot.bot_id)
    assert "chat:write" in answer.headers["x-oauth-scopes"]


async def test_a_name_is_a_mention_as_a_whole_word_and_never_in_code(slack: SlackSimulator) -> None:
    name = slack.workspace.users[slack.bot_user_id].real_name
    ts = await slack.post("maya", "#general", f"@{name}, import @{name}/kvstore: `@{name}` ```\n@{name}\n```")
    bot = f"<@{slack.bot_user_id}>"
    assert slack.record(ts).body["text"] == f"{bot}, import @{name}/kvstore: `@{name}` ```\n@{name}\n```"


async def test_tokens_are_checked_with_http_200(slack: SlackSimulator) -> None:
    assert await error_of(web_client(slack, "xoxb-wrong").auth_test()) == "invalid_auth"
    assert await error_of(web_client(slack, slack.app_token).auth_test()) == "not_allowed_token_type"
    assert (
        await error_of(web_client(slack).apps_connections_open(app_token=slack.bot_token)) == "not_allowed_token_type"
    )
    assert await error_of(web_client(slack).api_call("made.up")) == "unknown_method"
    async with aiohttp.ClientSession() as session, session.post(slack.api_url + "auth.test") as response:
        assert (response.status, await response.json()) == (200, {"ok": False, "error": "not_authed"})


async def test_arguments_come_in_query_form_or_json(slack: SlackSimulator) -> None:
    headers = {"Authorization": f"Bearer {slack.bot_token}"}
    block = '[{"type": "divider"}]'
    channel = slack.channel("general").id
    async with aiohttp.ClientSession(headers=headers) as session:
        for arguments in (
            {"params": {"channel": channel, "text": "q", "blocks": block}},
            {"data": {"channel": channel, "text": "f", "blocks": block}},
            {"json": {"channel": channel, "text": "j", "blocks": [{"type": "divider"}]}},
            {"params": {"channel": channel}, "json": {"text": "both"}},
        ):
            async with session.post(slack.api_url + "chat.postMessage", **arguments) as response:
                assert (await response.json())["ok"], arguments
    assert [m["text"] for m in slack.messages("general")] == ["q", "f", "j", "both"]
    assert [bool(m.get("blocks")) for m in slack.messages("general")] == [True, True, True, False]


async def test_a_missing_scope_is_named(slack: SlackSimulator) -> None:
    app = slack.add_app("Poor", manifest=Manifest(scopes=frozenset({"chat:write"}), events=frozenset()))
    with pytest.raises(SlackApiError) as caught:
        await web_client(slack, app.bot_token).reactions_add(channel="C1", timestamp="1", name="eyes")
    assert caught.value.response.data == {
        "ok": False,
        "error": "missing_scope",
        "needed": "reactions:write",
        "provided": "chat:write",
    }
    assert (
        await error_of(web_client(slack, app.bot_token).conversations_history(channel=slack.channel("general").id))
        == "missing_scope"
    )


async def test_a_post_is_normalised_and_kept_with_its_metadata(slack: SlackSimulator) -> None:
    client = web_client(slack)
    channel = slack.channel("general").id
    metadata = {"event_type": "turn", "event_payload": {"part": 1}}
    posted = await client.chat_postMessage(channel=channel, text="a < b & <@U1> https://e.org", metadata=metadata)
    assert posted["message"]["text"] == "a &lt; b &amp; <@U1> <https://e.org>"
    assert posted["message"]["bot_profile"]["app_id"] == slack.app.id
    ts = posted["ts"]
    with_metadata = await client.conversations_replies(channel=channel, ts=ts, include_all_metadata=True)
    without = await client.conversations_replies(channel=channel, ts=ts)
    assert with_metadata["messages"][0]["metadata"] == metadata
    assert "metadata" not in without["messages"][0]


async def test_long_text_is_cut_on_post_and_refused_on_update(slack: SlackSimulator) -> None:
    client = web_client(slack)
    posted = await client.chat_postMessage(channel="#general", text="x" * 40_001)
    assert posted["warning"] == "message_truncated"
    assert len(posted["message"]["text"]) == 40_000
    update = client.chat_update(channel=posted["channel"], ts=posted["ts"], text="x" * 4_001)
    assert await error_of(update) == "msg_too_long"
    assert (await client.chat_update(channel=posted["channel"], ts=posted["ts"], text="x" * 4_000))["ok"]


async def test_update_with_blocks_shows_no_edited_mark_and_text_alone_removes_blocks(slack: SlackSimulator) -> None:
    client = web_client(slack)
    block = {"type": "markdown", "text": "**hi**"}
    posted = await client.chat_postMessage(channel="#general", text="one", blocks=[block])
    where = {"channel": posted["channel"], "ts": posted["ts"]}
    with_blocks = await client.chat_update(**where, text="two", blocks=[block])
    assert "edited" not in with_blocks["message"]
    kept = await client.chat_update(**where, attachments=[{"text": "a", "fallback": "a"}])
    assert kept["message"]["blocks"]
    text_only = await client.chat_update(**where, text="three")
    assert "blocks" not in text_only["message"]
    assert text_only["message"]["edited"]["user"] == slack.bot_user_id
    assert [r.body["text"] for r in slack.history(posted["ts"])] == ["one", "two", "two", "three"]


async def test_only_own_messages_change(slack: SlackSimulator) -> None:
    client = web_client(slack)
    ts = await slack.post("maya", "#general", "mine")
    channel = slack.channel("general").id
    assert await error_of(client.chat_update(channel=channel, ts=ts, text="x")) == "cant_update_message"
    assert await error_of(client.chat_delete(channel=channel, ts=ts)) == "cant_delete_message"
    assert await error_of(client.chat_update(channel=channel, ts="1.000000", text="x")) == "message_not_found"


async def test_where_a_bot_may_post(slack: SlackSimulator) -> None:
    client = web_client(slack)
    assert await error_of(client.chat_postMessage(channel="#random", text="x")) == "not_in_channel"
    assert (
        await error_of(client.chat_postMessage(channel=slack.channel("leadership").id, text="x")) == "channel_not_found"
    )
    assert await error_of(client.chat_postMessage(channel="C0NOWHERE", text="x")) == "channel_not_found"
    assert await error_of(client.api_call("chat.postMessage", json={"channel": "#general"})) == "no_text"
    slack.archive("engineering")
    assert await error_of(client.chat_postMessage(channel="#engineering", text="x")) == "is_archived"
    slack.invite("random")
    assert (await client.chat_postMessage(channel="#random", text="x"))["ok"]
    direct = await client.chat_postMessage(channel=slack.user("maya").id, text="psst")
    assert direct["channel"] == slack.dm("maya").id


async def test_threads(slack: SlackSimulator) -> None:
    client = web_client(slack)
    ts = await slack.post("maya", "#general", "root")
    channel = slack.channel("general").id
    first = await client.chat_postMessage(channel=channel, thread_ts=ts, text="one")
    await slack.post("jonas", "#general", "two", thread_ts=ts)
    assert (
        await error_of(client.chat_postMessage(channel=channel, thread_ts="1.000000", text="x")) == "thread_not_found"
    )
    into_reply = client.chat_postMessage(channel=channel, thread_ts=first["ts"], text="x")
    assert await error_of(into_reply) == "cannot_reply_to_message"

    replies = await client.conversations_replies(channel=channel, ts=first["ts"])
    assert [m["text"] for m in replies["messages"]] == ["root", "one", "two"]
    assert replies["messages"][0]["reply_count"] == 2
    assert replies["messages"][1]["parent_user_id"] == slack.user("maya").id
    page = await client.conversations_replies(channel=channel, ts=ts, limit=1)
    cursor = page["response_metadata"]["next_cursor"]
    rest = await client.conversations_replies(channel=channel, ts=ts, limit=1, cursor=cursor)
    assert [m["text"] for m in rest["messages"]] == ["root", "two"]
    later = await client.conversations_replies(channel=channel, ts=ts, oldest=first["ts"])
    assert [m["text"] for m in later["messages"]] == ["root", "two"]
    history = await client.conversations_history(channel=channel)
    assert [m["text"] for m in history["messages"]] == ["root"]
    assert await error_of(client.conversations_replies(channel=channel, ts="1.000000")) == "thread_not_found"


async def test_a_deleted_root_leaves_a_tombstone_only_over_replies(slack: SlackSimulator) -> None:
    client = web_client(slack)
    ts = await slack.post("maya", "#general", "root")
    await slack.post("jonas", "#general", "reply", thread_ts=ts)
    lonely = await slack.post("maya", "#general", "lonely")
    await slack.delete("maya", ts)
    await slack.delete("maya", lonely)
    history = await client.conversations_history(channel=slack.channel("general").id)
    assert [m.get("subtype") for m in history["messages"]] == ["tombstone"]
    with pytest.raises(PermissionError):
        await slack.delete("maya", slack.messages("general", ts)[1])


async def test_a_limit_is_http_429_with_whole_seconds() -> None:
    clock = ManualClock()
    async with SlackSimulator(clock=clock) as slack:
        client = web_client(slack)
        ts = (await client.chat_postMessage(channel="#general", text="x"))["ts"]
        channel = slack.channel("general").id
        for _ in range(50):
            await client.chat_update(channel=channel, ts=ts, text="y")
        with pytest.raises(SlackApiError) as caught:
            await client.chat_update(channel=channel, ts=ts, text="z")
        assert caught.value.response.status_code == 429
        assert caught.value.response.headers["Retry-After"] == "60"
        assert [c.status for c in slack.calls if c.method == "chat.update"][-2:] == [200, 429]
        clock.advance(60)
        assert (await client.chat_update(channel=channel, ts=ts, text="z"))["ok"]


async def test_reactions(slack: SlackSimulator) -> None:
    client = web_client(slack)
    ts = await slack.post("maya", "#general", "root")
    where = {"channel": slack.channel("general").id, "timestamp": ts}
    await client.reactions_add(**where, name="eyes")
    assert await error_of(client.reactions_add(**where, name="eyes")) == "already_reacted"
    assert await error_of(client.reactions_add(**where, name=":eyes:")) == "invalid_name"
    assert (await client.reactions_get(**where))["message"]["reactions"][0]["count"] == 1
    await client.reactions_remove(**where, name="eyes")
    assert await error_of(client.reactions_remove(**where, name="eyes")) == "no_reaction"


async def test_people_channels_and_links(slack: SlackSimulator) -> None:
    client = web_client(slack)
    assert (await client.users_info(user=slack.user("maya").id))["user"]["profile"]["display_name"] == "maya"
    assert len((await client.users_list())["members"]) == 3
    assert (await client.bots_info(bot=slack.app.bot.bot_id))["bot"]["user_id"] == slack.bot_user_id
    listed = await client.conversations_list(types="public_channel,private_channel")
    assert [c["name"] for c in listed["channels"]] == ["general", "engineering", "random"]
    opened = await client.conversations_open(users=slack.user("jonas").id)
    assert opened["channel"]["id"] == slack.dm("jonas").id
    assert (await client.conversations_join(channel=slack.channel("random").id))["channel"]["is_member"]
    members = await client.conversations_members(channel=slack.channel("random").id)
    assert slack.bot_user_id in members["members"]
    ts = await slack.post("maya", "#general", "root")
    link = await client.chat_getPermalink(channel=slack.channel("general").id, message_ts=ts)
    assert link["permalink"].endswith(ts.replace(".", ""))


async def test_files_go_up_in_three_steps_and_down_with_a_token(slack: SlackSimulator) -> None:
    client = web_client(slack)
    channel = slack.channel("general").id
    await client.files_upload_v2(channel=channel, filename="a.txt", content="hello", initial_comment="here")
    [message] = slack.messages("general")
    [file] = message["files"]
    assert (message["text"], file["size"], file["mimetype"]) == ("here", 5, "text/plain")
    async with aiohttp.ClientSession() as session:
        async with session.get(file["url_private"]) as refused:
            assert (refused.status, refused.content_type) == (200, "text/html")
        headers = {"Authorization": f"Bearer {slack.bot_token}"}
        async with session.get(file["url_private"], headers=headers) as given:
            assert await given.read() == b"hello"
    assert (await client.files_info(file=file["id"]))["file"]["name"] == "a.txt"
    assert await error_of(client.files_getUploadURLExternal(filename="a", length=0)) == "missing_argument"
    unsent = await client.files_getUploadURLExternal(filename="a", length=3)
    assert await error_of(client.files_completeUploadExternal(files=[{"id": unsent["file_id"]}])) == "file_not_found"


async def test_status_lines_end_with_the_next_message_or_after_two_minutes() -> None:
    clock = ManualClock()
    async with SlackSimulator(clock=clock, limits=None) as slack:
        client = web_client(slack)
        ts = await slack.post("maya", "#general", "root")
        where = {"channel_id": slack.channel("general").id, "thread_ts": ts}
        await client.assistant_threads_setStatus(**where, status="is thinking…")
        assert slack.status("#general", ts) == "is thinking…"
        clock.advance(121)
        assert slack.status("#general", ts) == ""
        await client.assistant_threads_setStatus(**where, status="is thinking…")
        await client.chat_postMessage(channel=where["channel_id"], thread_ts=ts, text="done")
        assert slack.status("#general", ts) == ""
        session = client.api_call("agents.sessions.setStatus", json={**where, "status": "processing"})
        assert await error_of(session) == "feature_disabled"
