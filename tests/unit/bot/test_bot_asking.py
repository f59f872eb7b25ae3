"""What Claude asks becomes messages that Slack takes, with nothing foreign alive in them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from bot_asks import CACHE, NOW, PARTS, bash, budget, closed, make_ask, plan, question, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.answer import HOPELESS, Answer, Message
from bot.asking import ask_messages, plan_pages
from bot.parts import Part, plain, sectioned, shortened
from bot.plaintext import short
from bot.renderer import TurnView
from sessions.asks import Ask, AskId, AskKind, AskState
from sessions.events import AskClosed, AskOpened, Queued, Settled, Started
from sessions.types import Done, SessionId, TurnId
from simulator.text import pings, visible_text
from simulator.validation import check_content
from worklets.events import PreviewVoided, Text, TextDelta, ToolFinished, ToolStarted

ID = "00000000-0000-4000-8000-000000000001"


def blocks(ask: Ask) -> list[dict[str, Any]]:
    (message,) = ask_messages(ask)
    return list(message.blocks)


def says(ask: Ask) -> str:
    return "\n".join(visible_text({"blocks": list(m.blocks), "text": m.text}) for m in ask_messages(ask))


def labels(ask: Ask) -> list[str]:
    found = [e for m in ask_messages(ask) for b in m.blocks if b["type"] == "actions" for e in b["elements"]]
    return [element["text"]["text"] for element in found if element["type"] == "button"]


def button(action_id: str, text: str, value: str = ID, **more: Any) -> dict[str, Any]:
    return {
        "type": "button",
        "action_id": action_id,
        "text": {"type": "plain_text", "text": text},
        "value": value,
    } | more


def mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


# ---- golden ------------------------------------------------------------------------------------------------------


def test_a_permission() -> None:
    assert blocks(bash("touch x", "Bash(touch:*)")) == [
        {"type": "section", "text": mrkdwn("🔐 *Claude asks for permission to run a command*")},
        {"type": "context", "elements": [mrkdwn("Make it")]},
        {
            "type": "rich_text",
            "elements": [{"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "touch x"}]}],
        },
        {
            "type": "context",
            "elements": [mrkdwn("“For this session” and “always” allow `Bash(touch:*)` from then on.")],
        },
        {
            "type": "actions",
            "elements": [
                button("ask_allow_once", "Allow once", style="primary"),
                button("ask_allow_session", "Allow for this session"),
                button("ask_allow_channel", "Always for this channel"),
                button("ask_deny", "Deny", style="danger"),
                button("ask_deny_why", "Deny and say why"),
            ],
        },
    ]


def test_a_question() -> None:
    choice = [button(f"ask_choice_{n}", label, f"{ID} {n}") for n, label in enumerate(("Redis", "PostgreSQL"))]
    for each in choice:
        each["text"]["emoji"] = False
    assert blocks(question(CACHE)) == [
        {"type": "section", "text": mrkdwn("❓ *Claude asks:* Which cache?")},
        {"type": "section", "text": mrkdwn("• *Redis* – fast, one more server\n• *PostgreSQL* – ours")},
        {"type": "actions", "elements": [*choice, button("ask_own_words", "Answer in my own words")]},
    ]


def test_a_question_with_several_answers_has_check_boxes() -> None:
    said, picking, buttons = blocks(question(PARTS))
    assert said["text"]["text"] == "❓ *Claude asks:* Which parts?"
    (boxes,) = picking["elements"]
    assert (boxes["type"], [o["value"] for o in boxes["options"]]) == ("checkboxes", ["0", "1"])
    assert boxes["options"][0]["description"]["text"] == "fast, one more server"
    assert [e["action_id"] for e in buttons["elements"]] == ["ask_submit", "ask_own_words"]


def test_what_a_check_box_cannot_say_stands_above_it() -> None:
    option = {"label": "Redis", "description": "fast " * 20}
    assert "fast fast" in says(question({**PARTS, "options": [option]}))
    assert "RESP" in says(question({**PARTS, "options": [{"label": "Redis", "preview": "RESP"}]}))


def test_many_questions_with_long_previews_fit_into_one_message() -> None:
    options = [{"label": f"option {n}", "description": "d" * 200, "preview": "p" * 600} for n in range(4)]
    ask = question(*({"question": f"Which {n}?", "options": options} for n in range(4)))
    check_content({"text": "x", "blocks": blocks(ask)})
    assert labels(ask) == ["Answer"]
    assert "d" * 200 in says(ask)
    assert "p" * 600 in says(question({"question": "Which?", "options": options}))


def test_an_open_ask_keeps_its_buttons_however_simply_it_has_to_be_put() -> None:
    view = TurnView()
    view.apply(AskOpened(question(CACHE, PARTS)))
    answer = Answer(TurnId("t"), SessionId("s"), "C1", "1.0", "1.0", view=view)
    index = next(part.index for part in view.parts() if part.asks)
    answer.messages = {n: Message(n, lost=True) for n in range(index)}
    for form in range(HOPELESS):
        answer.messages[index] = Message(index, form=form)
        action = answer.next_action()
        assert action is not None
        assert action.part is not None
        assert "ask_form" in str(action.part.blocks)
        assert "Which cache?" in str(action.part.blocks)


def test_several_questions_are_answered_in_a_form() -> None:
    ask = question(CACHE, PARTS)
    assert labels(ask) == ["Answer"]
    assert all(text in says(ask) for text in ("*1.* Which cache?", "*2.* Which parts?", "Claude asks 2 questions"))


def test_a_plan() -> None:
    assert [b["type"] for b in blocks(plan("# Do it\n- now"))] == ["section", "markdown", "actions"]
    assert labels(plan("x")) == ["Approve", "Approve and auto-accept edits", "Keep planning"]
    assert "without a plan" in says(make_ask("ExitPlanMode", {}))


@pytest.mark.parametrize(
    ("more", "label"), [(5, "$5 more"), (2.5, "$2.50 more"), ("100k tokens", "100k tokens more"), (None, "Continue")]
)
def test_a_budget(more: Any, label: str) -> None:
    first, second = labels(budget(more=more))
    assert first.endswith(label)
    assert second == "Stop"
    assert "$4.80 of $5.00" in says(budget())


@pytest.mark.parametrize(
    ("ask", "shown"),
    [
        (make_ask("Write", {"file_path": "/workspace/a.py", "content": "x = 1"}), ["write `a.py`", "x = 1"]),
        (
            make_ask("Edit", {"file_path": "/workspace/a.py", "old_string": "a\nb\nc", "new_string": "a\nB\nc"}),
            ["change `a.py`", " a\n-b\n+B\n c"],
        ),
        (
            make_ask("MultiEdit", {"file_path": "b", "edits": [{"old_string": "1", "new_string": "2"}] * 2}),
            ["-1\n+2\n-1\n+2"],
        ),
        (make_ask("mcp__github__merge", {"number": 7}), ["use `github: merge`", '"number": 7']),
        (make_ask("Write", {"file_path": "/srv/worklets/s1b4/work/workspace/a.py", "content": ""}), ["write `a.py`"]),
        (make_ask("WebFetch", {"url": "https://x.example"}), ["use `WebFetch`", "https://x.example"]),
    ],
)
def test_what_is_to_be_allowed(ask: Ask, shown: list[str]) -> None:
    assert all(words in says(ask) for words in shown), says(ask)


def test_all_of_a_call_is_shown() -> None:
    call = {"command": "make", "description": "d" * 2_000, "dangerouslyDisableSandbox": True}
    assert "dangerouslyDisableSandbox: true" in says(make_ask("Bash", call))
    assert '"env": "aaa' in says(make_ask("Bash", {"command": "make", "env": "a" * 1_000}))
    edits = [{"old_string": "1", "new_string": "2"}, {"old_string": "3", "new_string": "4", "replace_all": True}]
    assert '"replace_all": true' in says(make_ask("MultiEdit", {"file_path": "b", "edits": edits}))
    path = "/etc/" + "x/" * 300 + "passwd"
    assert "x/passwd`" in says(make_ask("Write", {"file_path": path, "content": ""}))


def test_what_cannot_be_seen_is_spelled_out() -> None:
    ask = bash("rm \u202e\u200bx\U000e0041", "Bash(a\u2066b)")
    assert "rm \\u202e\\u200bx\\U000e0041" in says(ask)
    assert "`Bash(a\\u2066b)`" in says(ask)
    edit = {"file_path": "a\u202eb", "old_string": "1", "new_string": "2\u20283"}
    assert "+2\\u20283" in says(make_ask("Edit", edit))
    assert "`a\\u202eb`" in says(make_ask("Edit", edit))
    assert "clear \U0001f600 ünïcode" in says(bash("clear \U0001f600 ünïcode"))


def test_without_a_rule_there_is_nothing_to_allow_for_longer() -> None:
    assert labels(bash()) == ["Allow once", "Deny", "Deny and say why"]


def test_a_long_command_is_cut_at_a_line_and_can_be_shown() -> None:
    ask = bash("".join(f"echo line {n}\n" for n in range(2_000)))
    assert labels(ask)[-1] == "Show all"
    (code,) = [b for b in blocks(ask) if b["type"] == "rich_text"]
    text = code["elements"][0]["elements"][0]["text"]
    assert text.endswith("\n")
    assert 9_000 < len(text) <= 10_000
    assert f"{len(ask.input['command']) - len(text):,} more characters" in says(ask)


def test_until_when() -> None:
    ask = make_ask("Bash", {"command": "x"})
    assert "Open until" in says(replace(ask, expires_at=NOW + timedelta(hours=1)))
    reach = make_ask("egress", {"host": "a.test", "port": 443}, kind=AskKind.EGRESS)
    told = says(replace(reach, expires_at=NOW + timedelta(hours=24)))
    assert "Open until" not in told
    assert "waits only a short while; a later answer counts for Claude's next try" in told


# ---- how it ended ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (settle(bash()), "✓ @U1 allowed it once."),
        (settle(bash("x", "Bash(x)"), scope="session"), "✓ @U1 allowed it for this session: `Bash(x)`."),
        (settle(bash("x", "Bash(x)"), scope="channel"), "✓ @U1 allowed it for this channel from now on: `Bash(x)`."),
        (settle(bash(), "deny"), "✗ @U1 denied it."),
        (settle(bash(), "deny", message="not on\nFriday"), "✗ @U1 denied it: not on Friday"),
        (settle(question(CACHE), answers={"Which cache?": "Redis"}), "✓ @U1 answered: Redis"),
        (
            settle(question(CACHE, PARTS), answers={"Which cache?": "Redis", "Which parts?": "a, b"}),
            "✓ @U1 answered:\n• Which cache? Redis\n• Which parts? a, b",
        ),
        (settle(plan("x")), "✓ @U1 approved the plan."),
        (settle(plan("x"), mode="acceptEdits"), "✓ @U1 approved the plan, and edits need no further yes."),
        (settle(plan("x"), "deny", message="smaller"), "↻ @U1 wants Claude to keep planning: smaller"),
        (settle(budget()), "✓ @U1 lets it continue with $5 more."),
        (settle(budget(), "deny"), "■ @U1 stopped here."),
        (closed(bash(), AskState.WITHDRAWN), "■ Withdrawn: Claude does not wait for an answer any more."),
        (closed(bash(), AskState.EXPIRED), "⌛ Expired: nobody answered in time."),
    ],
)
def test_one_line_says_how_it_ended_and_the_buttons_go(ask: Ask, line: str) -> None:
    assert says(ask).endswith(line)
    assert labels(ask) == []
    assert not any(message.open for message in ask_messages(ask))


# ---- nothing foreign is alive, and Slack takes it all ------------------------------------------------------------

EVIL = "<!channel> <@U1> <#C1> <https://evil.example|good> `code` *b* &lt; :boom: \x00\ud800 ```x"


@pytest.mark.parametrize(
    "ask",
    [
        bash(EVIL, f"Bash({EVIL})"),
        make_ask(EVIL, {EVIL: EVIL}),
        make_ask("Write", {"file_path": EVIL, "content": EVIL}),
        question({"question": EVIL, "options": [{"label": EVIL, "description": EVIL, "preview": EVIL}]}),
        plan(EVIL),
        budget(EVIL, EVIL),
        settle(bash(), "deny", by=EVIL, message=EVIL),
        settle(question(CACHE), by=EVIL, answers={EVIL: EVIL, "b": EVIL}),
    ],
)
def test_nothing_foreign_is_alive(ask: Ask) -> None:
    for message in ask_messages(ask):
        body = {"text": message.text, "blocks": list(message.blocks)}
        assert pings(body) == set(), body
        live = [text for text in texts(body["blocks"]) if "<http" in text or "<!" in text or "<@" in text]
        assert not live


def texts(value: Any) -> list[str]:
    """Every string that Slack parses: mrkdwn and Markdown."""
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    if isinstance(value, dict):
        if value.get("type") in ("mrkdwn", "markdown"):
            return [value["text"]]
        return [text for each in value.values() for text in texts(each)]
    return []


def valid(ask: Ask) -> None:
    for number, message in enumerate(ask_messages(ask)):
        part = Part(number, message.blocks, message.text, False)
        for form in (part, sectioned(part), shortened(plain(part))):
            check_content({"text": form.text, "blocks": list(form.blocks)})
            json.dumps(form.blocks).encode()
        assert message.text.strip()
        assert len(message.text) <= 3_000


_TEXT = st.one_of(
    st.text(max_size=60),
    st.sampled_from([EVIL, "", " ", "\n", "a" * 300]),
    st.sampled_from(["x\n", "<", "😀", "# h\n"]),
)
_LONG = st.builds(lambda text, times: text * times, _TEXT, st.sampled_from([1, 1, 1, 50, 2_000]))
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_OPTION = st.fixed_dictionaries({}, optional={"label": _LONG, "description": _LONG, "preview": _LONG}) | _JSON
_QUESTION = st.fixed_dictionaries(
    {}, optional={"question": _LONG, "options": st.lists(_OPTION, max_size=12), "multiSelect": st.booleans()}
)
_INPUT = st.one_of(
    st.fixed_dictionaries({}, optional={"command": _LONG, "description": _LONG, "plan": _LONG, "text": _LONG}),
    st.fixed_dictionaries({"questions": st.lists(_QUESTION | _JSON, max_size=6)}),
    st.fixed_dictionaries(
        {}, optional={"file_path": _LONG, "content": _LONG, "old_string": _LONG, "new_string": _LONG, "more": _JSON}
    ),
    st.dictionaries(_TEXT, _JSON, max_size=3),
)
_TOOL = st.sampled_from(
    ["Bash", "Write", "Edit", "MultiEdit", "AskUserQuestion", "ExitPlanMode", "mcp__a__b", EVIL, ""]
)


_ENDED = st.builds(
    partial(settle, bash()),
    st.sampled_from(["allow", "deny"]),
    _TEXT,
    scope=st.sampled_from(["once", "session", "channel"]),
    message=_LONG,
    answers=st.dictionaries(_LONG, _LONG, max_size=6),
)


@settings(max_examples=60, deadline=None)
@given(_TOOL, _INPUT, st.sampled_from(AskKind), st.lists(_LONG, max_size=5), _ENDED)
def test_any_ask_is_a_message_that_slack_takes(
    tool: str, given_input: dict[str, Any], kind: AskKind, rules: list[str], ended: Ask
) -> None:
    ask = make_ask(tool, given_input, *rules, kind=kind)
    valid(ask)
    done = replace(ask, state=ended.state, decided_by=ended.decided_by, decision=ended.decision)
    valid(done)
    assert len(ask_messages(done)) == len(ask_messages(ask))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["word ", "# head\n", "```py\n", "```\n", "- item\n", "\n", "|a|b|\n", "😀" * 40])))
def test_a_plan_says_each_word_once(pieces: list[str]) -> None:
    text = "".join(pieces) * 60
    pages, rest = plan_pages(text)
    shown = "".join(pages).count("word")
    assert shown == text.count("word") or rest
    assert shown <= text.count("word")


def test_a_label_that_is_too_long_keeps_its_beginning() -> None:
    assert short("a" * 80, 75) == "a" * 74 + "…"
    assert len(short("😀" * 60, 75).encode("utf-16-le")) // 2 <= 75
    assert short(" \n", 75) == "…"


# ---- in the answer -----------------------------------------------------------------------------------------------


def view(*events: Any) -> TurnView:
    made = TurnView()
    for event in events:
        made.apply(event)
    return made


def shown(made: TurnView) -> list[str]:
    return [visible_text({"blocks": list(part.blocks), "text": part.text}) for part in made.parts()]


TOOL = ToolStarted("toolu_1", "Bash", {"command": "touch x"})


def test_an_ask_is_a_message_of_its_own_and_what_follows_is_another() -> None:
    made = view(Started(), Text("Let me see."), TOOL, AskOpened(bash()))
    first, second = made.parts()
    assert "Let me see." in visible_text({"blocks": list(first.blocks)})
    assert second.text == "🔐 Claude asks for permission to run a command\nMake it\ntouch x"
    assert shown(made)[1].endswith("Deny and say why]\n⏳ Waiting for you…")
    assert made.ask_news == {1}
    assert not second.final
    made.apply(AskClosed(settle(bash())))
    assert shown(made)[1].endswith("✓ @U1 allowed it once.\n⏳ Thinking…")
    made.apply(ToolFinished("toolu_1", True, "", {}))
    made.apply(TextDelta("Done"))
    assert [part.index for part in made.parts()] == [0, 1, 2]
    assert shown(made)[1].endswith("allowed it once.")
    assert shown(made)[2] == "Done\n⏳ Writing…"
    made.apply(Text("Done"))
    assert [part.final for part in made.parts()] == [True, True, False]


def test_an_ask_before_any_word_comes_below_the_message_that_is_there() -> None:
    made = view(Started(), AskOpened(bash()))
    assert [part.index for part in made.parts()] == [0, 1]
    assert "Claude asks before it goes on" in shown(made)[0]


def test_two_asks_are_two_messages() -> None:
    made = view(Started(), TOOL, AskOpened(bash()), AskOpened(bash("rm x", number=2)))
    assert made.ask_news == {1, 2}
    made.apply(AskClosed(settle(bash())))
    assert made.asking
    assert "allowed it once" in shown(made)[1]
    assert "Waiting for you" in shown(made)[2]


def test_an_ask_that_nobody_closed_is_withdrawn_with_the_turn() -> None:
    made = view(Started(), TOOL, AskOpened(bash()), Settled(Done(), 1.0))
    assert "Withdrawn" in shown(made)[-1]
    assert "[" not in shown(made)[-1]
    assert all(part.final for part in made.parts())


def test_an_ask_in_the_middle_of_a_text_is_shown_as_after_a_restart() -> None:
    live = view(Started(), Text("One."), TextDelta("Two "), AskOpened(bash()), TextDelta("three."))
    assert [text.split("\n")[0] for text in shown(live)] == [
        "One.", "🔐 *Claude asks for permission to run a command*", "Two three.",
    ]  # fmt: skip
    live.apply(Text("Two three."))
    again = view(Started(), Text("One."), AskOpened(bash()), Text("Two three."))
    assert live.parts() == again.parts()
    void = view(Started(), Text("One."), TextDelta("Two"), AskOpened(bash()), PreviewVoided())
    assert len(void.parts()) == 2


def test_an_ask_that_is_told_twice_is_shown_once() -> None:
    assert len(view(Started(), TOOL, AskOpened(bash()), AskOpened(bash())).parts()) == 2
    closed_only = view(Started(), TOOL, AskClosed(settle(bash())))
    assert "allowed it once" in shown(closed_only)[1]


def test_who_waits_behind_an_ask_reads_so() -> None:
    made = view(Queued(1))
    assert made.block(True)
    assert "Claude has asked something above" in shown(made)[0]
    assert made.block(False)
    assert "I will start when the current answer is done" in shown(made)[0]
    assert not view(Started()).block(True)


LONG_PLAN = replace(plan("# p\n" + "step\n" * 4_000), id=AskId("p"))
_EVENT = st.sampled_from(
    [
        TextDelta("some words "), TextDelta("word " * 3_000), PreviewVoided(), Text("said. "), Text("much. " * 3_000),
        TOOL, ToolFinished("toolu_1", True, "", {}),
        AskOpened(bash()), AskClosed(settle(bash())), AskOpened(LONG_PLAN),
        AskOpened(bash("rm", number=2)), AskClosed(closed(bash("rm", number=2), AskState.EXPIRED)),
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(_EVENT, max_size=12))
def test_numbers_go_up_and_finished_messages_stay(events: list[Any]) -> None:
    made = view(Started())
    finished: dict[int, Part] = {}
    for event in events:
        made.apply(event)
        parts = made.parts()
        assert [part.index for part in parts] == list(range(len(parts)))
        for number, part in finished.items():
            assert parts[number] == part
        finished = {part.index: part for part in parts if part.final}
    made.apply(Settled(Done(), 1.0))
    assert all(part.final for part in made.parts())
