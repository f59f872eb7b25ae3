"""What Claude does beside its words: golden lines at each level, the checklist, and that all keeps within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.checklist import ROOM, Checklist
from bot.markdown import size
from bot.parts import Part, plain, sectioned, shortened
from bot.renderer import TurnView
from bot.tooloutput import code_block, lines_of, room
from sessions.events import Queued, Settled, Started
from sessions.options import Level
from sessions.types import Cut, Done, Failed, Interrupted, TurnId
from simulator.text import visible_text
from simulator.validation import check_content
from worklets.events import Restarted, Text, TextDelta, Thinking, ToolFinished, ToolStarted
from worklets.wire import Decoder

RECORDED = Path(__file__).parents[1] / "worklets" / "recorded"


def view(*events: Any, level: Level = Level.NORMAL, **more: Any) -> TurnView:
    made = TurnView(TurnId("t1"), level=level, **more)
    for event in events:
        made.apply(event)
    return made


def words(part: Part) -> str:
    return visible_text({"blocks": list(part.blocks), "text": part.text})


def lines(*events: Any, level: Level = Level.NORMAL) -> list[str]:
    """All lines of the only message but for its status and the buttons' labels."""
    (part,) = view(*events, level=level).parts()
    valid([part])
    blocks = [block for block in part.blocks if block["type"] != "actions"]
    return words(Part(0, tuple(blocks), part.text, part.final)).splitlines()


def recorded(case: str) -> list[Any]:
    """What the CLI said in this recording, as events."""
    decoder = Decoder()
    text = (RECORDED / f"{case}.jsonl").read_text(encoding="utf-8")
    return [event for line in text.splitlines() for event in decoder.feed(line)]


def valid(parts: list[Part]) -> None:
    for part in parts:
        for form in (part, sectioned(part), shortened(plain(part))):
            check_content({"text": form.text, "blocks": list(form.blocks)})


def bash(output: str, *, code: int = 0, level: Level = Level.NORMAL, command: str = "make") -> list[str]:
    started = ToolStarted("1", "Bash", {"command": command})
    return lines(started, ToolFinished("1", code == 0, output, {"exit_code": code}), level=level)[:-1]


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        ("", 0, ["✓ Bash `make`"]),
        ("(Bash completed with no output)", 0, ["✓ Bash `make`"]),
        ("one\ntwo", 0, ["✓ Bash `make`", "```", "one", "two", "```"]),
        ("1\n2\n3\n4", 0, ["✓ Bash `make`"]),  # it went well, and what it printed is long
        ("Exit code 2\na\nb\nc\nd\n\n", 2, ["✗ Bash `make` – exit 2", "```", "…", "b", "c", "d", "```"]),
        ("Exit code 2", 2, ["✗ Bash `make` – exit 2"]),
        ("\x1b[31mred\x1b[0m\r10%\r100%", 0, ["✓ Bash `make`", "```", "100%", "```"]),
    ],
)
def test_what_a_command_printed(output: str, code: int, said: list[str]) -> None:
    assert bash(output, code=code) == said


def test_verbose_shows_more_of_it() -> None:
    output = "\n".join(map(str, range(1, 31)))
    assert bash(output, level=Level.VERBOSE) == ["✓ Bash `make`", "```", "…", *map(str, range(16, 31)), "```"]


def test_a_command_that_ends_without_a_status() -> None:
    started = ToolStarted("1", "Bash", {"command": "sleep 9"})
    assert lines(started, ToolFinished("1", False, "Command timed out"))[:-1] == [
        "✗ Bash `sleep 9` – failed", "```", "Command timed out", "```",
    ]  # fmt: skip
    assert lines(started, ToolFinished("1", False, "", {"interrupted": True}))[:-1] == ["✗ Bash `sleep 9` – failed"]


def test_nothing_that_is_printed_is_live_or_leaves_its_block() -> None:
    bad = "<!channel> <@U1>\n```\n*bold* `x` :tada: https://e.org"
    (part,) = view(ToolStarted("1", "Bash", {"command": "x"}), ToolFinished("1", True, bad)).parts()
    valid([part])
    text = str(part.blocks[0]["elements"][0]["text"])
    assert "<" not in text
    assert text.count("```") == 2
    assert text.endswith("https://e.org\n```")


def test_searches_edits_and_reading_as_the_cli_tells_them() -> None:
    assert lines(*recorded("searches"))[:6] == [
        "✓ Write `a.py` – +1 −0",
        "✓ Edit `a.py` – +2 −1",
        "✓ Search `t` – 1 file",
        "✓ Search `t` – 2 lines",
        "✓ Search `t` – 2 matches",
        "✓ Find `*.zzz` – 0 files",
    ]


