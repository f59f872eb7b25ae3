"""Templates as Slack shows them: the list of `/flow templates`, and what one says in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bot.below import person
from bot.markdown import clean, clip
from bot.parts import Block, actions, button, context, section
from config.units import format_size
from sessions.templates import Template, TemplateConfig

#: Action ids.
START_FROM, SHOW, EDIT = "template_start", "template_show", "template_edit"
DELETE, MAKE = "template_delete", "template_make"
_SHOWN = 15  # templates in one list


def template_blocks(templates: Sequence[Template], user_id: str, words: str, *, admin: bool = False) -> list[Block]:
    """Each with its buttons; Edit and Delete for those who may."""
    looked = f" with “{clip(clean(words), 60)}”" if words else ""
    make = actions(button(MAKE, "New template", "new"))
    if not templates:
        return [section(f"There is no template{looked} that you can use."), make]
    blocks = [section(f"*Templates*{looked}")]
    for template in templates[:_SHOWN]:
        buttons = [button(START_FROM, "Start", template.id, "primary")] if template.may_see(user_id) else []
        buttons.append(button(SHOW, "Show", template.id))
        if template.may_change(user_id, admin=admin):
            buttons += [button(EDIT, "Edit", template.id), _deleting(template)]
        blocks += [section(template_line(template)), actions(*buttons)]
    if len(templates) > _SHOWN:
        more = len(templates) - _SHOWN
        blocks.append(context(f"{more} more: `/flow templates <words>` looks for some."))
    return [*blocks, make]


def template_line(template: Template) -> str:
    """mrkdwn: its name, whose it is, and what it sets."""
    owner = person(template.user_id) if template.user_id else "the administrators"
    seen = "everybody" if template.is_public else "its owner only"
    about = f"\n{clean(template.description)}" if template.description else ""
    said = described(template.config)
    return f"*{template.name}* · by {owner} · for {seen}{about}\n" + (said or "sets nothing")


def described(config: TemplateConfig) -> str:
    """What it sets, in one line of mrkdwn."""
    egress, resources = config.egress, config.resources
    facts = [
        config.repository and f"repository {config.repository}" + (f" ({config.branch})" if config.branch else ""),
        config.startup_script and f"startup script {config.startup_script}",
        config.model and f"model {config.model}",
        config.mode and f"mode {config.mode}",
        config.image and f"image {config.image}",
        egress and {"none": "no way out", "open": "every host that is allowed"}.get(egress.mode, ""),
        egress and egress.hosts and f"reaches {', '.join(egress.hosts)}",
        resources and resources.memory and f"memory {format_size(resources.memory)}",
        resources and resources.cpus and f"{resources.cpus:g} CPUs",
        resources and resources.pids and f"{resources.pids} processes",
        config.mcp_servers and f"MCP servers {', '.join(config.mcp_servers)}",
        config.vault and f"Vault {', '.join(config.vault.paths)}",
        config.env and f"{len(config.env)} variables",
        config.prompt and "a first prompt",
        config.instructions and "instructions",
    ]
    return clip(clean(" · ".join(fact for fact in facts if fact)), 500)


def _deleting(template: Template) -> Block:
    return button(DELETE, "Delete", template.id, "danger") | {
        "confirm": {
            "title": {"type": "plain_text", "text": "Delete this template?"},
            "text": {
                "type": "plain_text",
                "text": f"{template.name} is gone for everybody. Sessions that were started from it go on as they are.",
            },
            "confirm": {"type": "plain_text", "text": "Delete"},
            "deny": {"type": "plain_text", "text": "Keep it"},
            "style": "danger",
        }
    }
