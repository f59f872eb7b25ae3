"""reactions.add, remove, get."""

import re
from typing import Any

from simulator.errors import SlackError
from simulator.state import Record
from simulator.webapi.call import Call, method

Json = dict[str, Any]
_NAME = re.compile(r"[a-z0-9_+'-]+(::skin-tone-[2-6])?$")
MAX_EMOJI = 50


def _record(call: Call) -> Record:
    channel = call.channel()
    if channel.archived:
        raise SlackError("is_archived")
    if call.app.bot.id not in channel.members:
        raise SlackError("not_in_channel")
    return call.record(channel, call.required("timestamp"))


def _name(call: Call) -> str:
    name = call.required("name")
    if not _NAME.match(name):
        raise SlackError("invalid_name")
    return name


@method("reactions.add", "reactions:write")
async def add(call: Call) -> Json:
    record, name = _record(call), _name(call)
    reactions = record.body.get("reactions", [])
    if len(reactions) >= MAX_EMOJI and name not in {r["name"] for r in reactions}:
        raise SlackError("too_many_emoji")
    if not call.core.messages.react(call.app.bot, record, name):
        raise SlackError("already_reacted")
    return {}


@method("reactions.remove", "reactions:write")
async def remove(call: Call) -> Json:
    if not call.core.messages.unreact(call.app.bot, _record(call), _name(call)):
        raise SlackError("no_reaction")
    return {}


@method("reactions.get", "reactions:read")
async def get(call: Call) -> Json:
    record = _record(call)
    return {"type": "message", "channel": record.channel.id, "message": call.core.messages.present(record)}
