"""chat.startStream, appendStream, stopStream.

State machine after the method reference and published measurements: a stream lives in a thread, belongs to one app, in
channels names its recipient, and ends by itself about five minutes after its start, however busy it is.
"""

from typing import Any

from simulator.errors import SlackError
from simulator.state import Channel, Record, Stream
from simulator.text import normalise
from simulator.validation import MAX_BLOCKS, MAX_MARKDOWN, check_blocks
from simulator.webapi.call import Call, method
from simulator.webapi.chat import check_writable, own_record, thread_of

Json = dict[str, Any]
STREAM_LIFETIME = 300.0
MAX_TASK_FIELD = 256
TASK_STATES = ("pending", "in_progress", "complete", "error")
SESSION_STATES = ("active", "processing", "suspended", "closed")


@method("chat.startStream", "chat:write")
async def start(call: Call) -> Json:
    channel = call.channel()
    check_writable(call, channel)
    if not call.text("thread_ts"):
        raise SlackError("invalid_thread_ts")
    thread_ts = thread_of(call, channel)
    _check_recipient(call, channel)
    mode = call.text("task_display_mode", "timeline")
    if mode not in ("timeline", "plan"):
        raise SlackError("invalid_arguments", "[ERROR] task_display_mode must be timeline or plan")
    chunks = _chunks(call)
    stream = Stream(call.core.clock.now() + STREAM_LIFETIME, display_mode=mode)
    body = _applied({"text": "", "blocks": []}, stream, chunks, call)
    record = call.core.messages.by_app(call.app, channel, body, thread_ts, stream=stream)
    return {"channel": channel.id, "ts": record.ts}


def _check_recipient(call: Call, channel: Channel) -> None:
    if channel.kind == "im":
        return
    for name in ("recipient_user_id", "recipient_team_id"):
        if not call.text(name):
            raise SlackError(f"missing_{name}")
    if call.text("recipient_user_id") not in call.core.workspace.users:
        raise SlackError("user_not_found")


@method("chat.appendStream", "chat:write")
async def append(call: Call) -> Json:
    record, stream = _open_stream(call)
    if not call.text("markdown_text") and "chunks" not in call.args:
        raise SlackError("no_text")
    changes = _applied(record.body, stream, _chunks(call), call)
    call.core.messages.update(record, changes, "append")
    return {"channel": record.channel.id, "ts": record.ts}


@method("chat.stopStream", "chat:write")
async def stop(call: Call) -> Json:
    record, stream = _open_stream(call)
    if call.text("session_status", "active") not in SESSION_STATES:
        raise SlackError("invalid_status")
    changes = _applied(record.body, stream, _chunks(call), call)
    final = call.structured("blocks", "invalid_blocks_format")
    if final:
        check_blocks(final)
        changes["blocks"] = [*(changes.get("blocks") or []), *call.core.messages.with_block_ids(final)]
    metadata = call.structured("metadata", "invalid_metadata_format")
    if metadata:
        record.metadata = metadata
    stream.open = False
    call.core.messages.update(record, changes, "stop")
    message = call.core.messages.present(record, metadata=True)
    return {"channel": record.channel.id, "ts": record.ts, "message": message}


def _open_stream(call: Call) -> tuple[Record, Stream]:
    record = own_record(call, call.channel(), "message_not_owned_by_app")
    if record.stream is None or not call.core.messages.streaming(record):
        raise SlackError("message_not_in_streaming_state")
    return record, record.stream


def _chunks(call: Call) -> list[Json]:
    """The new parts, `markdown_text` first; SlackError: invalid_chunks, msg_too_long, msg_blocks_too_long."""
    text = call.text("markdown_text")
    chunks = call.structured("chunks", "invalid_chunks") or []
    if not isinstance(chunks, list) or not all(isinstance(chunk, dict) for chunk in chunks):
        raise SlackError("invalid_chunks")
    if text:
        chunks = [{"type": "markdown_text", "text": text}, *chunks]
    for chunk in chunks:
        _check_chunk(chunk)
    if sum(len(chunk.get("text", "")) for chunk in chunks if chunk["type"] == "markdown_text") > MAX_MARKDOWN:
        raise SlackError("msg_too_long")
    return chunks


def _check_chunk(chunk: Json) -> None:
    match chunk.get("type"):
        case "markdown_text":
            valid = isinstance(chunk.get("text"), str)
        case "task_update":
            valid = bool(chunk.get("id")) and chunk.get("status", "pending") in TASK_STATES
            valid = valid and all(
                len(str(chunk.get(n) or "")) <= MAX_TASK_FIELD for n in ("title", "details", "output")
            )
        case "plan_update":
            valid = 0 < len(str(chunk.get("title") or "")) <= MAX_TASK_FIELD
        case "blocks":
            check_blocks(chunk.get("blocks"))
            valid = True
        case _:
            valid = False
    if not valid:
        raise SlackError("invalid_chunks")


def _applied(body: Json, stream: Stream, chunks: list[Json], call: Call) -> Json:
    """The message's text and blocks after these chunks."""
    blocks: list[Json] = list(body.get("blocks") or [])
    for chunk in chunks:
        match chunk["type"]:
            case "markdown_text":
                _append_markdown(blocks, stream, chunk["text"])
            case "task_update":
                _update_task(blocks, chunk, stream.display_mode)
            case "plan_update":
                _plan(blocks)["title"] = chunk["title"]
            case "blocks":
                blocks += chunk["blocks"][: MAX_BLOCKS - len(blocks)]
    return {"text": normalise(stream.markdown), "blocks": call.core.messages.with_block_ids(blocks)}


def _append_markdown(blocks: list[Json], stream: Stream, text: str) -> None:
    stream.markdown += text
    if blocks and blocks[-1].get("type") == "markdown":
        blocks[-1] = {**blocks[-1], "text": blocks[-1]["text"] + text}
    elif text:
        blocks.append({"type": "markdown", "text": text})


def _plan(blocks: list[Json]) -> Json:
    for block in blocks:
        if block.get("type") == "plan":
            return block
    plan: Json = {"type": "plan", "title": "", "tasks": []}
    blocks.insert(0, plan)
    return plan


def _update_task(blocks: list[Json], chunk: Json, mode: str) -> None:
    """Title and status replace what the task had; details and output are appended to it."""
    tasks = _plan(blocks)["tasks"] if mode == "plan" else blocks
    task = next((t for t in tasks if t.get("task_id") == chunk["id"]), None)
    if task is None:
        task = {"type": "task_card", "task_id": chunk["id"], "title": "", "status": "pending"}
        tasks.append(task)
    task["title"] = chunk.get("title") or task["title"]
    task["status"] = chunk.get("status") or task["status"]
    for name in ("details", "output"):
        if chunk.get(name):
            earlier = task[name]["elements"][0]["elements"][0]["text"] if name in task else ""
            task[name] = _rich(earlier + chunk[name])
    if chunk.get("sources"):
        task["sources"] = chunk["sources"]


def _rich(text: str) -> Json:
    section = {"type": "rich_text_section", "elements": [{"type": "text", "text": text}]}
    return {"type": "rich_text", "elements": [section]}
