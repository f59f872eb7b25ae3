"""users.* and bots.*: who is who."""

from typing import Any

from simulator.errors import SlackError
from simulator.state import User
from simulator.webapi.call import Call, cursor_page, method

Json = dict[str, Any]


@method("users.info", "users:read")
async def info(call: Call) -> Json:
    return {"user": user_object(call, call.user())}


@method("users.list", "users:read")
async def list_users(call: Call) -> Json:
    everybody = [user_object(call, user) for user in call.core.workspace.users.values()]
    page, cursor = cursor_page(everybody, call.text("cursor"), call.number("limit", 1000, 1000))
    return {"members": page, "response_metadata": {"next_cursor": cursor}}


@method("usergroups.users.list", "usergroups:read")
async def list_group(call: Call) -> Json:
    members = call.core.workspace.usergroups.get(call.required("usergroup"))
    if members is None:
        raise SlackError("no_such_subteam")
    return {"users": list(members)}


@method("bots.info", "users:read")
async def bots_info(call: Call) -> Json:
    wanted = call.text("bot") or call.app.bot.bot_id
    for app in call.core.workspace.apps.values():
        if app.bot.bot_id == wanted:
            bot = {"id": wanted, "deleted": False, "name": app.name, "updated": 0, "app_id": app.id, "icons": {}}
            return {"bot": {**bot, "user_id": app.bot.id}}
    raise SlackError("bot_not_found")


def user_object(call: Call, user: User) -> Json:
    profile: Json = {"real_name": user.real_name, "display_name": user.name, "image_48": ""}
    if user.is_bot:
        profile |= {"bot_id": user.bot_id, "api_app_id": user.app_id}
    return {
        "id": user.id,
        "team_id": user.team or call.core.workspace.team_id,
        "name": user.name,
        "deleted": False,
        "color": user.color,
        "real_name": user.real_name,
        "tz": "Europe/Berlin",
        "tz_label": "Central European Time",
        "tz_offset": 3600,
        "profile": profile,
        "is_admin": False,
        "is_owner": False,
        "is_restricted": bool(user.guest),
        "is_ultra_restricted": user.guest == "single",
        "is_stranger": bool(user.team),
        "is_bot": user.is_bot,
        "is_app_user": False,
        "updated": 0,
    }
