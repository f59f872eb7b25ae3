"""assistant.threads.* and agents.sessions.*: what an app says about its state in a thread."""

from typing import Any

from simulator.errors import SlackError
from simulator.state import Channel
from simulator.webapi.call import Call, method
from simulator.webapi.streams import SESSION_STATES

Json = dict[str, Any]
STATUS_LIFETIME = 120.0
MAX_LOADING_MESSAGES = 10


@method("assistant.threads.setStatus", "chat:write", "assistant:write")
async def set_status(call: Call) -> Json:
    channel, thread_ts = _thread(call)
    loading = call.structured("loading_messages") or []
    if len(loading) > MAX_LOADING_MESSAGES:
        raise SlackError("invalid_arguments", "[ERROR] no more than 10 items allowed [json-pointer:/loading_messages]")
    workspace = call.core.workspace
    status = call.text("status")
    key = (channel.id, thread_ts)
    if status:
        expires = call.core.clock.now() + STATUS_LIFETIME
        workspace.statuses[key] = {"status": status, "user": call.app.bot.id, "expires": expires}
    else:
        workspace.statuses.pop(key, None)
    workspace.changed("status", channel=channel.id, thread_ts=thread_ts)
    return {}


@method("assistant.threads.setTitle", "assistant:write")
async def set_title(call: Call) -> Json:
    _thread(call)
    call.required("title")
    return {}


@method("assistant.threads.setSuggestedPrompts", "assistant:write")
async def set_suggested_prompts(call: Call) -> Json:
    _thread(call)
    if not call.app.manifest.agent:
        raise SlackError("not_agent_app")
    return {}


@method("agents.sessions.setStatus", "chat:write")
async def set_session_status(call: Call) -> Json:
    if not call.app.manifest.agent:
        raise SlackError("feature_disabled")
    if not call.text("thread_ts"):
        raise SlackError("thread_ts_required")
    if call.required("status") not in SESSION_STATES:
        raise SlackError("invalid_status")
    channel, thread_ts = _thread(call)
    workspace = call.core.workspace
    if call.text("status") == "processing":
        expires = call.core.clock.now() + 3600.0
        workspace.statuses[channel.id, thread_ts] = {"status": "", "user": call.app.bot.id, "expires": expires}
    else:
        workspace.statuses.pop((channel.id, thread_ts), None)
    workspace.changed("status", channel=channel.id, thread_ts=thread_ts)
    return {}


def _thread(call: Call) -> tuple[Channel, str]:
    channel = call.channel("channel_id")
    thread_ts = call.required("thread_ts")
    if thread_ts not in channel.messages:
        raise SlackError("thread_not_found")
    return channel, thread_ts
