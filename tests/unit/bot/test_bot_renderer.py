"""Events of a turn become messages."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.markdown import size
from bot.opening import root_part
from bot.parts import Part, plain, sectioned, shortened
from bot.renderer import TurnView
from sessions.events import Preparing, Queued, Settled, Started, Stopping, WaitingForPlace
from sessions.types import (
    Cut,
    Done,
    Failed,
    Interrupted,
    Session,
    SessionId,
    SessionState,
    ThreadId,
    Turn,
    TurnId,
    TurnState,
    Withdrawn,
)
from simulator.text import visible_text
from simulator.validation import check_content
from worklets.events import (
    Asked,
    PreviewVoided,
    Restarted,
    Retrying,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
    TurnEnded,
    Usage,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def view(*events: Any) -> TurnView:
    made = TurnView()
    for event in events:
        made.apply(event)
    return made


def words(part: Part) -> str:
    return visible_text({"blocks": list(part.blocks), "text": part.text})


def only(*events: Any) -> str:
    (part,) = view(*events).parts()
    return words(part)


def valid(parts: list[Part]) -> None:
    for part in parts:
        for form in (part, sectioned(part), shortened(plain(part))):
            check_content({"text": form.text, "blocks": list(form.blocks)})
            assert size(form.text) <= 4_000
        markdown = sum(len(b["text"]) for b in part.blocks if b["type"] == "markdown")
        assert markdown <= 11_500
        assert len(part.text) <= 3_000
        assert len(part.blocks) <= 45


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Queued(0), "Starting…"),
        (Queued(1), "Waiting: I will start when the current answer is done."),
        (Queued(3), "the 3 messages before this one"),
        (WaitingForPlace(4), "all 4 places are taken"),
        (WaitingForPlace(1), "the only place is taken"),
        (Preparing("cloning"), "Cloning the repository…"),
        (Preparing("image"), "Preparing the image…"),
        (Preparing("image 4/12"), "Building the image, step 4 of 12…"),
        (Preparing("starting"), "Starting a container…"),
        (Preparing("waking"), "Waking up"),
        (Preparing("resuming"), "Picking the work up again…"),
        (Started(), "Thinking…"),
        (Thinking(), "Thinking…"),
        (Retrying(2, 10, 5.0, 529, "overloaded"), "answers with status 529; trying again (2 of 10)"),
        (Retrying(1, 10, 5.0, None, "x"), "does not answer; trying again"),
        (Asked("r1", "Bash", {}, "t1"), "whether it may use Bash"),
    ],
)
def test_the_status_in_words(event: Any, said: str) -> None:
    assert said in only(event)


def test_text_grows_and_the_committed_block_replaces_the_preview() -> None:
    made = view(Started(), TextDelta("Hel"), TextDelta("lo"))
    assert words(made.parts()[0]) == "Hello\n⏳ Writing…"
    made.apply(Text("Hello!"))
    assert words(made.parts()[0]) == "Hello!\n⏳ Thinking…"


def test_a_voided_preview_leaves_nothing() -> None:
    made = view(Text("Kept."), TextDelta("x" * 30_000))
    assert len(made.parts()) > 2
    made.apply(PreviewVoided())
    assert [words(part) for part in made.parts()] == ["Kept.\n⏳ Writing…"]
    made.apply(TextDelta("Again."))
    assert words(made.parts()[0]) == "Kept.\nAgain.\n⏳ Writing…"


def test_one_line_for_each_tool() -> None:
    said = only(
        ToolStarted("1", "Bash", {"command": "pytest -q\n| tail"}),
        ToolFinished("1", False, "boom", {"exit_code": 1}),
        ToolStarted("2", "Read", {"file_path": "/workspace/a_b.py"}),
        ToolFinished("2", True),
        ToolStarted("3", "Edit", {"file_path": "x.py"}),
        ToolFinished("3", True, "", {"added": 3, "removed": 1}),
        ToolStarted("4", "Task", {"description": "look around"}),
        ToolStarted("5", "Grep", {"pattern": "<!channel>", "path": "src"}, parent="4"),
        ToolFinished("5", False, "\nno `such` dir\nmore", parent="4"),
        ToolStarted("6", "mcp__git__push", {"remote": "origin"}),
    )
    assert said.splitlines() == [
        "✗ Bash `pytest -q | tail` – exit 1",
        "```",
        "boom",
        "```",
        "✓ Read `a_b.py`",
        "✓ Edit `x.py` – +3 −1",
        "▸ Agent `look around` – 1 tool, last: Search `<!channel> in src`",
        "▸ git: push `origin`",
        "⏳ Working…",
    ]


def test_everything_foreign_is_harmless() -> None:
    bad = "<!channel> <@U123> <#C1> <https://evil|good> `<!here>`"
    made = view(
        Text(bad),
        Text(f"```\n{bad}\n```"),
        ToolStarted("1", bad, {"x": bad}),
        ToolFinished("1", False, bad),
        Settled(Failed(bad)),
    )
    for part in made.parts():
        valid([part])
        assert not re.search(r"<[@#!][A-Za-z]|<https?:", str(part.blocks) + part.text)


def test_the_footer() -> None:
    usage = Usage(input_tokens=1000, output_tokens=210, cache_read_tokens=2000, cache_write_tokens=412, cost=0.0234)
    assert only(Text("Hi"), TurnEnded("done", (), usage, 9.0), Settled(Done(), 12.4)).splitlines() == [
        "Hi",
        "12 s · 3,412 tokens in, 210 out · $0.02",
    ]
    unknown = TurnEnded("done", (), Usage(20_000, 1_500_000), 9.0)
    assert only(Text("Hi"), unknown, Settled(Done(), 3_725)).endswith("1 h 2 min · 20k tokens in, 1.5M out")
    assert only(Settled(Done(), 4.0)) == "Claude finished without a word.\n4.0 s"


def test_what_was_written_stays_when_it_is_stopped_or_fails() -> None:
    started = (TextDelta("Half a sent"), ToolStarted("1", "Bash", {"command": "x"}, parent="0"))
    assert only(*started, Settled(Interrupted("U1"), 2.0)).splitlines()[:3] == [
        "Half a sent",
        "\u2003\u2003■ Bash `x` – not finished",
        "■ Stopped by @U1.",
    ]
    assert "■ Stopped." in only(Settled(Interrupted()))
    assert "■ Stopped by flow sessions stop." in only(Settled(Interrupted("flow sessions stop")))
    assert only(*started, Settled(Failed("It broke. Do this."), None)).endswith("⚠️ It broke. Do this.")


def labels(part: Part) -> list[str]:
    return [e["text"]["text"] for b in part.blocks if b["type"] == "actions" for e in b["elements"]]


FINISHED = ["Retry", "Continue", "Copy as file", "👍", "👎"]


def with_buttons(*events: Any) -> TurnView:
    made = TurnView(TurnId("t1"))
    for event in events:
        made.apply(event)
    return made


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((), ["Stop"]),
        ((Queued(0),), ["Stop"]),
        ((Queued(1),), ["Now", "Take back"]),
        ((Queued(2), WaitingForPlace(3)), ["Stop"]),
        ((Queued(1), Preparing("waking")), ["Stop"]),
        ((Queued(1), Started(), TextDelta("Hi")), ["Stop"]),
        ((Started(), Stopping("U1")), []),
        ((Started(), Text("Hi"), Settled(Done())), FINISHED),
        ((Started(), Text("Hi"), Settled(Interrupted("U1"))), FINISHED),
        ((Started(), Settled(Failed("It broke. Do this."))), FINISHED),
    ],
)
def test_the_buttons_of_a_turn(events: tuple[Any, ...], said: list[str]) -> None:
    made = with_buttons(*events)
    assert [labels(part) for part in made.parts()] == [said]
    valid(made.parts())
    assert all(e["value"] == "t1" for b in made.parts()[0].blocks if b["type"] == "actions" for e in b["elements"])


def test_only_the_last_message_has_buttons() -> None:
    made = with_buttons(Started(), TextDelta("words " * 5_000))
    assert [labels(part) for part in made.parts()] == [[]] * (len(made.parts()) - 1) + [["Stop"]]
    made.apply(Settled(Done()))
    assert [labels(part) for part in made.parts()] == [[]] * (len(made.parts()) - 1) + [FINISHED]


def test_nothing_hides_that_it_is_being_stopped() -> None:
    made = view(Started(), Text("Some."), Stopping("U1"), Thinking(), ToolStarted("1", "Bash", {"command": "x"}))
    assert words(made.parts()[0]).endswith("⏳ Stopping…")
    made.apply(Settled(Interrupted("U1")))
    assert "■ Stopped by @U1." in words(made.parts()[0])


def test_what_was_taken_back_vanishes() -> None:
    made = with_buttons(Queued(1))
    assert len(made.parts()) == 1
    made.apply(Settled(Withdrawn("U1")))
    assert made.parts() == []
    opener = TurnView(TurnId("t1"), opens_thread=True)
    opener.apply(Settled(Withdrawn("U1")))
    assert words(opener.parts()[0]) == "■ Taken back by @U1."


def test_a_cut_turn_asks_how_to_go_on() -> None:
    made = with_buttons(Started(), Text("Some."), ToolStarted("1", "Bash", {"command": "x"}))
    made.apply(Settled(Cut("The container was lost <!channel>."), 3.0))
    answer, question = made.parts()
    assert words(answer).splitlines() == ["Some.", "■ Bash `x` – not finished", "■ Cut off.", "3.0 s"]
    assert labels(question) == ["Continue", "Start over", "Leave it"]
    assert question.index == 1
    assert "The container was lost" in words(question)
    assert "<!channel>" not in str(question)
    assert made.parts() == [answer, question]
    valid(made.parts())


def test_a_lost_process_leaves_one_line_where_it_was() -> None:
    lost = Restarted("Claude's process was lost; a new one goes on.")
    made = view(Text("One."), ToolStarted("1", "Bash", {"command": "x"}), TextDelta("unfinish"), lost, Text("Two."))
    assert words(made.parts()[0]).splitlines() == [
        "One.",
        "■ Bash `x` – not finished",
        "↻ Claude's process was lost; a new one goes on.",
        "Two.",
        "⏳ Thinking…",
    ]


def test_nothing_changes_after_the_end() -> None:
    made = view(Text("Done"), Settled(Done()))
    before = made.parts()
    assert not made.apply(Text("more"))
    assert made.parts() == before
    assert before[0].final


def test_rendering_touches_only_what_changed() -> None:
    made = view(Text("line of words\n" * 3000))
    first = made.parts()
    made.apply(TextDelta("more"))
    second = made.parts()
    assert len(first) > 3
    assert all(old is new for old, new in zip(first[:-1], second[:-1], strict=True))
    assert all(part.final for part in second[:-1])


def test_a_tool_that_ends_late_changes_its_own_page_only() -> None:
    made = view(ToolStarted("1", "Task", {"description": "slow"}), Text("words " * 5000))
    first = made.parts()
    assert not first[0].final
    made.apply(ToolFinished("1", True))
    second = made.parts()
    assert "✓ Agent" in words(second[0])
    assert second[0].final
    assert second[1] is first[1]


EVENTS = st.lists(
    st.one_of(
        st.sampled_from(["para. ", "\n\n", "```py\n", "x = 1\n" * 50, "```\n", "# H\n", "<!channel> ", "word " * 400])
        .flatmap(lambda s: st.integers(1, 8).map(lambda n: s * n))
        .map(Text),
        st.integers(0, 5).map(lambda n: ToolStarted(f"t{n}", "Bash", {"command": "run <x> & y " * n})),
        st.integers(0, 5).map(lambda n: ToolFinished(f"t{n}", n % 2 == 0, "out", {"exit_code": n})),
    ),
    max_size=40,
)


@given(EVENTS, st.integers(1, 700))
@settings(max_examples=60, deadline=None)
def test_streamed_and_replayed_turns_look_alike(events: list[Any], step: int) -> None:
    streamed = TurnView()
    for event in events:
        if isinstance(event, Text):
            for start in range(0, len(event.text), step):
                streamed.apply(TextDelta(event.text[start : start + step]))
                if start % 3 == 0:
                    streamed.parts()
        streamed.apply(event)
    end = Settled(Done(), 1.0)
    streamed.apply(end)
    replayed = view(*events, end)
    assert streamed.parts() == replayed.parts()
    valid(replayed.parts())


@given(st.lists(st.sampled_from(["word " * 30, "\n\n", "```\n", "`", "<@U1>", "code();\n" * 20]), max_size=200))
@settings(max_examples=40, deadline=None)
def test_a_full_message_never_changes(deltas: list[str]) -> None:
    made, seen = TurnView(), []
    for delta in deltas:
        made.apply(TextDelta(delta))
        parts = made.parts()
        assert [part.blocks for part in parts[: len(seen)]] == seen
        seen = [part.blocks for part in parts[:-1]]
        valid(parts)


def test_many_headings_and_tools_stay_within_a_messages_blocks() -> None:
    events: list[Any] = [Text("".join(f"# H{n}\n\ntext\n\n" for n in range(120)))]
    for n in range(60):
        events += [
            ToolStarted(f"{n}", "Bash", {"command": f"echo {n} " * 40}),
            ToolFinished(f"{n}", True),
            Text(f"t{n}"),
        ]
    parts = view(*events, Settled(Done())).parts()
    valid(parts)
    for part in parts:
        headings = sum(b["text"].count("# H") for b in part.blocks if b["type"] == "markdown")
        assert len(part.blocks) + headings <= 47
    assert "t59" in words(parts[-1])


def session(**more: Any) -> Session:
    values: dict[str, Any] = {
        "id": SessionId("s1"), "user_id": "U1", "name": "n", "state": SessionState.NEW,
        "thread": ThreadId("T1", "C1", None), "worklet": "w", "container_id": None, "claude_session_id": "c",
        "has_history": False, "repository": None, "branch": None, "startup_script": None, "epoch": None, "seq": 0,
        "created_at": NOW, "updated_at": NOW, "last_activity_at": NOW, **more,
    }  # fmt: skip
    return Session(**values)


def test_the_root_message_names_who_asked_what() -> None:
    text = "do <!channel> & *this*\n" * 300
    turn = Turn(
        TurnId("t"), SessionId("s1"), "cmd:1", "1.0", "U1", text, TurnState.QUEUED, None, NOW, None, None, False
    )
    part = root_part(session(repository="https://git.io/a`b", branch="dev"), turn)
    check_content({"text": part.text, "blocks": list(part.blocks)})
    assert words(part).startswith("@U1 asked:\n>do <!channel> & *this*\n>do")
    assert "Repository `https://git.io/a'b`, branch `dev`" in words(part)
    assert "<!channel>" not in str(part)


def test_a_renderer_that_gave_up_still_ends() -> None:
    made = view(Text("x"))
    made.give_up()
    made.apply(Settled(Done(), 1.0))
    assert words(made.parts()[0]) == "⚠️ Something went wrong on my side, this answer cannot be shown here.\n1.0 s"


def test_an_empty_text_is_no_trap() -> None:
    assert only(TextDelta(""), Text("")) == "⏳ Thinking…"
    assert only(Text("\n \n"), ToolStarted("1", "Read", {"file_path": "a"})) == "▸ Read `a`\n⏳ Working…"
