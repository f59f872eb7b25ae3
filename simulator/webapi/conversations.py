"""conversations.*: reading channels and threads, membership."""

from typing import Any

from simulator.errors import SlackError
from simulator.state import Channel, Record
from simulator.webapi.call import SCOPE_FAMILY, Call, cursor_page, method

Json = dict[str, Any]
READ = ("channels:read", "groups:read", "im:read", "mpim:read")


@method("conversations.replies")
async def replies(call: Call) -> Json:
    channel = call.readable_channel()
    ts = call.required("ts")
    record = channel.messages.get(ts)
    if record is None:
        raise SlackError("thread_not_found")
    root = channel.messages[record.thread_ts] if record.thread_ts else record
    thread = channel.replies(root.ts)
    if root.deleted and not thread:
        raise SlackError("thread_not_found")
    page, cursor = cursor_page(_within(call, thread), call.text("cursor"), call.number("limit", 1000, 1000))
    return _messages(call, [root, *page], cursor)


@method("conversations.history")
async def history(call: Call) -> Json:
    channel = call.readable_channel()
    shown = [record for record in channel.messages.values() if _in_channel(channel, record)]
    found = _within(call, shown)[::-1]
    page, cursor = cursor_page(found, call.text("cursor"), call.number("limit", 100, 999))
    return _messages(call, page, cursor)


def _in_channel(channel: Channel, record: Record) -> bool:
    if record.deleted and not channel.replies(record.ts):
        return False
    return not record.thread_ts or record.body.get("subtype") == "thread_broadcast"


def _within(call: Call, records: list[Record]) -> list[Record]:
    """Between `oldest` and `latest`, compared as Slack's decimal timestamps; the ends count only with `inclusive`."""
    oldest, latest = _moment(call.text("oldest")), _moment(call.text("latest"))
    inclusive = call.flag("inclusive")

    def inside(record: Record) -> bool:
        moment = _moment(record.ts)
        assert moment is not None
        if oldest is not None and (moment < oldest or (moment == oldest and not inclusive)):
            return False
        return latest is None or moment < latest or (moment == latest and inclusive)

    return [record for record in records if inside(record)]


def _moment(ts: str) -> tuple[int, int] | None:
    if not ts:
        return None
    seconds, _, fraction = ts.partition(".")
    try:
        return int(seconds), int((fraction + "000000")[:6])
    except ValueError:
        raise SlackError("invalid_ts_oldest") from None


def _messages(call: Call, records: list[Record], cursor: str) -> Json:
    metadata = call.flag("include_all_metadata")
    messages = [call.core.messages.present(record, metadata=metadata) for record in records]
    answer: Json = {"messages": messages, "has_more": bool(cursor)}
    if cursor:
        answer["response_metadata"] = {"next_cursor": cursor}
    return answer


@method("conversations.info", *READ)
async def info(call: Call) -> Json:
    channel = call.channel()
    call.need(f"{SCOPE_FAMILY[channel.kind]}:read")
    return {"channel": channel_object(call, channel)}


@method("conversations.list", *READ)
async def list_channels(call: Call) -> Json:
    wanted = set(call.text("types", "public_channel").replace(" ", "").split(","))
    kinds = {"public_channel": "channel", "private_channel": "group", "im": "im", "mpim": "mpim"}
    chosen = {kinds[name] for name in wanted if name in kinds}
    found = [
        channel_object(call, channel)
        for channel in call.core.workspace.channels.values()
        if channel.kind in chosen
        and (channel.kind == "channel" or call.app.bot.id in channel.members)
        and not (channel.archived and call.flag("exclude_archived"))
    ]
    page, cursor = cursor_page(found, call.text("cursor"), call.number("limit", 100, 1000))
    return {"channels": page, "response_metadata": {"next_cursor": cursor}}


@method("conversations.members", *READ)
async def members(call: Call) -> Json:
    channel = call.channel()
    page, cursor = cursor_page(channel.members, call.text("cursor"), call.number("limit", 100, 1000))
    return {"members": page, "response_metadata": {"next_cursor": cursor}}


@method("conversations.open", "im:write", "mpim:write")
async def open_direct(call: Call) -> Json:
    workspace = call.core.workspace
    if call.text("channel"):
        return {"channel": {"id": call.channel().id}}
    users = [user for user in call.text("users").replace(" ", "").split(",") if user]
    if not users:
        raise SlackError("users_list_not_supplied")
    if any(user not in workspace.users for user in users):
        raise SlackError("user_not_found")
    channel = workspace.direct(*dict.fromkeys([*users, call.app.bot.id]))
    return {"channel": channel_object(call, channel) if call.flag("return_im") else {"id": channel.id}}


@method("conversations.join", "channels:join")
async def join(call: Call) -> Json:
    channel = call.channel()
    if channel.kind != "channel":
        raise SlackError("method_not_supported_for_channel_type")
    if channel.archived:
        raise SlackError("is_archived")
    if call.app.bot.id not in channel.members:
        channel.members.append(call.app.bot.id)
        call.core.workspace.changed("channel", channel=channel.id)
    return {"channel": channel_object(call, channel)}


def channel_object(call: Call, channel: Channel) -> Json:
    body: Json = {
        "id": channel.id,
        "created": channel.created,
        "is_archived": channel.archived,
        "is_channel": channel.kind == "channel",
        "is_group": channel.kind == "group",
        "is_im": channel.kind == "im",
        "is_mpim": channel.kind == "mpim",
        "is_private": channel.kind != "channel",
        "context_team_id": call.core.workspace.team_id,
    }
    if channel.kind == "im":
        other = [member for member in channel.members if member != call.app.bot.id]
        return body | {"user": other[0] if other else "", "is_user_deleted": False}
    member = call.app.bot.id in channel.members
    return body | {
        "name": channel.name,
        "name_normalized": channel.name,
        "creator": channel.creator,
        "is_member": member,
        "is_general": channel.name == "general",
        "num_members": len(channel.members),
        "topic": {"value": "", "creator": "", "last_set": 0},
        "purpose": {"value": "", "creator": "", "last_set": 0},
    }
