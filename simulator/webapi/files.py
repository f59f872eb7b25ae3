"""files.*: the three-step upload, and what is known about a file."""

import mimetypes
from typing import Any

from simulator.errors import SlackError
from simulator.state import Upload
from simulator.webapi.call import Call, method
from simulator.webapi.chat import check_writable, thread_of

Json = dict[str, Any]
MAX_SNIPPET = 1024 * 1024


@method("files.getUploadURLExternal", "files:write")
async def get_upload_url(call: Call) -> Json:
    name = call.required("filename")
    length = int(call.text("length") or 0) if call.text("length").isdigit() else 0
    if length < 1:
        raise SlackError("missing_argument")
    if call.text("snippet_type") and length > MAX_SNIPPET:
        raise SlackError("snippet_too_large")
    workspace = call.core.workspace
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    file = Upload(workspace.new_id("F"), name, length, call.app.bot.id, int(workspace.clock.now()), mimetype=kind)
    workspace.files[file.id] = file
    return {"upload_url": f"{call.core.base_url}/upload/{file.id}", "file_id": file.id}


@method("files.completeUploadExternal", "files:write")
async def complete_upload(call: Call) -> Json:
    given = call.structured("files")
    if not isinstance(given, list) or not given:
        raise SlackError("missing_argument")
    channel, thread_ts = None, None
    if call.text("channel_id") or call.text("channels"):
        channel = call.channel("channel_id" if call.text("channel_id") else "channels")
        check_writable(call, channel)
        thread_ts = thread_of(call, channel)
    files = [_uploaded(call, entry) for entry in given]
    if channel is not None:
        objects = [call.core.messages.file_object(file) for file in files]
        content = {"text": call.text("initial_comment"), "files": objects, "upload": True, "subtype": "file_share"}
        call.core.messages.by_app(call.app, channel, content, thread_ts)
    return {"files": [call.core.messages.file_object(file) for file in files]}


def _uploaded(call: Call, entry: Any) -> Upload:
    file = call.core.workspace.files.get(entry.get("id", "")) if isinstance(entry, dict) else None
    if file is None or file.content is None:
        raise SlackError("file_not_found")
    if file.shared:
        raise SlackError("file_already_shared")
    file.title = str(entry.get("title") or file.name)
    file.shared = True
    return file


@method("files.info", "files:read")
async def info(call: Call) -> Json:
    file = call.core.workspace.files.get(call.required("file"))
    if file is None or not file.shared:
        raise SlackError("file_not_found")
    if file.deleted:
        raise SlackError("file_deleted")
    shown = call.core.messages.full_file_object(file) | {"shares": _shares(call, file)}
    return {"file": shown, "comments": [], "response_metadata": {"next_cursor": ""}}


def _shares(call: Call, file: Upload) -> Json:
    shares: Json = {}
    for channel, thread_ts, ts in file.places:
        kind = "public" if call.core.workspace.channels[channel].kind == "channel" else "private"
        place = {"ts": ts, "channel_name": call.core.workspace.channels[channel].name}
        place |= {"thread_ts": thread_ts} if thread_ts else {}
        shares.setdefault(kind, {}).setdefault(channel, []).append(place)
    return shares


@method("files.delete", "files:write")
async def delete(call: Call) -> Json:
    file = call.core.workspace.files.get(call.required("file"))
    if file is None:
        raise SlackError("file_not_found")
    if file.user != call.app.bot.id:
        raise SlackError("cant_delete_file")
    call.core.messages.delete_file(file)
    return {}
