"""Templates in Slack: `/flow templates`, `/flow template new`, and the buttons of the list."""

from __future__ import annotations

from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.modals import open_modal
from bot.parts import Block
from bot.shortcut import open_start
from bot.templatelist import DELETE, EDIT, MAKE, SHOW, START_FROM, template_blocks
from bot.templatemodal import TEMPLATE, read_template, shown_modal, template_modal
from config.logging import get_logger
from sessions.templates import (
    Template,
    TemplateChanged,
    TemplateError,
    TemplateId,
    TemplateInvalid,
    TemplateNotFound,
    TemplateTaken,
)
from sessions.types import ThreadId

log = get_logger(__name__)

_NOT_YOURS = "Only its owner and admins can do that."


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        template_id, user_id = TemplateId(str(action.get("value", ""))), str(body["user"]["id"])
        channel = str((body.get("channel") or {}).get("id") or "") or None
        match action["action_id"]:
            case "template_start":
                open_start(door, body, None, channel, template_id)
            case "template_show":
                open_template(door, body, channel, template_id, show=True)
            case "template_edit":
                open_template(door, body, channel, template_id)
            case "template_make":
                open_template(door, body, channel)
            case _:
                door.after.start(_delete(door, template_id, user_id, respond), "template")

    async def submitted(ack: Ack, body: dict[str, Any], view: dict[str, Any]) -> None:
        user_id = str(body["user"]["id"])
        try:
            errors = await save(door, view, user_id)
        except Exception as error:  # noqa: BLE001 - worded for the person who submitted it
            errors = {"name": sentence_for(error, "saving a template")}
        if errors:
            await ack(response_action="errors", errors=errors)
        else:
            await ack()

    for action_id in (START_FROM, SHOW, EDIT, DELETE, MAKE):
        app.action(action_id)(pressed)
    app.view(TEMPLATE)(submitted)


async def list_templates(door: Door, user_id: str, words: str) -> list[Block]:
    """Raises StoreUnavailable."""
    admin = door.access.is_admin(user_id)
    found = await door.sessions.templates.list(None if admin else user_id, words)
    found.sort(key=lambda one: one.user_id != user_id)
    return template_blocks(found, user_id, words, admin=admin)


def open_template(
    door: Door,
    body: dict[str, Any],
    channel: str | None,
    template_id: TemplateId | None = None,
    *,
    show: bool = False,
) -> None:
    """Opens the modal after the acknowledgement. `body`: of a command or a button, for its trigger.

    `show`: without inputs, for everybody who may see it.
    """
    user_id = str(body.get("user_id") or body["user"]["id"])

    async def made() -> Block | str:
        if template_id is None:
            return template_modal()
        try:
            if show:
                return shown_modal(await seen(door, template_id, user_id))
            return template_modal(await _own(door, template_id, user_id))
        except TemplateError as error:
            return error.sentence()

    async def tell(text: str) -> None:
        await door.whisper(ThreadId(door.me.team_id, channel or user_id, None), user_id, text)

    door.after.start(open_modal(door.client, str(body["trigger_id"]), made(), tell), "modal")


async def save(door: Door, view: dict[str, Any], user_id: str) -> dict[str, str]:
    """Stores what was submitted; what is wrong with it, by block id. Raises StoreUnavailable."""
    try:
        draft, template_id, since = read_template(view)
        if template_id is None:
            await door.sessions.templates.add(draft, user_id)
            log.info("a template was made", template=draft.name, public=draft.is_public, by=user_id)
        else:
            await _own(door, template_id, user_id)
            await door.sessions.templates.change(template_id, draft, since)
            log.info("a template was changed", template=draft.name, public=draft.is_public, by=user_id)
    except TemplateInvalid as error:
        return error.faults
    except (TemplateTaken, TemplateChanged, TemplateError) as error:
        return {"name": error.sentence()}
    return {}


async def seen(door: Door, template_id: TemplateId, user_id: str) -> Template:
    """Raises TemplateNotFound, also when that person may not see it."""
    template = await door.sessions.templates.get(template_id)
    if not template.may_see(user_id, admin=door.access.is_admin(user_id)):
        raise TemplateNotFound
    return template


async def _own(door: Door, template_id: TemplateId, user_id: str) -> Template:
    """Raises TemplateNotFound, TemplateError when that person may not change it."""
    template = await seen(door, template_id, user_id)
    if not template.may_change(user_id, admin=door.access.is_admin(user_id)):
        raise TemplateError(_NOT_YOURS)
    return template


async def _delete(door: Door, template_id: TemplateId, user_id: str, respond: Respond) -> None:
    try:
        template = await _own(door, template_id, user_id)
        await door.sessions.templates.remove(template_id)
        log.info("a template was deleted", template=template.name, by=user_id)
        blocks = await list_templates(door, user_id, "")
        await respond(text="Deleted.", blocks=blocks, response_type="ephemeral", replace_original=True)
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text = sentence_for(error, "deleting a template")
        await respond(text=text, response_type="ephemeral", replace_original=False)
