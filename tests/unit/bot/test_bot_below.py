"""An answer goes on in a new message below what people wrote, once there is more to say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.layout import Place
from bot.parts import Part
from bot.renderer import TurnView
from sessions.events import Settled, Started
from sessions.types import Done
from simulator.text import visible_text
from simulator.validation import check_content
from worklets.events import PreviewVoided, Text, TextDelta, ToolFinished, ToolStarted

PARAGRAPH = "Some words of a paragraph that goes on for a while, so that it is worth a line or two.\n\n"


def view(*events: Any) -> TurnView:
    made = TurnView()
    for event in events:
        made.apply(event)
    return made


def shown(made: TurnView) -> list[str]:
    return [words(part) for part in made.parts()]


def words(part: Part) -> str:
    check_content({"text": part.text, "blocks": list(part.blocks)})
    return visible_text({"blocks": list(part.blocks), "text": part.text})


def test_it_goes_on_after_the_paragraph() -> None:
    made = view(Started(), TextDelta("One. This para"))
    assert made.step_below()
    made.apply(TextDelta("graph ends.\n\n"))
    assert len(made.parts()) == 1
    made.apply(TextDelta(PARAGRAPH))
    first, second = shown(made)
    assert first == "One. This paragraph ends."
    assert second.startswith("Some words")
    assert second.endswith("⏳ Writing…")
    assert made.parts()[0].final is False  # the preview may be void yet
    made.apply(Text("One. This paragraph ends.\n\n" + PARAGRAPH))
    assert shown(made)[0] == first
    assert made.parts()[0].final


def test_the_rest_of_a_sentence_stays_where_it_is() -> None:
    made = view(Started(), TextDelta("Almost do"))
    made.step_below()
    made.apply(TextDelta("ne.\n\nBye."))
    made.apply(Settled(Done(), 1.0))
    assert len(made.parts()) == 1


def test_a_tool_and_another_text_go_below() -> None:
    made = view(Text("Looking."))
    made.step_below()
    made.apply(ToolStarted("1", "Read", {"file_path": "a"}))
    assert [text.splitlines()[0] for text in shown(made)] == ["Looking.", "▸ Read `a`"]
    made.apply(ToolFinished("1", True))
    made.step_below()
    made.apply(Text("Found."))
    assert [text.splitlines()[0] for text in shown(made)] == ["Looking.", "✓ Read `a`", "Found."]


def test_nothing_is_left_behind_where_nothing_was_said() -> None:
    made = view(Started())
    assert not made.step_below()
    made.apply(Text("Hi."))
    assert len(made.parts()) == 1


def test_code_is_closed_and_opened_anew() -> None:
    made = view(TextDelta("```python\nx = 0\n"))
    made.step_below()
    made.apply(TextDelta("y = 1\n" * 700))
    first, second = made.parts()
    assert first.blocks[0]["text"].endswith("\n```")
    assert second.blocks[0]["text"].startswith("```python\ny = 1\n")


def test_a_preview_that_is_void_takes_its_messages_with_it() -> None:
    made = view(Text("Kept."), TextDelta(PARAGRAPH * 2))
    made.step_below()
    made.apply(TextDelta(PARAGRAPH * 3))
    assert len(made.parts()) == 2
    made.apply(PreviewVoided())
    assert [text.splitlines()[0] for text in shown(made)] == ["Kept."]


STEPS = st.lists(
    st.one_of(
        st.sampled_from([PARAGRAPH, "word ", "\n\n", "```\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "# Head\n\n"])
        .flatmap(lambda s: st.integers(1, 6).map(lambda n: s * n))
        .map(TextDelta),
        st.just("said"),
        st.just("end of text"),
        st.integers(0, 9).map(lambda n: ToolStarted(f"t{n}", "Bash", {"command": f"run {n}"})),
        st.integers(0, 9).map(lambda n: ToolFinished(f"t{n}", True, "", {})),
    ),
    max_size=40,
)


@given(STEPS)
def test_whoever_goes_on_after_a_crash_shows_the_same_messages(steps: list[Any]) -> None:
    made, events, text, places = TurnView(), list[Any](), "", list[Place]()

    def tell(event: Any) -> None:
        made.apply(event)
        if not isinstance(event, TextDelta):
            events.append(event)  # as the transcript has it

    for step in [*steps, "end of text", Settled(Done(), 1.0)]:
        if step == "said":
            made.step_below()
        elif step == "end of text" or isinstance(step, ToolStarted):
            if text:
                tell(Text(text))
            text = ""
        if isinstance(step, TextDelta):
            text += step.text
        if not isinstance(step, str):
            tell(step)
        made.parts()
    before = made.parts()
    places = [Place.of(place) for n in range(len(before)) if (place := made.opens_at(n)) is not None]
    again = TurnView()
    for event in events:
        again.apply(event)
    assert again.opened_at(places).parts() == before
    for part in before:
        check_content({"text": part.text, "blocks": list(part.blocks)})


@pytest.mark.parametrize("text", ["0:0", "3:120"])
def test_a_place_is_kept_as_text(text: str) -> None:
    assert str(Place.of(text)) == text
