"""views.open, push, update, publish."""

import uuid
from typing import Any

from simulator.errors import SlackError
from simulator.modals import View
from simulator.validation import check_view
from simulator.webapi.call import Call, method

Json = dict[str, Any]
MAX_STACK = 3


@method("views.open")
async def open_view(call: Call) -> Json:
    view = call.structured("view")
    check_view(view, "modal")
    trigger = call.core.interactions.redeem_trigger(call.app, call.required("trigger_id"))
    opened = call.core.modals.open(call.app, trigger.user, view)
    return {"view": call.core.modals.view_object(opened)}


@method("views.push")
async def push(call: Call) -> Json:
    view = call.structured("view")
    check_view(view, "modal")
    modals = call.core.modals
    trigger = call.core.interactions.redeem_trigger(call.app, call.required("trigger_id"))
    stack = [v for v in modals.views.values() if v.user is trigger.user and v.app is call.app and v.open]
    if not stack:
        raise SlackError("not_found")
    if len(stack) >= MAX_STACK:
        raise SlackError("push_limit_reached")
    return {"view": modals.view_object(modals.open(call.app, trigger.user, view, stack[-1]))}


@method("views.update")
async def update(call: Call) -> Json:
    body = call.structured("view")
    check_view(body, "modal")
    view = _find(call)
    if call.text("hash") and call.text("hash") != view.body["hash"]:
        raise SlackError("hash_conflict")
    call.core.modals.replace(view, body)
    return {"view": call.core.modals.view_object(view)}


def _find(call: Call) -> View:
    for view in call.core.modals.views.values():
        wanted = call.text("view_id") == view.id or (
            call.text("external_id") and call.text("external_id") == view.body.get("external_id")
        )
        if wanted and view.app is call.app and view.open:
            return view
    raise SlackError("not_found")


@method("views.publish")
async def publish(call: Call) -> Json:
    body = call.structured("view")
    check_view(body, "home")
    user = call.user("user_id")
    if not call.app.manifest.home_tab:
        raise SlackError("not_enabled")
    current = call.app.home.get(user.id)
    if call.text("hash") and current and call.text("hash") != current["hash"]:
        raise SlackError("hash_conflict")
    view_id = current["id"] if current else call.core.workspace.new_id("V")
    stored = {
        "private_metadata": "",
        "callback_id": "",
        "external_id": "",
        **body,
        "blocks": call.core.messages.with_block_ids(body["blocks"]),
        "id": view_id,
        "team_id": call.core.workspace.team_id,
        "app_id": call.app.id,
        "bot_id": call.app.bot.bot_id,
        "root_view_id": view_id,
        "previous_view_id": None,
        "state": {"values": {}},
        "hash": f"{int(call.core.clock.now())}.{uuid.uuid4().hex[:8]}",
    }
    call.app.home[user.id] = stored
    call.core.workspace.changed("home", user=user.id, app=call.app.id)
    return {"view": stored}
