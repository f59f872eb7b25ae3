"""The modal that starts a session: its look, and what somebody put into it. Pure.

What it is about, a message of another place perhaps, travels in `private_metadata`: the modal may be submitted to
another process than the one that opened it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bot.branchsearch import NOTE, parted
from bot.inbound import readable
from bot.markdown import clean, clip
from bot.parts import Block, context
from bot.repositories import unlisted_scripts
from sessions.controls import MODELS, MODES
from sessions.templates import Template

START = "flow_start"  # callback id of the modal
KNOWN = "known"  # action id of the search for repositories and branches
NEW, MESSAGE = "flow_new", "flow_message"  # callback ids of the shortcuts, as in the manifest

_METADATA = 3_000  # characters (docs.slack.dev, views)
_TEXT = 1_500  # of the message, kept in the metadata; JSON may double some of it
_EXCERPT = 400
_CHOICES = 100  # options of a select (docs.slack.dev)
MODEL_WORDS = {"opus": "Opus", "sonnet": "Sonnet", "haiku": "Haiku"}
MODE_WORDS = {
    "auto": "Auto: work without asking",
    "ask": "Ask: before each change",
    "plan": "Plan: make a plan first",
}


@dataclass(frozen=True, slots=True)
class About:
    """A message that somebody chose. `markup`: a beginning of its text, `whole` if all of it.

    `root`: the ts of its thread's first message. `author` a user id, or the name of an app in `app`. `threaded`: it
    has a thread.
    """

    channel: str
    place: str
    ts: str
    root: str
    author: str
    app: str
    markup: str
    whole: bool
    threaded: bool


@dataclass(frozen=True, slots=True)
class Start:
    """What somebody wants started. `channel` None: in the thread of the message that it is about."""

    text: str
    channel: str | None
    about: About | None
    thread: bool  # bring the message's whole thread, not just the message
    repository: str | None
    branch: str | None
    model: str | None
    mode: str | None
    template: str | None = None  # its id
    startup_script: str | None = None


def about_message(body: Mapping[str, Any]) -> About:
    """Of a `message_action` payload (docs.slack.dev, message shortcuts)."""
    message, channel = body["message"], body["channel"]
    ts = str(body.get("message_ts") or message["ts"])
    author = str(message.get("user") or "")
    app = "" if author else str((message.get("bot_profile") or {}).get("name") or message.get("username") or "an app")
    markup = str(message.get("text") or "")
    kept = markup[:_TEXT]
    while len(json.dumps(kept)) > 2 * _TEXT - 800:  # what JSON spells with six letters for each
        kept = kept[: len(kept) * 3 // 4]
    return About(
        str(channel["id"]), str(channel.get("name") or ""), ts, str(message.get("thread_ts") or ts), author, app,
        kept, kept == markup, bool(message.get("thread_ts") or message.get("reply_count")),
    )  # fmt: skip


def start_modal(
    about: About | None,
    channel: str | None,
    templates: Sequence[Template] = (),
    chosen: str | None = None,
    *,
    repositories: bool = False,
    scripts: Mapping[str, str] | None = None,
    unlisted: int = 0,
) -> Block:
    """`channel`: where it is opened from, the first choice of where the thread goes; None: nowhere in particular.

    `templates`: those to choose from; `chosen`: the id of the first choice among them. `repositories`: there are some
    with names, which can be searched (bot/branchsearch.py). Startup `scripts`: what is shown, by name;
    those of so many repositories are `unlisted`.
    """
    blocks: list[Block] = []
    if about is not None:
        quoted = clip(clean(readable(about.markup)), _EXCERPT).replace("\n", "\n>")
        blocks.append(context(f">{quoted or '(a message without words)'}"))
    may_be_silent = any(one.config.prompt for one in templates)
    asking: Block = {"type": "plain_text_input", "multiline": True}
    hint = "A template may have a first prompt of its own." if may_be_silent else ""
    blocks.append(input_block("text", "What should Claude do?", asking, optional=may_be_silent, hint=hint))
    if templates:
        blocks.append(_template_input(templates, chosen))
    if about is not None and about.threaded:
        bring = [option("The message", "message"), option("Its whole thread", "thread")]
        blocks.append(
            input_block("bring", "Bring along", {"type": "radio_buttons", "options": bring, "initial_option": bring[0]})
        )
    where: Block = {
        "type": "conversations_select",
        "filter": {"include": ["public", "private", "im", "mpim"]},
    }
    hint = "I have to be a member. Where nothing is chosen, I answer in the thread of the message."
    if about is None:
        hint = "I have to be a member."
        where |= {"initial_conversation": channel} if channel else {"default_to_current_conversation": True}
    blocks.append(input_block("where", "Where", where, optional=about is not None, hint=hint))
    if repositories:
        usual = plain("The template's, or none" if templates else "None")
        search: Block = {"type": "external_select", "min_query_length": 0, "placeholder": usual}
        hint = (
            "Type parts of their names. Branches are those that Flow has fetched; any other goes into the field below."
        )
        blocks.append(input_block(KNOWN, "Repository and branch", search, optional=True, hint=hint))
    label = "Another repository" if repositories else "Repository"
    blocks += [
        input_block("repository", label, {"type": "plain_text_input"}, optional=True, hint="Its address"),
        input_block("branch", "Branch", {"type": "plain_text_input"}, optional=True),
        *([_choice("script", "Startup script", scripts)] if scripts else []),
        *([context(unlisted_scripts(unlisted))] if unlisted else []),
        input_block("model", "Model", select({name: MODEL_WORDS[name] for name in MODELS}), optional=True),
        input_block("mode", "Permissions", select({name: MODE_WORDS[name] for name in MODES}), optional=True),
    ]
    return {
        "type": "modal",
        "callback_id": START,
        "private_metadata": json.dumps(asdict(about)) if about else "",
        "title": plain("Ask Flow about this" if about else "New session"),
        "submit": plain("Start"),
        "close": plain("Cancel"),
        "blocks": blocks,
    }


def read_start(view: Mapping[str, Any]) -> Start | dict[str, str]:
    """What was submitted; or what is wrong with it, by block id, for people."""
    values = {
        action_id: value_of(element)
        for block in view["state"]["values"].values()
        for action_id, element in block.items()
    }
    metadata = str(view.get("private_metadata") or "")
    about = About(**json.loads(metadata)) if metadata else None
    picked, written = values.get(KNOWN, ""), values.get("repository") or None
    known, chosen = parted("" if picked.startswith(NOTE) else picked)
    repository, branch = written or known, values.get("branch") or chosen
    errors: dict[str, str] = {}
    if picked.startswith(NOTE) and not written:
        errors[KNOWN] = (
            "This line only says what the list leaves out: choose a repository here, or write its address below. "
            "A branch that is left out goes into the field below."
        )
    if chosen and values.get("branch") not in (None, "", chosen):
        errors["branch"] = f"You chose the branch {chosen} above: leave this empty, or choose the repository alone."
    if not values.get("text") and not values.get("template"):
        errors["text"] = "Say what Claude should do."
    if known and written:
        errors["repository"] = f"Choose {known} above, or write an address here; not both."
    elif written and (not re.search(r"[/:]", written) or re.search(r"\s", written)):
        errors["repository"] = "This is no address of a repository, such as https://host/owner/name.git."
    if branch and not repository and not values.get("template"):
        errors["branch"] = "A branch needs a repository."
    if about is None and not values.get("where"):
        errors["where"] = "Choose where the thread should be."
    if errors:
        return errors
    return Start(
        values.get("text", ""), values.get("where") or None, about, values.get("bring") == "thread", repository, branch,
        values.get("model") or None, values.get("mode") or None, values.get("template") or None,
        values.get("script") or None,
    )  # fmt: skip


def _choice(name: str, label: str, choices: Mapping[str, str]) -> Block:
    return input_block(name, label, select(choices) | {"placeholder": plain("None")}, optional=True)


def _template_input(templates: Sequence[Template], chosen: str | None) -> Block:
    """Slack's own select narrows its options as people type; it takes 100."""
    shown = sorted(templates, key=lambda one: one.id != chosen)[:_CHOICES]
    named = {one.id: f"{one.name}: {one.description}" if one.description else one.name for one in shown}
    element = select({id_: clip(text, 75) for id_, text in named.items()}) | {"placeholder": plain("None")}
    if chosen in named:
        element["initial_option"] = element["options"][0]
    more = f"The first {_CHOICES}; /flow templates <words> finds the others" if len(templates) > _CHOICES else ""
    return input_block("template", "Template", element, optional=True, hint=more)


def value_of(element: Mapping[str, Any]) -> str:
    chosen = element.get("selected_option") or {}
    found = element.get("value") or chosen.get("value") or element.get("selected_conversation")
    return str(found or "").strip()


def input_block(name: str, label: str, element: Block, *, optional: bool = False, hint: str = "") -> Block:
    block: Block = {
        "type": "input",
        "block_id": name,
        "label": plain(label),
        "optional": optional,
        "element": {**element, "action_id": name},
    }
    return block | {"hint": plain(hint)} if hint else block


def select(options: Mapping[str, str]) -> Block:
    made = [option(text, value) for value, text in options.items()]
    return {"type": "static_select", "placeholder": plain("As usual"), "options": made}


def option(text: str, value: str) -> Block:
    return {"text": plain(text), "value": value}


def plain(text: str) -> Block:
    return {"type": "plain_text", "text": text}