def test_the_web_and_other_tools() -> None:
    assert lines(
        ToolStarted("1", "WebFetch", {"url": "https://e.org"}),
        ToolFinished("1", True, "page", {"status": 200}),
        ToolStarted("2", "WebSearch", {"query": "snow"}),
        ToolFinished("2", True, "…", {"hits": 1_234, "unit": "result"}),
        ToolStarted("3", "mcp__git__push", {"remote": "origin"}),
        ToolFinished("3", False, "<tool_use_error>Error: no `remote`</tool_use_error>"),
        ToolStarted("4", "Grep", {"pattern": "x"}),
        ToolFinished("4", True, "", {"hits": True, "unit": ["odd"]}),
        ToolStarted("5", "mcp__flow__open_preview", {"port": 3000, "title": "Shop", "command": "make serve"}),
        ToolFinished("5", True, "offered"),
    )[:-1] == [
        "✓ Fetch `https://e.org` – status 200",
        "✓ Web search `snow` – 1,234 results",
        "✗ git: push `origin` – `no 'remote'`",
        "✓ Search `x`",
        "✓ Offer a preview `Shop`",
    ]


def test_a_changed_file_has_a_button() -> None:
    events = recorded("searches")
    (part,) = view(*events).parts()
    row = part.blocks[1]["elements"]
    edited = [event.tool_id for event in events if isinstance(event, ToolFinished)][:2]
    assert [(b["text"]["text"], b["value"]) for b in row] == [
        ("Diff a.py", f"t1 {edited[0]}"),
        ("Diff a.py", f"t1 {edited[1]}"),
    ]
    assert [b["action_id"] for b in row] == ["diff", "diff_1"]


def test_a_failed_edit_has_none() -> None:
    (part,) = view(ToolStarted("1", "Edit", {"file_path": "a"}), ToolFinished("1", False, "not found")).parts()
    assert "Diff" not in str(part.blocks)
    assert "✗ Edit `a` – `not found`" in words(part)


def agent_events() -> list[Any]:
    return [
        ToolStarted("a", "Agent", {"description": "Look around"}),
        ToolStarted("1", "Bash", {"command": "ls"}, parent="a"),
        ToolFinished("1", True, "x", parent="a"),
        ToolStarted("b", "Agent", {"description": "Deeper"}, parent="a"),
        ToolStarted("2", "Read", {"file_path": "/workspace/x"}, parent="b"),
    ]


def test_a_sub_agent_tells_how_far_it_is() -> None:
    events = agent_events()
    assert lines(*events)[:-1] == ["▸ Agent `Look around` – 3 tools, last: Read `x`"]
    assert lines(*events, ToolFinished("a", True, "report", {"tools": 4, "seconds": 12.4}))[:-1] == [
        "✓ Agent `Look around` – 4 tools, 12 s"
    ]
    assert lines(*events, ToolFinished("a", True, "report"))[:-1] == ["✓ Agent `Look around` – 3 tools"]
    assert lines(*events, ToolFinished("a", False, "it broke"))[:-1] == ["✗ Agent `Look around` – `it broke`"]
    assert lines(*events, Settled(Interrupted()))[:-1] == ["■ Agent `Look around` – not finished"]
    assert lines(*events, level=Level.VERBOSE)[:4] == [
        "▸ Agent `Look around` – 3 tools, last: Read `x`",
        "\u2003\u2003✓ Bash `ls`",
        "\u2003\u2003▸ Agent `Deeper`",
        "\u2003\u2003▸ Read `x`",
    ]


def test_a_sub_agent_as_the_cli_tells_of_it() -> None:
    assert lines(*recorded("agent"))[0].startswith("✓ Agent `Look around` – 2 tools, ")


def test_quiet_shows_the_answer_only() -> None:
    events = [Thinking("hm"), ToolStarted("1", "Bash", {"command": "ls"})]
    assert lines(*events, level=Level.QUIET) == ["⏳ Working: Bash `ls`"]
    events += [ToolFinished("1", False, "boom", {"exit_code": 1}), Text("Hi."), *agent_events()]
    assert lines(*events, level=Level.QUIET) == ["Hi.", "⏳ Working: Read `x`"]
    restarted = Restarted("Claude's process was lost.")
    assert lines(*events, restarted, level=Level.QUIET)[1] == "↻ Claude's process was lost."


def test_verbose_shows_what_claude_thinks() -> None:
    events = [Thinking(), Thinking("First this,\nthen <!that>. " + "x" * 400), Text("Hi.")]
    shown = lines(*events, level=Level.VERBOSE)[0]
    assert shown.startswith("💭 `First this, then <!that>. xxx")
    assert len(shown) < 320
    assert lines(*events)[0] == "Hi."


