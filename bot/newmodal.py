"""The modal that starts a session: its look, and what somebody put into it. Pure.

What it is about, a message of another place perhaps, travels in `private_metadata`: the modal may be submitted to
another process than the one that opened it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bot.inbound import readable
from bot.markdown import clean, clip
from bot.parts import Block, context
from sessions.controls import MODELS, MODES

START = "flow_start"  # callback id of the modal
NEW, MESSAGE = "flow_new", "flow_message"  # callback ids of the shortcuts, as in the manifest

_METADATA = 3_000  # characters (docs.slack.dev, views)
_TEXT = 1_500  # of the message, kept in the metadata; JSON may double some of it
_EXCERPT = 400
_MODELS = {"opus": "Opus", "sonnet": "Sonnet", "haiku": "Haiku"}
_MODES = {
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


def start_modal(about: About | None, channel: str | None) -> Block:
    """`channel`: where it is opened from, the first choice of where the thread goes; None: nowhere in particular."""
    blocks: list[Block] = []
    if about is not None:
        quoted = clip(clean(readable(about.markup)), _EXCERPT).replace("\n", "\n>")
        blocks.append(context(f">{quoted or '(a message without words)'}"))
    blocks.append(_input("text", "What should Claude do?", {"type": "plain_text_input", "multiline": True}))
    if about is not None and about.threaded:
        bring = [_option("The message", "message"), _option("Its whole thread", "thread")]
        blocks.append(
            _input("bring", "Bring along", {"type": "radio_buttons", "options": bring, "initial_option": bring[0]})
        )
    where: Block = {
        "type": "conversations_select",
        "filter": {"include": ["public", "private", "im", "mpim"]},
    }
    hint = "I have to be a member. Where nothing is chosen, I answer in the thread of the message."
    if about is None:
        hint = "I have to be a member."
        where |= {"initial_conversation": channel} if channel else {"default_to_current_conversation": True}
    blocks.append(_input("where", "Where", where, optional=about is not None, hint=hint))
    blocks += [
        _input("repository", "Repository", {"type": "plain_text_input"}, optional=True, hint="Its address"),
        _input("branch", "Branch", {"type": "plain_text_input"}, optional=True),
        _input("model", "Model", _select({name: _MODELS[name] for name in MODELS}), optional=True),
        _input("mode", "Permissions", _select({name: _MODES[name] for name in MODES}), optional=True),
    ]
    return {
        "type": "modal",
        "callback_id": START,
        "private_metadata": json.dumps(asdict(about)) if about else "",
        "title": _plain("Ask Flow about this" if about else "New session"),
        "submit": _plain("Start"),
        "close": _plain("Cancel"),
        "blocks": blocks,
    }


def read_start(view: Mapping[str, Any]) -> Start | dict[str, str]:
    """What was submitted; or what is wrong with it, by block id, for people."""
    values = {
        action_id: _value(element) for block in view["state"]["values"].values() for action_id, element in block.items()
    }
    metadata = str(view.get("private_metadata") or "")
    about = About(**json.loads(metadata)) if metadata else None
    repository, branch = values.get("repository") or None, values.get("branch") or None
    errors: dict[str, str] = {}
    if not values.get("text"):
        errors["text"] = "Say what Claude should do."
    if repository and (not re.search(r"[/:]", repository) or re.search(r"\s", repository)):
        errors["repository"] = "This is no address of a repository, such as https://host/owner/name.git."
    if branch and not repository:
        errors["branch"] = "A branch needs a repository."
    if about is None and not values.get("where"):
        errors["where"] = "Choose where the thread should be."
    if errors:
        return errors
    return Start(
        values["text"], values.get("where") or None, about, values.get("bring") == "thread", repository, branch,
        values.get("model") or None, values.get("mode") or None,
    )  # fmt: skip


def _value(element: Mapping[str, Any]) -> str:
    chosen = element.get("selected_option") or {}
    found = element.get("value") or chosen.get("value") or element.get("selected_conversation")
    return str(found or "").strip()


def _input(name: str, label: str, element: Block, *, optional: bool = False, hint: str = "") -> Block:
    block: Block = {
        "type": "input",
        "block_id": name,
        "label": _plain(label),
        "optional": optional,
        "element": {**element, "action_id": name},
    }
    return block | {"hint": _plain(hint)} if hint else block


def _select(options: Mapping[str, str]) -> Block:
    made = [_option(text, value) for value, text in options.items()]
    return {"type": "static_select", "placeholder": _plain("As usual"), "options": made}


def _option(text: str, value: str) -> Block:
    return {"text": _plain(text), "value": value}


def _plain(text: str) -> Block:
    return {"type": "plain_text", "text": text}
