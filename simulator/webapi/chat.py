"""chat.postMessage, update, delete, postEphemeral, getPermalink."""

from typing import Any

from simulator.errors import SlackError
from simulator.state import Channel, Record
from simulator.text import normalise
from simulator.validation import MAX_MARKDOWN, MAX_TEXT, MAX_UPDATE_TEXT, check_content
from simulator.webapi.call import Call, method

Json = dict[str, Any]
MAX_METADATA = 16_000


@method("chat.postMessage", "chat:write")
async def post_message(call: Call) -> Json:
    channel = _target(call)
    content, warnings = _content(call)
    metadata = _metadata(call)
    thread_ts = thread_of(call, channel)
    if thread_ts and call.flag("reply_broadcast"):
        content["subtype"] = "thread_broadcast"
    record = call.core.messages.by_app(call.app, channel, content, thread_ts, metadata=metadata)
    answer: Json = {
        "channel": channel.id,
        "ts": record.ts,
        "message": call.core.messages.present(record, metadata=True),
    }
    if warnings:
        answer |= {"warning": ",".join(warnings), "response_metadata": {"warnings": warnings}}
    return answer


@method("chat.postEphemeral", "chat:write")
async def post_ephemeral(call: Call) -> Json:
    channel = _target(call)
    user = call.user()
    if user.id not in channel.members:
        raise SlackError("user_not_in_channel")
    content, _ = _content(call)
    record = call.core.messages.ephemeral(call.app, user, channel, content, thread_of(call, channel))
    return {"message_ts": record.ts}


@method("chat.update", "chat:write")
async def update(call: Call) -> Json:
    channel = call.channel()
    if channel.archived:
        raise SlackError("is_inactive")
    record = own_record(call, channel, "cant_update_message")
    if call.core.messages.streaming(record):
        raise SlackError("streaming_state_conflict")
    if len(call.text("text")) > MAX_UPDATE_TEXT or len(call.text("markdown_text")) > MAX_MARKDOWN:
        raise SlackError("msg_too_long")
    if "metadata" in call.args:
        record.metadata = _metadata(call)
    call.core.messages.update(record, _changes(call))
    message = call.core.messages.present(record, metadata=True)
    return {"channel": channel.id, "ts": record.ts, "text": message.get("text", ""), "message": message}


def _changes(call: Call) -> Json:
    """What an update changes: new blocks show no "(edited)" mark; text alone removes the old blocks and shows it."""
    given: Json = {
        name: call.structured(name, "invalid_blocks_format") for name in ("blocks", "attachments") if name in call.args
    }
    if markdown := call.text("markdown_text"):
        if "text" in call.args or "blocks" in given:
            raise SlackError("markdown_text_conflict")
        given["blocks"] = [{"type": "markdown", "text": markdown}]
    check_content(given)
    changes: Json = {}
    if "text" in call.args:
        changes["text"] = normalise(call.text("text"))
    elif markdown:
        changes["text"] = normalise(markdown)
    if given.get("blocks"):
        changes["blocks"] = call.core.messages.with_block_ids(given["blocks"])
    elif "blocks" in given or "text" in changes:
        changes["blocks"] = None
    if "attachments" in given:
        changes["attachments"] = given["attachments"] or None
    if not changes:
        raise SlackError("no_text")
    if changes.get("blocks") is None and "text" in changes:
        if not changes["text"]:
            raise SlackError("no_text")
        changes["edited"] = {"user": call.app.bot.id, "ts": call.core.workspace.new_ts()}
    return changes


@method("chat.delete", "chat:write")
async def delete(call: Call) -> Json:
    channel = call.channel()
    record = own_record(call, channel, "cant_delete_message")
    if call.core.messages.streaming(record):
        raise SlackError("cant_delete_message")
    call.core.messages.delete(record)
    return {"channel": channel.id, "ts": record.ts}


@method("chat.getPermalink")
async def get_permalink(call: Call) -> Json:
    channel = call.channel()
    record = call.record(channel, call.required("message_ts"))
    link = f"{call.core.base_url}/archives/{channel.id}/p{record.ts.replace('.', '')}"
    if record.thread_ts:
        link += f"?thread_ts={record.thread_ts}&cid={channel.id}"
    return {"channel": channel.id, "permalink": link}


def own_record(call: Call, channel: Channel, error: str) -> Record:
    """The caller's own message `ts`; `error` if somebody else wrote it."""
    record = call.record(channel, call.required("ts"))
    if record.app_id != call.app.id:
        raise SlackError(error)
    return record


def _target(call: Call) -> Channel:
    """Where a message goes; a user id opens the direct conversation."""
    wanted = call.required("channel")
    workspace = call.core.workspace
    if wanted in workspace.users:
        return workspace.direct(wanted, call.app.bot.id)
    channel = call.channel()
    check_writable(call, channel)
    return channel


def check_writable(call: Call, channel: Channel) -> None:
    """SlackError unless the app may post there."""
    if channel.archived:
        raise SlackError("is_archived")
    public = channel.kind == "channel" and call.app.manifest.scopes is not None
    if call.app.bot.id not in channel.members and not (public and call.app.manifest.allows("chat:write.public")):
        raise SlackError("not_in_channel")


def thread_of(call: Call, channel: Channel) -> str | None:
    """The `thread_ts` argument, checked: it has to be a message that is not itself a reply."""
    thread_ts = call.text("thread_ts")
    if not thread_ts:
        return None
    parent = channel.messages.get(thread_ts)
    if parent is None or (parent.deleted and not channel.replies(thread_ts)):
        raise SlackError("thread_not_found")
    if parent.thread_ts:
        raise SlackError("cannot_reply_to_message")
    return thread_ts


def _content(call: Call) -> tuple[Json, list[str]]:
    """The visible part of a new message, normalised, and Slack's warnings about it."""
    text, markdown = call.text("text"), call.text("markdown_text")
    blocks = call.structured("blocks", "invalid_blocks_format")
    attachments = call.structured("attachments", "invalid_attachments")
    if markdown:
        if text or blocks:
            raise SlackError("markdown_text_conflict")
        if len(markdown) > MAX_MARKDOWN:
            raise SlackError("msg_too_long")
        text, blocks = markdown, [{"type": "markdown", "text": markdown}]
    if not (text or blocks or attachments):
        raise SlackError("no_text")
    check_content({"blocks": blocks, "attachments": attachments})
    warnings = []
    if len(text) > MAX_TEXT:
        text, warnings = text[:MAX_TEXT], ["message_truncated"]
    content: Json = {"text": normalise(text)}
    if blocks:
        content["blocks"] = call.core.messages.with_block_ids(blocks)
    if attachments:
        content["attachments"] = attachments
    return content, warnings


def _metadata(call: Call) -> Json | None:
    """Message metadata `{event_type, event_payload}`; SlackError if it has another shape or is too large."""
    metadata = call.structured("metadata", "invalid_metadata_format")
    if not metadata:
        return None
    if not isinstance(metadata, dict) or "event_type" not in metadata:
        raise SlackError("invalid_metadata_format")
    if not isinstance(metadata.get("event_payload"), dict):
        raise SlackError("invalid_metadata_schema")
    if len(str(metadata)) > MAX_METADATA:
        raise SlackError("metadata_too_large")
    return metadata
