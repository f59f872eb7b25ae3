"""The modal that makes or edits a template: its look, and what somebody put into it. Pure.

What most templates say has inputs; the rest is JSON in one of them. The modal carries the id and the time of the last
change of what is edited, so that nobody overwrites what somebody else saved meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bot.newmodal import MODE_WORDS, MODEL_WORDS, input_block, option, plain, select, value_of
from bot.parts import Block, section
from bot.plaintext import clip_code, preformatted, visible
from bot.templatelist import template_line
from sessions.templates import (
    BRANCH_MOST,
    DESCRIPTION_MOST,
    FORM,
    NAME_MOST,
    REST_MOST,
    TEXT_MOST,
    Draft,
    Template,
    TemplateId,
    TemplateInvalid,
    drafted,
)

TEMPLATE = "flow_template"  # callback id
_REST = "rest"
_CODE_ROOM = 2_900  # of one block
_VISIBLE = {"private": "Only me", "public": "Everybody in this workspace"}
_REST_HINT = (
    "startup_script, image, egress, resources, mcp_servers, vault, env; for example "
    '{"resources": {"memory": "1g"}, "env": {"LOG_LEVEL": "debug"}}'
)


def template_modal(template: Template | None = None) -> Block:
    """None: a new one."""
    config = template.config if template else None
    said: Mapping[str, Any] = config.stored() if config else {}
    rest = json.dumps(config.rest(), indent=1, ensure_ascii=False) if config and config.rest() else ""
    models = MODEL_WORDS | ({config.model: config.model} if config and config.model else {})
    visible = "public" if template and template.is_public else "private"
    radio = {"type": "radio_buttons", "options": [option(text, value) for value, text in _VISIBLE.items()]}
    blocks = [
        _text("name", "Name", template.name if template else "", NAME_MOST, hint="Letters, digits, dashes: review-api"),
        _text("description", "Description", template.description if template else "", DESCRIPTION_MOST, optional=True),
        input_block("visible", "Who may use it", radio | {"initial_option": option(_VISIBLE[visible], visible)}),
        _text(
            "repository", "Repository", said.get("repository", ""), 500, optional=True,
            hint="Its name in /flow repos, or its address",
        ),
        _text("branch", "Branch", said.get("branch", ""), BRANCH_MOST, optional=True),
        input_block("model", "Model", _chosen(select(models), said.get("model")), optional=True),
        input_block("mode", "Permissions", _chosen(select(MODE_WORDS), said.get("mode")), optional=True),
        _text(
            "prompt", "First prompt", said.get("prompt", ""), TEXT_MOST, optional=True, lines=True,
            hint="What Claude is asked where somebody starts it without words",
        ),
        _text(
            "instructions", "Instructions", said.get("instructions", ""), TEXT_MOST, optional=True, lines=True,
            hint="Claude is told this in every session that is started from it",
        ),
        _text(_REST, "The rest, as JSON", rest, REST_MOST, optional=True, lines=True, hint=_REST_HINT),
    ]  # fmt: skip
    about = {"id": template.id, "seen": template.updated_at.isoformat()} if template else {}
    return {
        "type": "modal",
        "callback_id": TEMPLATE,
        "private_metadata": json.dumps(about),
        "title": plain("Edit template" if template else "New template"),
        "submit": plain("Save"),
        "close": plain("Cancel"),
        "blocks": blocks,
    }


def shown_modal(template: Template) -> Block:
    """All that it says, for whoever wants to know before starting from it."""
    config = template.config
    rest = {name: value for name, value in config.stored().items() if name not in ("prompt", "instructions")}
    parts = {
        "What it sets": json.dumps(rest, indent=1, ensure_ascii=False) if rest else "",
        "First prompt": config.prompt,
        "Instructions": config.instructions,
    }
    blocks = [section(template_line(template))]
    for title, text in parts.items():
        if text:
            blocks += [section(f"*{title}*"), *_code(visible(text))]
    return {"type": "modal", "title": plain("Template"), "close": plain("Close"), "blocks": blocks}


def _code(text: str) -> list[Block]:
    blocks = []
    while text:
        piece = clip_code(text, _CODE_ROOM)
        blocks.append(preformatted(piece))
        text = text[len(piece) :]
    return blocks


def read_template(view: Mapping[str, Any]) -> tuple[Draft, TemplateId | None, datetime | None]:
    """What was submitted, and of what it is an edit. Raises TemplateInvalid with faults by block id."""
    values = {name: value_of(element) for block in view["state"]["values"].values() for name, element in block.items()}
    about = json.loads(str(view.get("private_metadata") or "{}"))
    try:
        rest = json.loads(values.get(_REST) or "{}")
    except (ValueError, RecursionError) as error:
        raise TemplateInvalid({_REST: f"This is no JSON: {error}."}) from None
    if not isinstance(rest, dict):
        raise TemplateInvalid({_REST: "This must be one JSON object, in { and }."})
    if twice := [name for name in FORM if name in rest]:
        raise TemplateInvalid({_REST: f"{twice[0]} has an input of its own above."})
    config = {**rest, **{name: values[name] for name in FORM if values.get(name)}}
    public = values.get("visible") == "public"
    try:
        draft = drafted(values.get("name", ""), values.get("description", ""), config, is_public=public)
    except TemplateInvalid as error:
        raise TemplateInvalid(_by_block(error.faults)) from None
    seen = datetime.fromisoformat(about["seen"]) if "seen" in about else None
    return draft, TemplateId(about["id"]) if "id" in about else None, seen


def _by_block(faults: Mapping[str, str]) -> dict[str, str]:
    """Slack shows errors below inputs only, one for each."""
    found: dict[str, str] = {}
    for place, said in faults.items():
        block = place if place in (*FORM, "name", "description") else _REST
        found[block] = f"{found[block]} {said}" if block in found else said
    return found


def _text(
    name: str, label: str, value: str, most: int, *, optional: bool = False, lines: bool = False, hint: str = ""
) -> Block:
    element: Block = {"type": "plain_text_input", "max_length": most, "multiline": lines}
    return input_block(name, label, element | ({"initial_value": value} if value else {}), optional=optional, hint=hint)


def _chosen(element: Block, value: str | None) -> Block:
    found = [one for one in element["options"] if one["value"] == value]
    return element | ({"initial_option": found[0]} if found else {})
