"""Checks of interactive elements and composition objects, which slack_sdk's block models do not descend into.

Limits are those of docs.slack.dev, "Block Kit reference". Each check yields sentences; no sentence means valid. Pure.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_SOURCES = ("static", "external", "users", "conversations", "channels")
SELECTS = {f"{source}_select" for source in _SOURCES} | {f"multi_{source}_select" for source in _SOURCES}
KNOWN = SELECTS | {
    "button",
    "checkboxes",
    "datepicker",
    "datetimepicker",
    "email_text_input",
    "feedback_buttons",
    "file_input",
    "icon_button",
    "image",
    "number_input",
    "overflow",
    "plain_text_input",
    "radio_buttons",
    "rich_text_input",
    "timepicker",
    "url_source",
    "url_text_input",
    "workflow_button",
    "mrkdwn",
    "plain_text",
}


def check_element(element: Any, path: str) -> Iterator[str]:
    """Sentences about one element of a block."""
    if not isinstance(element, dict):
        yield f"must be an object [json-pointer:{path}]"
        return
    kind = element.get("type", "")
    if kind not in KNOWN:
        yield f"unsupported type: {kind or 'none'} [json-pointer:{path}/type]"
        return
    yield from _length(element.get("action_id"), 255, f"{path}/action_id")
    if kind == "button":
        yield from _button(element, path)
    elif kind in ("mrkdwn", "plain_text"):
        yield from check_text(element, 2000, path)
    elif kind == "image":
        yield from _required(element, ("alt_text",), path)
        yield from _length(element.get("image_url"), 3000, f"{path}/image_url")
    elif kind == "feedback_buttons":
        for name in ("positive_button", "negative_button"):
            yield from _button({**(element.get(name) or {}), "type": "button"}, f"{path}/{name}")
    else:
        yield from _choices(element, path)
    if "confirm" in element:
        yield from _confirm(element["confirm"], f"{path}/confirm")


def check_text(value: Any, limit: int, path: str, *, only_plain: bool = False) -> Iterator[str]:
    """Sentences about a text object of 1 to `limit` characters."""
    if not isinstance(value, dict) or value.get("type") not in ("plain_text", "mrkdwn"):
        yield f"must be a text object [json-pointer:{path}]"
        return
    if only_plain and value["type"] != "plain_text":
        yield f"must be of type plain_text [json-pointer:{path}/type]"
    text = value.get("text")
    if not isinstance(text, str) or not text:
        yield f"must be more than 0 characters [json-pointer:{path}/text]"
    else:
        yield from _length(text, limit, f"{path}/text")


def _button(element: Json, path: str) -> Iterator[str]:
    yield from check_text(element.get("text"), 75, f"{path}/text", only_plain=True)
    yield from _length(element.get("value"), 2000, f"{path}/value")
    yield from _length(element.get("url"), 3000, f"{path}/url")
    yield from _length(element.get("accessibility_label"), 75, f"{path}/accessibility_label")
    if element.get("style") not in (None, "primary", "danger"):
        yield f"must be primary or danger [json-pointer:{path}/style]"


def _choices(element: Json, path: str) -> Iterator[str]:
    kind = element["type"]
    limit = {"overflow": 5, "checkboxes": 10, "radio_buttons": 10}.get(kind, 100)
    if kind in ("overflow", "checkboxes", "radio_buttons") or (
        kind.endswith("static_select") and "option_groups" not in element
    ):
        yield from _options(element.get("options"), limit, f"{path}/options")
    for index, group in enumerate(element.get("option_groups") or []):
        yield from _options(group.get("options"), 100, f"{path}/option_groups/{index}/options")
    if "placeholder" in element:
        yield from check_text(element["placeholder"], 150, f"{path}/placeholder", only_plain=True)


def check_suggestions(answer: Json) -> Iterator[str]:
    """Sentences about what an app answers to a `block_suggestion`; no option at all is an answer too."""
    groups = answer.get("option_groups")
    if (groups is None) == (answer.get("options") is None):
        yield "must be either options or option_groups"
        return
    if answer.get("options"):
        yield from _options(answer["options"], 100, "/options")
    if len(groups or []) > 100:
        yield "no more than 100 items allowed [json-pointer:/option_groups]"
    for index, group in enumerate(groups or []):
        yield from check_text(group.get("label"), 75, f"/option_groups/{index}/label", only_plain=True)
        yield from _options(group.get("options"), 100, f"/option_groups/{index}/options")


def _options(options: Any, limit: int, path: str) -> Iterator[str]:
    if not isinstance(options, list) or not options:
        yield f"no items provided [json-pointer:{path}]"
        return
    if len(options) > limit:
        yield f"no more than {limit} items allowed [json-pointer:{path}]"
    for index, option in enumerate(options):
        yield from check_text(option.get("text"), 75, f"{path}/{index}/text")
        yield from _length(option.get("value"), 150, f"{path}/{index}/value")


def _confirm(confirm: Any, path: str) -> Iterator[str]:
    if not isinstance(confirm, dict):
        yield f"must be an object [json-pointer:{path}]"
        return
    for name, limit in (("title", 100), ("text", 300), ("confirm", 30), ("deny", 30)):
        if name in confirm:
            yield from check_text(confirm[name], limit, f"{path}/{name}")


def _required(element: Json, names: tuple[str, ...], path: str) -> Iterator[str]:
    yield from (f"missing required field: {name} [json-pointer:{path}]" for name in names if name not in element)


def _length(value: Any, limit: int, path: str) -> Iterator[str]:
    if isinstance(value, str) and len(value) > limit:
        yield f"must be less than {limit + 1} characters [json-pointer:{path}]"
