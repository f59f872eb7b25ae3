import pytest

from simulator.text import mentions, normalise, pings, plain, rich_text, visible_text


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("a < b & c > d", "a &lt; b &amp; c &gt; d"),
        ("already &lt;escaped&gt; &amp; fine", "already &lt;escaped&gt; &amp; fine"),
        ("<@U123> and <#C9|dev> and <!here>", "<@U123> and <#C9|dev> and <!here>"),
        ("see https://example.org/a?b=1&c=2.", "see <https://example.org/a?b=1&amp;c=2>."),
        ("<https://example.org|label>", "<https://example.org|label>"),
        ("> quoted", "&gt; quoted"),
        ("<b>bold</b>", "&lt;b&gt;bold&lt;/b&gt;"),
    ],
)
def test_text_is_stored_escaped_once_with_references_kept(written: str, stored: str) -> None:
    assert normalise(written) == stored
    assert normalise(stored) == stored


def test_plain_text_resolves_references() -> None:
    names = {"U1": "maya", "C1": "general"}
    assert (
        plain("<@U1> in <#C1|x>: <https://e.org|docs> &amp; <!channel>", names) == "@maya in #general: docs & @channel"
    )


def test_mentions_are_found_but_not_inside_plain_words() -> None:
    assert mentions("<@U1> <@W2|x> @U3 &lt;@U4&gt;") == {"U1", "W2"}


def test_a_typed_message_has_a_rich_text_block_of_the_same_words() -> None:
    block = rich_text("<@U1> hi &amp; bye <https://e.org|docs>")
    elements = block["elements"][0]["elements"]
    assert [e["type"] for e in elements] == ["user", "text", "link"]
    assert elements[1]["text"] == " hi & bye "
    assert visible_text({"blocks": [block]}, {"U1": "maya"}) == "@maya hi & bye docs"


def test_visible_text_prefers_blocks_and_reads_every_kind() -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "Head"}},
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "a &lt; b"},
            "fields": [{"type": "plain_text", "text": "f"}],
        },
        {"type": "markdown", "text": "**md** <@U1>"},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "<@U1>"}, {"type": "image", "alt_text": "pic"}]},
        {"type": "divider"},
        {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "Stop"}}]},
        {"type": "plan", "title": "Plan", "tasks": [{"type": "task_card", "task_id": "1", "title": "One"}]},
    ]
    shown = visible_text({"text": "fallback", "blocks": blocks, "files": [{"name": "x.txt"}]}, {"U1": "maya"})
    assert shown.split("\n") == ["Head", "a < b", "f", "**md** <@U1>", "@maya pic", "[Stop]", "Plan", "One", "[x.txt]"]
    assert visible_text({"text": "only &amp; text"}) == "only & text"


def test_entities_in_markdown_are_decoded_outside_code_only() -> None:
    source = "a &lt;!channel> `&lt;b>`\n```\n&lt;c>\n```\n&amp;"
    shown = visible_text({"blocks": [{"type": "markdown", "text": source}]})
    assert shown == "a <!channel> `&lt;b>`\n```\n&lt;c>\n```\n&"


def test_references_that_notify_are_found_in_text_and_blocks() -> None:
    blocks = [
        {"type": "markdown", "text": "<!channel> `<@U2>` &lt;!here>"},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "<!subteam^S1|@team>"}]},
        {"type": "header", "text": {"type": "plain_text", "text": "<@U9>"}},
    ]
    assert pings({"text": "<@U1> <https://e.org> <!date^1^x|y>", "blocks": blocks}) == {
        "@U1",
        "@U2",
        "!channel",
        "!subteam^S1",
    }
