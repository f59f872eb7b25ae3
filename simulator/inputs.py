"""What a person can press or fill in, and how a payload says what they did. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
CLICKABLE = ("actions", "section", "context_actions", "input")


def block_elements(block: Mapping[str, Any]) -> list[Json]:
    """The elements of a block that a person can use."""
    if block.get("type") not in CLICKABLE:
        return []
    elements: list[Json] = list(block.get("elements") or [])
    elements += [block[name] for name in ("accessory", "element") if isinstance(block.get(name), dict)]
    for element in list(elements):
        if element.get("type") == "feedback_buttons":
            elements += [
                {**element, **element[name], "type": "feedback_buttons"}
                for name in ("positive_button", "negative_button")
                if name in element
            ]
    return elements


def chosen(element: Json, value: str | None) -> Json:
    """The element as it stands in a `block_actions` payload, with what was chosen."""
    keep: Json = {
        k: element[k] for k in ("type", "action_id", "block_id", "text", "value", "style", "url") if k in element
    }
    if element["type"] == "button" or value is None:
        return keep
    return keep | input_value(element, value)


def view_values(
    blocks: Sequence[Mapping[str, Any]], values: Mapping[str, str], offered: Mapping[str, Sequence[Json]] | None = None
) -> Json:
    """The `state.values` of a modal filled with `values` (by `action_id`), initial values where none is given.

    `offered`: options of external selects, by `action_id`.
    """
    state: Json = {}
    for block in blocks:
        for element in block_elements(block):
            action_id = str(element.get("action_id") or "")
            if offered and action_id in offered:
                element = {**element, "options": list(offered[action_id])}
            if action_id and element["type"] not in ("button", "overflow"):
                state.setdefault(block["block_id"], {})[action_id] = {
                    "type": element["type"],
                    **input_value(element, values.get(action_id)),
                }
    return state


def input_value(element: Mapping[str, Any], value: str | None) -> Json:
    """What an input of this type puts into its state."""
    kind = element["type"]
    if "select" in kind or kind in ("radio_buttons", "overflow", "checkboxes"):
        return _selection(element, kind, value)
    if kind in ("datepicker", "timepicker"):
        name = f"selected_{kind.removesuffix('picker')}"
        return {name: value if value is not None else element.get(f"initial_{kind.removesuffix('picker')}")}
    return {"value": value if value is not None else element.get("initial_value")}


def _selection(element: Mapping[str, Any], kind: str, value: str | None) -> Json:
    source = next((s for s in ("users", "conversations", "channels") if s in kind), "")
    if source:
        single = source.removesuffix("s")
        plural = {f"selected_{source}": [value] if value else []}
        return plural if kind.startswith("multi") else {f"selected_{single}": value or element.get(f"initial_{single}")}
    groups = element.get("option_groups") or []
    options = [*(element.get("options") or []), *(o for group in groups for o in group["options"])]
    picked = [o for o in options if o.get("value") in (value or "").split(",")] if value is not None else None
    if kind.startswith("multi") or kind == "checkboxes":
        return {"selected_options": picked if picked is not None else element.get("initial_options", [])}
    return {"selected_option": picked[0] if picked else element.get("initial_option") if value is None else None}
