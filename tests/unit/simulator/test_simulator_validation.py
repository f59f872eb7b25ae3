from typing import Any

import pytest

from simulator.errors import SlackError
from simulator.validation import check_blocks, check_content, check_view, expanded_items


def plain(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def actions(**button: Any) -> dict[str, Any]:
    return {"type": "actions", "elements": [{"type": "button", "text": plain("Go"), "action_id": "go"} | button]}


def markdown(text: str) -> dict[str, Any]:
    return {"type": "markdown", "text": text}


@pytest.mark.parametrize(
    "blocks",
    [
        [section("x" * 3000)],
        [markdown("x" * 12_000)],
        [actions(text=plain("x" * 75), value="x" * 2000, style="primary")],
        [{"type": "divider"}] * 50,
        [{"type": "header", "text": plain("x" * 150)}],
        [{"type": "context", "elements": [plain("x")] * 10}],
        [{"type": "table", "rows": [[{"type": "raw_text", "text": "a"}]]}],
        [{"type": "plan", "title": "P", "tasks": [{"type": "task_card", "task_id": "1", "title": "t"}]}],
        [markdown("\n".join(["# h"] * 49))],
        [markdown("```\n" + "# not a heading\n" * 60 + "```")],
        [markdown("| a | b |\n|---|---|\n" + "|---|---|\n" * 9 + "\n| no | table |\n\n```\n|a|\n|-|\n```")],
    ],
)
def test_what_slack_takes_is_taken(blocks: list[dict[str, Any]]) -> None:
    check_blocks(blocks)


@pytest.mark.parametrize(
    ("blocks", "error"),
    [
        ("text", "invalid_blocks_format"),
        ([section("x" * 3001)], "invalid_blocks"),
        ([section("")], "invalid_blocks"),
        ([markdown("x" * 12_001)], "msg_too_long"),
        ([markdown("x" * 6_001), markdown("x" * 6_000)], "msg_too_long"),
        ([markdown("x" * 12_000), section("x" * 1_201)], "msg_blocks_too_long"),
        ([{"type": "divider"}] * 51, "invalid_blocks"),
        ([markdown("\n".join(["# h"] * 50))], "invalid_blocks"),
        ([actions(text=plain("x" * 76))], "invalid_blocks"),
        ([actions(text={"type": "mrkdwn", "text": "x"})], "invalid_blocks"),
        ([actions(value="x" * 2001)], "invalid_blocks"),
        ([actions(action_id="x" * 256)], "invalid_blocks"),
        ([actions(style="purple")], "invalid_blocks"),
        ([actions(url="https://e.org/" + "x" * 3000)], "invalid_blocks"),
        ([actions(confirm={"title": plain("x" * 101)})], "invalid_blocks"),
        ([{"type": "actions", "elements": []}], "invalid_blocks"),
        ([{"type": "actions", "elements": [{"type": "button", "text": plain("a")}] * 26}], "invalid_blocks"),
        ([{"type": "actions", "elements": [actions()["elements"][0]] * 2}], "invalid_blocks"),
        ([{"type": "context", "elements": [plain("x")] * 11}], "invalid_blocks"),
        ([{"type": "header", "text": plain("x" * 151)}], "invalid_blocks"),
        ([{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}], "invalid_blocks"),
        ([{"type": "hologram"}], "invalid_blocks"),
        ([{"type": "table", "rows": [[{"type": "raw_text", "text": "a"}]]}] * 2, "invalid_attachments"),
        ([markdown("|a|\n|-|\n|1|\n\nwords\n\na | b\n--|:-:\n")], "invalid_attachments"),
        ([{"type": "table", "rows": [[{"type": "raw_text", "text": "a"}]] * 101}], "invalid_blocks"),
        ([{"type": "divider", "block_id": "same"}] * 2, "invalid_blocks"),
        (
            [{"type": "plan", "title": "P", "tasks": [{"type": "task_card", "task_id": "1", "title": "t"}] * 2}],
            "invalid_blocks",
        ),
    ],
)
def test_what_slack_refuses_is_refused_in_its_words(blocks: Any, error: str) -> None:
    with pytest.raises(SlackError) as caught:
        check_blocks(blocks)
    assert caught.value.error == error


def test_the_answer_points_at_the_element() -> None:
    with pytest.raises(SlackError) as caught:
        check_blocks([section("fine"), actions(text=plain("x" * 76))])
    assert caught.value.body()["response_metadata"]["messages"] == [
        "[ERROR] must be less than 76 characters [json-pointer:/blocks/1/elements/0/text/text]"
    ]


def test_headings_and_rules_count_as_items_outside_code_only() -> None:
    assert expanded_items([markdown("# a\n\n---\ntext\n***\n```\n# code\n---\n```\n## b")]) == 1 + 4
    assert expanded_items([section("# a")]) == 1


def test_too_many_attachments() -> None:
    with pytest.raises(SlackError, match="too_many_attachments"):
        check_content({"attachments": [{"text": "x"}] * 101})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"title": plain("x" * 25)}, "invalid_arguments"),
        ({"type": "home"}, "invalid_arguments"),
        ({"submit": None}, "invalid_arguments"),
        ({"blocks": [{"type": "divider"}] * 101}, "invalid_arguments"),
        ({"private_metadata": "x" * 3001}, "invalid_arguments"),
        ({"notes": "x" * 250_001}, "view_too_large"),
    ],
)
def test_views_are_checked(change: dict[str, Any], error: str) -> None:
    field = {"type": "input", "label": plain("L"), "element": {"type": "plain_text_input", "action_id": "a"}}
    view = {"type": "modal", "title": plain("T"), "submit": plain("OK"), "blocks": [field]}
    check_view(view, "modal")
    with pytest.raises(SlackError) as caught:
        check_view(view | change, "modal")
    assert caught.value.error == error