CHECKLIST = [
    ToolStarted("1", "TaskCreate", {"subject": "First", "activeForm": "Doing the first"}),
    ToolFinished("1", True, "", {"task": {"id": "1", "subject": "First"}}),
    ToolStarted("2", "TaskCreate", {"subject": "Second *bold* <!here>"}),
    ToolFinished("2", True, "", {"task": {"id": "2", "subject": "Second *bold* <!here>"}}),
    ToolStarted("3", "TaskUpdate", {"taskId": "1", "status": "in_progress"}),
    ToolFinished("3", True, "", {"task": {"id": "1", "status": "in_progress"}}),
]


def test_one_checklist_below_everything() -> None:
    assert lines(*CHECKLIST, Text("So."), ToolStarted("4", "Bash", {"command": "x"})) == [
        "So.",
        "▸ Bash `x`",
        "Plan: 0 of 2 done",
        "◐ Doing the first",
        "☐ Second *bold* <!here>",
        "⏳ Working…",
    ]
    assert lines(*CHECKLIST, level=Level.QUIET) == ["⏳ Thinking…"]
    assert lines(*CHECKLIST, ToolStarted("4", "Bash", {"command": "x"}), level=Level.QUIET) == [
        "⏳ Working: Doing the first"
    ]


def test_the_checklist_moves_to_the_newest_message_and_leaves_it_never_twice() -> None:
    parts = view(*CHECKLIST, Text("words " * 5_000), Settled(Done())).parts()
    valid(parts)
    assert len(parts) > 2
    assert [("Plan:" in words(part)) for part in parts] == [False] * (len(parts) - 1) + [True]


def test_the_clis_own_list_and_todowrite() -> None:
    checklist = Checklist()
    for event in recorded("checklist"):
        if isinstance(event, ToolStarted):
            checklist.started(event)
        elif isinstance(event, ToolFinished):
            checklist.finished(event)
    assert visible_text({"blocks": checklist.blocks()}).splitlines() == ["Plan: 1 of 2 done", "☑ First", "☐ Second"]
    todos = [{"content": "A", "status": "completed"}, {"content": "B", "status": "odd"}, "no todo"]
    checklist.started(ToolStarted("w", "TodoWrite", {"todos": todos}))
    assert checklist.finished(ToolFinished("w", True))
    assert visible_text({"blocks": checklist.blocks()}).splitlines() == ["Plan: 1 of 2 done", "☑ A", "☐ B"]
    checklist.started(ToolStarted("w2", "TodoWrite", {"todos": todos}))
    assert not checklist.finished(ToolFinished("w2", True)), "nothing changed"


def test_steps_of_an_earlier_turn_and_deleted_ones() -> None:
    deleted = [ToolStarted("d", "TaskUpdate", {"taskId": "2"}), ToolFinished("d", True, "", {"task": {"id": "2", "status": "deleted"}})]  # fmt: skip # noqa: E501
    unknown = [ToolStarted("u", "TaskUpdate", {"taskId": "7"}), ToolFinished("u", True, "", {"task": {"id": "7", "status": "completed"}})]  # fmt: skip # noqa: E501
    assert lines(*CHECKLIST, *deleted, *unknown)[:-1] == ["Plan: 1 of 2 done", "◐ Doing the first", "☑ Step 7"]
    refused = [ToolStarted("r", "TaskUpdate", {"taskId": "1"}), ToolFinished("r", False, "no")]
    assert lines(*CHECKLIST, *refused) == lines(*CHECKLIST)


def test_a_list_of_an_earlier_turn_goes_on() -> None:
    known = [
        {"id": "1", "subject": "First", "status": "completed"},
        {"id": "3", "subject": "Third", "status": "pending"},
    ]
    change = {"task": {"id": "2", "subject": "Second", "status": "in_progress"}, "known": [*known, "odd"]}
    assert lines(ToolStarted("u", "TaskUpdate", {"taskId": "2"}), ToolFinished("u", True, "", change))[:-1] == [
        "Plan: 1 of 3 done",
        "☑ First",
        "◐ Second",
        "☐ Third",
    ]


def long_list(done: int, of: int) -> Checklist:
    checklist = Checklist()
    todos = [{"content": f"{'&<' * 60}{n}", "status": "completed" if n < done else "pending"} for n in range(of)]
    checklist.started(ToolStarted("w", "TodoWrite", {"todos": todos}))
    checklist.finished(ToolFinished("w", True))
    return checklist


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_long_list_keeps_within_its_room(done: int, of: int) -> None:
    checklist = long_list(done, of)
    for plan in (False, True):
        blocks = checklist.blocks(plan=plan)
        if blocks:
            check_content({"text": "x", "blocks": blocks})
            said = visible_text({"blocks": blocks})
            assert size(said) <= ROOM
            assert f"Plan: {min(done, of)} of {of} done" in said


