"""What agents say is masked before it is stored or told, also when a secret comes in two pieces."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from heart import THREAD, Heart, Start
from waiting import until

from config.masking import MASK, Masker
from sessions.events import Settled
from sessions.tables import events as events_table
from sessions.tables import turns
from sessions.types import Failed
from worklets.events import (
    Asked,
    PreviewVoided,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
)
from worklets.wire import MOST_OUTPUT

SECRET = "hunter2-hunter2/hunter2"
TOKEN = "ghp_" + "a1B2c3D4" * 5


async def _stored(heart: Heart) -> str:
    async with heart.db.read() as connection:
        bodies = (await connection.execute(sa.select(events_table.c.body))).scalars().all()
        outcomes = (await connection.execute(sa.select(turns.c.error))).scalars().all()
    return json.dumps([bodies, outcomes], ensure_ascii=False)


def _said(heart: Heart, turn_id: Any) -> str:
    return repr(list(heart.events(turn_id)))


async def test_nothing_that_an_agent_says_is_stored_or_told_with_a_secret_in_it(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.say(Thinking(f"The key is {SECRET}."))
        process.say(ToolStarted("t1", "Bash", {"command": f"curl -u me:{SECRET} x", "env": [{"K": TOKEN}]}))
        process.say(ToolFinished("t1", True, f"TOKEN={TOKEN}\n", {"patch": [f"-{SECRET}", "+x"], "exit_code": 0}))
        process.say(Asked("r1", "Bash", {"command": f"echo {TOKEN}"}, "t2"))
        process.say(Text(f"It is {SECRET} and {TOKEN}."))
        process.end("failed", f"401 for {SECRET}")
        assert await heart.settled(asked) == Failed(f"401 for {MASK}")
        stored, said = await _stored(heart), _said(heart, asked.turn.id)
    for leak in (SECRET, TOKEN):
        assert leak not in stored
        assert leak not in said
    assert Text(f"It is {MASK} and {MASK}.") in heart.events(asked.turn.id)


async def test_a_secret_in_two_pieces_is_never_shown_by_half(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        text = f"The password is {SECRET}, so keep it."
        for piece in (text[:20], text[20:30], text[30:]):
            process.say(TextDelta(piece))
        await until(lambda: "".join(_deltas(heart, asked.turn.id)) == f"The password is {MASK}, so keep it.")
        assert not any("hunter2" in delta for delta in _deltas(heart, asked.turn.id))
        process.say(Text(text))
        process.end()
        await heart.settled(asked)
        assert Text(f"The password is {MASK}, so keep it.") in heart.events(asked.turn.id)


def _deltas(heart: Heart, turn_id: Any) -> list[str]:
    return [event.text for event in heart.events(turn_id) if isinstance(event, TextDelta)]


async def test_what_was_held_back_is_told_before_the_whole_so_that_both_are_equal(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.say(TextDelta("He said hunter2"))
        await until(lambda: _deltas(heart, asked.turn.id) == ["He said "])
        process.say(Text("He said hunter2"))
        process.end()
        await heart.settled(asked)
        events = [event for event in heart.events(asked.turn.id) if isinstance(event, TextDelta | Text)]
        assert events == [TextDelta("He said "), TextDelta("hunter2"), Text("He said hunter2")]


async def test_a_void_preview_takes_what_was_held_back_along(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.say(TextDelta("Or hunter2-h"))
        process.say(PreviewVoided())
        process.say(TextDelta("Anew."))
        process.say(Text("Anew."))
        process.end()
        await heart.settled(asked)
        assert _deltas(heart, asked.turn.id) == ["Or ", "Anew."]


async def test_a_preview_that_is_all_held_back_comes_again_after_a_restart(start: Start) -> None:
    """The position that is attached at must not run past what nobody has seen."""
    async with start(masker=Masker([SECRET])) as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(TextDelta("hunter2-"))
        process.say(ToolFinished("t0", True, "of the background"))
        await until(lambda: any(isinstance(event, ToolFinished) for event in before.events(asked.turn.id)))
    process.say(TextDelta("hunter2/hunter2 it is"))
    process.say(Text(f"{SECRET} it is"))
    process.end()
    async with start(masker=Masker([SECRET])) as after:
        await after.reaper.recover()
        await after.settled(asked)
        assert "".join(_deltas(after, asked.turn.id)) == f"{MASK} it is"
        assert Text(f"{MASK} it is") in after.events(asked.turn.id)


async def test_a_preview_that_breaks_off_in_a_secret_is_kept_without_it(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.say(TextDelta("It is hunter2-hunt"))
        await until(lambda: _deltas(heart, asked.turn.id) == ["It is "])
        process.die()
        again = await until(lambda: heart.host.processes[asked.session.worklet].prompts and heart.host.opened[1:])
        assert again
        await until(lambda: any(isinstance(event, Text) for event in heart.events(asked.turn.id)))
        assert Text(f"It is {MASK}") in heart.events(asked.turn.id)
        assert "hunter2-h" not in await _stored(heart)


async def test_secrets_of_one_session_and_its_repository_are_known(start: Start) -> None:
    async with start(secrets=lambda session: [f"token of {session.worklet}"]) as heart:
        asked = await heart.ask("HOLD", repository="https://me:s3cr3t-of-mine@example.com/a/b")
        process = await heart.process(asked)
        process.say(Text(f"s3cr3t-of-mine, token of {asked.session.worklet}."))
        process.end()
        await heart.settled(asked)
        assert Text(f"{MASK}, {MASK}.") in heart.events(asked.turn.id)
        file = f"s3cr3t-of-mine, token of {asked.session.worklet}"
        assert heart.sessions.masker(asked.session).text(file) == f"{MASK}, {MASK}", "what leaves by another way too"


async def test_what_a_process_said_last_is_masked_in_the_reason(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.say(ToolStarted("t1", "Bash", {"command": "make"}))
        process.exit(1, f"cannot log in with {SECRET}")
        await heart.settled(asked)
        [settled] = [event for event in heart.events(asked.turn.id) if isinstance(event, Settled)]
        assert SECRET not in repr(settled)
        assert SECRET not in await _stored(heart)


async def test_people_s_own_words_stay_as_they_are_for_claude(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask(f"HOLD log in with {SECRET}", THREAD)
        process = await heart.process(asked)
        assert process.prompts[0][1] == f"HOLD log in with {SECRET}"


async def test_long_output_that_begins_in_the_middle_of_a_secret_keeps_it(start: Start) -> None:
    async with start(masker=Masker([SECRET])) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        lines = "\n".join(f"line {n}" for n in range(5_000))
        process.say(ToolFinished("t1", True, f"{SECRET[3:]}\n{lines}"[:MOST_OUTPUT]))
        process.say(ToolFinished("t2", True, "short output: ter2/hunter2"))
        process.end()
        await heart.settled(asked)
        outputs = [event.output for event in heart.events(asked.turn.id) if isinstance(event, ToolFinished)]
        assert outputs[0].startswith(f"{MASK}\nline 0\n")
        assert outputs[1] == "short output: ter2/hunter2"
