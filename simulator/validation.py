"""Whether Slack would accept a message or a view: limits, block structure, error strings. Pure.

The core is slack_sdk's block models (`Block.parse(…).validate_json()`), which follow the published Block Kit reference.
Added here: what they do not look at (elements) and what belongs to a message as a whole. The limits on Markdown (12,000
characters over all `markdown` blocks, 13,200 of text over all blocks, 50 items after headings and rules are expanded)
were measured against live Slack by the authors of slack-markdown-parser in June 2026.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block

from simulator.elements import check_element, check_text
from simulator.errors import SlackError
from simulator.text import block_text

Json = dict[str, Any]
MAX_BLOCKS = 50
MAX_VIEW_BLOCKS = 100
MAX_MARKDOWN = 12_000
MAX_BLOCK_TEXT = 13_200
MAX_ITEMS = 50
MAX_TEXT = 40_000
MAX_UPDATE_TEXT = 4_000
MAX_ATTACHMENTS = 100
MAX_VIEW_BYTES = 250_000
MAX_TASKS = 50

# The SDK logs a warning for each block it does not know; the answer says so already.
logging.getLogger("slack_sdk.models.blocks.blocks").addFilter(lambda record: "Unknown block" not in record.msg)

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_HEADING_OR_RULE = re.compile(r"^ {0,3}(?:#{1,6}(?:\s|$)|(?:-\s*){3,}$|(?:\*\s*){3,}$|(?:_\s*){3,}$)", re.MULTILINE)
_DASHES = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")


def check_content(content: Mapping[str, Any]) -> None:
    """Checks the blocks and attachments of a message; SlackError as Slack would word it."""
    blocks = content.get("blocks")
    if blocks is not None:
        check_blocks(blocks)
    attachments = content.get("attachments")
    if attachments and len(attachments) > MAX_ATTACHMENTS:
        raise SlackError("too_many_attachments")


def check_blocks(blocks: Any) -> None:
    """SlackError: invalid_blocks_format, invalid_blocks, msg_too_long, msg_blocks_too_long, invalid_attachments."""
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise SlackError("invalid_blocks_format")
    if len(blocks) > MAX_BLOCKS:
        raise SlackError("invalid_blocks", f"[ERROR] no more than {MAX_BLOCKS} items allowed [json-pointer:/blocks]")
    _check_sizes(blocks)
    problems = [problem for index, block in enumerate(blocks) for problem in check_block(block, f"/blocks/{index}")]
    problems += _duplicate_ids(blocks)
    if problems:
        raise SlackError("invalid_blocks", *(f"[ERROR] {problem}" for problem in problems))
    if tables(blocks) > 1:
        raise SlackError("invalid_attachments", "[ERROR] only_one_table_allowed")
    if expanded_items(blocks) > MAX_ITEMS:
        raise SlackError(
            "invalid_blocks", f"[ERROR] no more than {MAX_ITEMS} items after expansion [json-pointer:/blocks]"
        )


def _check_sizes(blocks: list[Json]) -> None:
    markdown = sum(len(block.get("text") or "") for block in blocks if block.get("type") == "markdown")
    if markdown > MAX_MARKDOWN:
        raise SlackError("msg_too_long")
    if sum(len(block_text(block, {})) for block in blocks) > MAX_BLOCK_TEXT:
        raise SlackError("msg_blocks_too_long")


def expanded_items(blocks: list[Json]) -> int:
    """Blocks as Slack counts them once Markdown is translated: each heading and rule becomes an item of its own."""
    return len(blocks) + sum(
        len(_HEADING_OR_RULE.findall(_FENCE.sub("", str(block.get("text", "")))))
        for block in blocks
        if block.get("type") == "markdown"
    )


def tables(blocks: list[Json]) -> int:
    """Table blocks, and the tables in Markdown: a line with cells, one of dashes, and all up to a blank line."""
    count = 0
    for block in blocks:
        count += block.get("type") == "table"
        before, inside = "", False
        for line in _FENCE.sub("", str(block.get("text", ""))).split("\n") if block.get("type") == "markdown" else ():
            begins = not inside and "|" in before and "|" in line and _DASHES.fullmatch(line) is not None
            inside = begins or (inside and bool(line.strip()))
            count += begins
            before = line
    return count


def check_block(block: Json, path: str) -> Iterator[str]:
    """Sentences about one block; none means valid."""
    try:
        parsed = Block.parse(block)
        if parsed is None:
            yield f"unsupported type: {block.get('type', 'none')} [json-pointer:{path}/type]"
            return
        parsed.validate_json()
    except SlackObjectFormationError as error:
        yield f"{error} [json-pointer:{path}]"
        return
    except (TypeError, AttributeError, KeyError, ValueError):
        yield f"failed to match all allowed schemas [json-pointer:{path}]"
        return
    check = _CHECKS.get(block["type"])
    if check:
        yield from check(block, path)


def _section(block: Json, path: str) -> Iterator[str]:
    if "text" in block:
        yield from check_text(block["text"], 3000, f"{path}/text")
    for index, field in enumerate(block.get("fields") or []):
        yield from check_text(field, 2000, f"{path}/fields/{index}")
    if "accessory" in block:
        yield from check_element(block["accessory"], f"{path}/accessory")


def _header(block: Json, path: str) -> Iterator[str]:
    yield from check_text(block.get("text"), 150, f"{path}/text", only_plain=True)


def _elements(block: Json, path: str) -> Iterator[str]:
    elements = block.get("elements")
    if not isinstance(elements, list) or not elements:
        yield f"no items provided [json-pointer:{path}/elements]"
        return
    for index, element in enumerate(elements):
        yield from check_element(element, f"{path}/elements/{index}")
    ids = [element["action_id"] for element in elements if isinstance(element, dict) and element.get("action_id")]
    if len(ids) != len(set(ids)):
        yield f"`action_id` must be unique within a block [json-pointer:{path}/elements]"


def _context(block: Json, path: str) -> Iterator[str]:
    yield from _elements(block, path)
    for index, element in enumerate(block.get("elements") or []):
        if isinstance(element, dict) and element.get("type") not in ("image", "mrkdwn", "plain_text"):
            yield f"unsupported type: {element.get('type')} [json-pointer:{path}/elements/{index}/type]"


def _actions(block: Json, path: str) -> Iterator[str]:
    yield from _elements(block, path)
    for index, element in enumerate(block.get("elements") or []):
        if isinstance(element, dict) and element.get("type") in ("image", "mrkdwn", "plain_text"):
            yield f"unsupported type: {element.get('type')} [json-pointer:{path}/elements/{index}/type]"


def _input(block: Json, path: str) -> Iterator[str]:
    yield from check_text(block.get("label"), 2000, f"{path}/label", only_plain=True)
    yield from check_element(block.get("element"), f"{path}/element")


def _image(block: Json, path: str) -> Iterator[str]:
    if not block.get("alt_text"):
        yield f"missing required field: alt_text [json-pointer:{path}]"
    if not block.get("image_url") and not block.get("slack_file"):
        yield f"missing required field: image_url [json-pointer:{path}]"


def _markdown(block: Json, path: str) -> Iterator[str]:
    if not isinstance(block.get("text"), str) or not block["text"]:
        yield f"must be more than 0 characters [json-pointer:{path}/text]"


def _table(block: Json, path: str) -> Iterator[str]:
    rows = block.get("rows")
    if not isinstance(rows, list) or not rows:
        yield f"no items provided [json-pointer:{path}/rows]"
        return
    if len(rows) > 100:
        yield f"no more than 100 items allowed [json-pointer:{path}/rows]"
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) > 20:
            yield f"no more than 20 cells allowed [json-pointer:{path}/rows/{index}]"


def _plan(block: Json, path: str) -> Iterator[str]:
    tasks = block.get("tasks") or []
    if len(tasks) > MAX_TASKS:
        yield f"no more than {MAX_TASKS} items allowed [json-pointer:{path}/tasks]"
    ids = [task.get("task_id") for task in tasks if isinstance(task, dict)]
    if len(ids) != len(set(ids)):
        yield f"`task_id` must be unique [json-pointer:{path}/tasks]"


_CHECKS = {
    "section": _section,
    "header": _header,
    "actions": _actions,
    "context": _context,
    "context_actions": _elements,
    "input": _input,
    "image": _image,
    "markdown": _markdown,
    "table": _table,
    "plan": _plan,
}


def _duplicate_ids(blocks: list[Json]) -> list[str]:
    ids = [block["block_id"] for block in blocks if block.get("block_id")]
    return ["`block_id` must be unique [json-pointer:/blocks]"] if len(ids) != len(set(ids)) else []


def check_view(view: Any, kind: str) -> None:
    """Checks a modal or home view; SlackError: invalid_arguments, view_too_large."""
    if not isinstance(view, dict) or view.get("type") != kind:
        raise SlackError("invalid_arguments", f"[ERROR] must be a view of type {kind} [json-pointer:/view/type]")
    if len(json.dumps(view).encode()) > MAX_VIEW_BYTES:
        raise SlackError("view_too_large")
    problems = list(_view_problems(view, kind))
    if problems:
        raise SlackError("invalid_arguments", *(f"[ERROR] {problem}" for problem in problems))


def _view_problems(view: Json, kind: str) -> Iterator[str]:
    blocks = view.get("blocks")
    if not isinstance(blocks, list):
        yield "missing required field: blocks [json-pointer:/view]"
        return
    if len(blocks) > MAX_VIEW_BLOCKS:
        yield f"no more than {MAX_VIEW_BLOCKS} items allowed [json-pointer:/view/blocks]"
    if kind == "modal":
        yield from check_text(view.get("title"), 24, "/view/title", only_plain=True)
        for name in ("submit", "close"):
            if view.get(name):
                yield from check_text(view[name], 24, f"/view/{name}", only_plain=True)
        if any(block.get("type") == "input" for block in blocks) and not view.get("submit"):
            yield "`submit` is required when an `input` block is within the `blocks` array [json-pointer:/view]"
    for name, limit in (("callback_id", 255), ("private_metadata", 3000)):
        if len(view.get(name) or "") > limit:
            yield f"must be less than {limit + 1} characters [json-pointer:/view/{name}]"
    for index, block in enumerate(blocks):
        yield from check_block(block, f"/view/blocks/{index}")
    yield from _duplicate_ids(blocks)