def test_a_plan_block_has_a_card_for_each_step() -> None:
    (part,) = view(*CHECKLIST, plan=True).parts()
    valid([part])
    plan = next(block for block in part.blocks if block["type"] == "plan")
    assert [(task["title"], task["status"]) for task in plan["tasks"]] == [
        ("Doing the first", "in_progress"),
        ("Second *bold* <!here>", "pending"),
    ]


def test_who_asked_is_mentioned_once_at_the_end() -> None:
    made = view(Queued(0), Started(), Text("Hi."), mention="U1")
    assert len(made.parts()) == 1
    made.apply(Settled(Done(), 2.0))
    answer, told = made.parts()
    assert "U1" not in str(answer.blocks)
    assert (words(told), told.text, told.index, told.final) == ("@U1 That is done.", "<@U1> That is done.", 1, True)
    assert view(Settled(Failed("It broke.")), mention="U1").parts()[1].text == "<@U1> That failed: see above."
    assert len(view(Settled(Interrupted("U1")), mention="U1").parts()) == 1
    assert len(view(Text("x"), Settled(Cut("lost")), mention="U1").parts()) == 2  # the question notifies


def test_many_short_outputs_share_a_message() -> None:
    events: list[Any] = []
    for n in range(30):
        events += [ToolStarted(f"{n}", "Bash", {"command": f"run {n}"}), ToolFinished(f"{n}", True, f"out {n}")]
    assert len(view(*events).parts()) == 1, "the room that was kept for more output is free again"
    parts = view(*events, *[ToolStarted(f"r{n}", "Bash", {"command": "sleep 9"}) for n in range(60)]).parts()
    valid(parts)


ACTIVITY = st.lists(
    st.one_of(
        st.sampled_from(["para. ", "word " * 300, "```py\nx = 1\n"]).map(Text),
        st.text(max_size=900).map(Thinking),
        st.tuples(st.integers(0, 8), st.sampled_from(["Bash", "Edit", "Agent", "mcp__a__b", "TaskCreate"])).map(
            lambda t: ToolStarted(f"t{t[0]}", t[1], {"command": "run <x> & y " * t[0], "file_path": "a<b>" * 40})
        ),
        st.tuples(st.integers(0, 8), st.text(max_size=3_000)).map(
            lambda t: ToolFinished(
                f"t{t[0]}", t[0] % 3 > 0, (t[1] + "\n<!channel>") * 3, {"exit_code": t[0], "patch": "x", "added": 1}
            )
        ),
    ),
    max_size=40,
)


@given(ACTIVITY, st.sampled_from(list(Level)))
@settings(max_examples=30, deadline=None)
def test_any_activity_is_valid_and_looks_the_same_after_a_restart(events: list[Any], level: Level) -> None:
    live = view(level=level)
    for event in events:
        if isinstance(event, Text):
            live.apply(TextDelta(event.text))
        live.apply(event)
        valid(live.parts())
    live.apply(Settled(Done(), 1.0))
    assert live.parts() == view(*events, Settled(Done(), 1.0), level=level).parts()


@given(st.text(max_size=2_000), st.integers(1, 15), st.integers(20, 120))
def test_a_block_of_output_keeps_within_its_room(output: str, most: int, width: int) -> None:
    block = code_block(lines_of(output), most, width)
    assert size(block) <= room(most, width)
    assert block.count("\n") <= most + 4


# ---- the whole output --------------------------------------------------------------------------------------------


def full_output_buttons(output: str, level: Level = Level.VERBOSE) -> list[dict[str, Any]]:
    made = view(ToolStarted("b1", "Bash", {"command": "make"}), ToolFinished("b1", True, output), level=level)
    (part,) = made.parts()
    valid([part])
    elements = [element for block in part.blocks if block["type"] == "actions" for element in block["elements"]]
    return [element for element in elements if element["action_id"].startswith("full_output")]


def test_what_is_not_shown_of_an_output_can_be_had_at_the_level_that_shows_everything() -> None:
    long = "\n".join(f"line {n}" for n in range(40))
    (button,) = full_output_buttons(long)
    assert (button["text"]["text"], button["value"]) == ("Full output", "t1 b1")
    assert full_output_buttons("x" * 500)  # a line that is clipped
    assert full_output_buttons("short\nand whole") == []
    assert full_output_buttons(long, Level.NORMAL) == []
