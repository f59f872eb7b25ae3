"""What people attach: brought into the workspace before Claude is asked, once, or refused with a word."""

from __future__ import annotations

import asyncio
import struct
import zlib
from pathlib import Path

import pytest
from heart import Heart, Start
from hypothesis import given
from hypothesis import strategies as st
from scripted import Process, ScriptedHost
from waiting import until

from sessions.filerules import FileRefused, FileRules
from sessions.files import FOLDER, free_path, safe_name
from sessions.types import Attached, Done, Submitted, ThreadId
from worklets.errors import WorkletError
from worklets.events import Remark, Text


def png(width: int = 4, height: int = 3) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height)))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Slack:
    """Where the files lie."""

    def __init__(self, **contents: bytes | Exception) -> None:
        self.contents = contents
        self.fetched: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, file: Attached, into: Path, limit: int) -> Attached:
        self.fetched.append(file.id)
        await self.open.wait()
        found = self.contents[file.id]
        if isinstance(found, Exception):
            raise found
        if len(found) > limit:
            raise FileRefused("it is too large")
        into.write_bytes(found)
        return file

    @property
    def rules(self) -> FileRules:
        return FileRules(limit=1000, most=2, fetch=self.fetch)


def file(id_: str, name: str, mimetype: str = "text/plain", size: int = 5) -> Attached:
    return Attached(id_, name, mimetype, size)


async def process_of(heart: Heart, asked: Submitted) -> Process:
    return await until(lambda: (p := heart.host.processes.get(asked.session.worklet)) and p.prompts and p)


def workspace(heart: Heart, asked: Submitted) -> dict[str, bytes]:
    return heart.host.workspaces.get(asked.session.worklet, {})


def remarks(heart: Heart, asked: Submitted) -> list[str]:
    return [event.text for event in heart.events(asked.turn.id) if isinstance(event, Remark)]


async def test_files_lie_in_the_workspace_before_claude_is_asked(start: Start) -> None:
    slack = Slack(F1=b"hello", F2=png())
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("look", files=(file("F1", "a b.txt"), file("F2", "chart.png", "image/png", 75)))
        assert await heart.settled(asked) == Done()
        process = await process_of(heart, asked)
        assert workspace(heart, asked) == {"attachments/a_b.txt": b"hello", "attachments/chart.png": png()}
        (note,) = process.contexts[0]
        assert "- attachments/a_b.txt (text/plain, 5 B)\n" in note
        assert f"- attachments/chart.png (image/png, {len(png())} B), shown here" in note
        (shown,) = process.pictures[0]
        assert (shown.name, shown.media_type, shown.content) == ("attachments/chart.png", "image/png", png())
        assert remarks(heart, asked) == []


async def test_a_command_does_not_lose_the_files_that_come_with_it(start: Start) -> None:
    slack = Slack(F1=b"hello")
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("/review this", files=(file("F1", "a.txt"),))
        assert await heart.settled(asked) == Done()
        (note,) = (await process_of(heart, asked)).contexts[0]
        assert "- attachments/a.txt" in note


async def test_files_wait_with_their_turn(start: Start) -> None:
    slack = Slack(F1=b"later")
    async with start(files=slack.rules) as heart:
        first = await heart.ask("HOLD")
        process = await heart.process(first)
        second = await heart.ask("next", files=(file("F1", "a.txt"),))
        assert slack.fetched == []
        process.answer("done")
        assert await heart.settled(second) == Done()
        assert workspace(heart, second) == {"attachments/a.txt": b"later"}
        assert process.contexts[0] == ()
        assert "attachments/a.txt" in process.contexts[1][0]


async def test_an_edit_before_the_turn_begins_changes_its_files(start: Start) -> None:
    slack = Slack(F1=b"one", F2=b"two")
    async with start(files=slack.rules) as heart:
        first = await heart.ask("HOLD")
        process = await heart.process(first)
        ts = "1700000150.000000"
        second = await heart.ask("next", ts=ts, source_id=f"C1:{ts}", files=(file("F1", "a"), file("F2", "b")))
        await heart.sessions.amend("T1", "C1", f"C1:{ts}", "other", "1700000160.000000", (file("F2", "b"),))
        process.answer("done")
        assert await heart.settled(second) == Done()
        assert workspace(heart, second) == {"attachments/b": b"two"}
        assert process.prompts[-1][1] == "other"


async def test_what_is_refused_is_told_to_people_and_to_claude(start: Start) -> None:
    slack = Slack(F1=FileRefused("it was deleted in Slack"), F2=b"x", F3=b"y")
    files = (file("F1", "a.txt"), file("F2", "big.bin", size=2000), file("F3", "third.txt"))
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("look", files=files)
        assert await heart.settled(asked) == Done()
        assert slack.fetched == ["F1"]
        assert sorted(remarks(heart, asked)) == [
            "a.txt did not reach Claude: it was deleted in Slack.",
            "big.bin did not reach Claude: it has 2 KiB, and files of at most 1000 B are taken.",
            "third.txt did not reach Claude: at most 2 files of a message are taken.",
        ]
        (note,) = (await process_of(heart, asked)).contexts[0]
        assert "not to be had" in note
        assert "- a.txt: it was deleted in Slack" in note
        entries = await heart.sessions.transcript.read(asked.session.id, turn_id=asked.turn.id)
        assert len([entry for entry in entries if isinstance(entry.event, Remark)]) == 3


async def test_a_full_disk_costs_the_file_only(start: Start, host: ScriptedHost) -> None:
    slack = Slack(F1=b"x")

    async def place(*_: object) -> None:
        raise WorkletError("The files could not be put into the workspace: no space left.")

    host.place = place  # type: ignore[method-assign]
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("look", files=(file("F1", "a.txt"),))
        assert await heart.settled(asked) == Done()
        assert remarks(heart, asked) == [
            "a.txt did not reach Claude: the files could not be put into the workspace: no space left."
        ]


async def test_names_are_numbered_and_what_stands_there_is_left_alone(start: Start) -> None:
    slack = Slack(F1=b"one", F2=b"two", F3=b"three")
    async with start(files=slack.rules) as heart:
        first = await heart.ask("look", files=(file("F1", "a.txt"), file("F2", "A.txt")))
        assert await heart.settled(first) == Done()
        heart.host.workspaces[first.session.worklet]["attachments/a-3.txt"] = b"Claude's own"
        second = await heart.ask("again", files=(file("F3", "a.txt"),))
        assert await heart.settled(second) == Done()
        assert workspace(heart, second) == {
            "attachments/a.txt": b"one",
            "attachments/A-2.txt": b"two",
            "attachments/a-3.txt": b"Claude's own",
            "attachments/a-4.txt": b"three",
        }


async def test_a_stop_while_files_are_fetched(start: Start) -> None:
    slack = Slack(F1=b"x")
    slack.open.clear()
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("look", files=(file("F1", "a.txt"),))
        await until(lambda: slack.fetched)
        await heart.sessions.interrupt(asked.session.id, "U1")
        outcome = await heart.settled(asked)
        assert type(outcome).__name__ == "Interrupted"


async def cut_while_fetching(start: Start, slack: Slack, asked_text: str = "HOLD") -> Submitted:
    """A program that ends while it fetches the second of two files."""
    second = asyncio.Event()
    fetch = slack.fetch

    async def slowly(one: Attached, into: Path, limit: int) -> Attached:
        if one.id == "F2":
            second.set()
            await asyncio.Event().wait()
        return await fetch(one, into, limit)

    async with start(files=FileRules(1000, 3, slowly)) as heart:
        files = (file("F3", "gone"), file("F1", "a.txt"), file("F2", "b.png", "image/png"))
        asked = await heart.ask(asked_text, files=files)
        await second.wait()
    return asked


async def test_a_restart_goes_on_with_the_files(start: Start, host: ScriptedHost) -> None:
    slack = Slack(F1=b"hello", F2=png(), F3=FileRefused("it was deleted in Slack"))
    asked = await cut_while_fetching(start, slack)
    assert host.processes[asked.session.worklet].prompts == []
    async with start(files=FileRules(1000, 3, slack.fetch)) as heart:
        await heart.reaper.recover()
        process = await heart.process(asked)
        assert workspace(heart, asked) == {"attachments/a.txt": b"hello", "attachments/b.png": png()}
        assert slack.fetched == ["F3", "F1", "F2"]  # what lay there, and what was refused, is not asked for again
        assert remarks(heart, asked) == ["gone did not reach Claude: it was deleted in Slack."]
        assert len(process.prompts) == 1
        assert [shown.name for shown in process.pictures[0]] == ["attachments/b.png"]
        process.answer("done")
        assert await heart.settled(asked) == Done()


async def test_a_prompt_that_is_being_answered_is_not_given_its_files_again(start: Start, host: ScriptedHost) -> None:
    slack = Slack(F1=png())
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("HOLD", files=(file("F1", "a.png", "image/png"),))
        process = await heart.process(asked)
        process.say(Text("It shows"))
        await until(lambda: any(isinstance(event, Text) for event in heart.events(asked.turn.id)))
    async with start(files=slack.rules) as heart:
        await heart.reaper.recover()
        process.answer("a chart.")
        assert await heart.settled(asked) == Done()
        assert slack.fetched == ["F1"]


async def test_the_next_process_sees_the_pictures_too(start: Start) -> None:
    slack = Slack(F1=png())
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("HOLD", files=(file("F1", "a.png", "image/png"),))
        first = await heart.process(asked)
        first.die()
        second = await until(
            lambda: (p := heart.host.processes[asked.session.worklet]) is not first and p.prompts and p
        )
        assert [shown.content for shown in second.pictures[0]] == [png()]
        assert list(workspace(heart, asked)) == ["attachments/a.png"]
        second.answer("seen")
        assert await heart.settled(asked) == Done()


async def test_starting_over_after_a_cut_uses_the_files_that_lie_there(start: Start) -> None:
    slack = Slack(F1=b"data")
    async with start(files=slack.rules) as heart:
        thread = ThreadId("T1", "C1", "1700000000.000100")
        asked = await heart.ask("one", thread, files=(file("F1", "a.csv"),))
        assert await heart.settled(asked) == Done()
        heart.host.workspaces[asked.session.worklet]["attachments/a.csv"] = b"Claude has edited it"
        copy = await heart.ask("two", thread, files=await heart.sessions.store.files.attached(asked.turn.id))
        assert await heart.settled(copy) == Done()
        assert workspace(heart, asked) == {"attachments/a.csv": b"Claude has edited it"}
        assert slack.fetched == ["F1"]


async def test_a_picture_that_lies_there_and_cannot_be_had_again(start: Start) -> None:
    slack = Slack(F1=png())
    async with start(files=slack.rules) as heart:
        asked = await heart.ask("HOLD", files=(file("F1", "a.png", "image/png", 73),))
        first = await heart.process(asked)
        slack.contents["F1"] = FileRefused("it was deleted in Slack")
        first.die()
        second = await until(
            lambda: (p := heart.host.processes[asked.session.worklet]) is not first and p.prompts and p
        )
        assert second.pictures[0] == ()
        assert any("- attachments/a.png (image/png, 73 B)" in note for note in second.contexts[0])
        assert remarks(heart, asked) == []
        second.answer("seen")
        assert await heart.settled(asked) == Done()


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("chart.png", "chart.png"),
        ("My report (final).pdf", "My_report_final_.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\x.txt", "x.txt"),
        (".env", "env"),
        ("..", "file"),
        ("", "file"),
        ("-rf", "rf"),
        ("a\nb\0c", "a_b_c"),
        ("Größe.csv", "Größe.csv"),
        ("x" * 200 + ".tar.gz", "x" * 77 + ".gz"),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(max_size=300))
def test_a_name_is_one_component_and_never_hides(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert len(safe) <= 80
    assert not set(safe) & set("/\\\0 \n'\"$`;&|<>")
    assert safe[0] not in ".-"


@given(st.lists(st.text(max_size=10), max_size=20))
def test_paths_differ_also_where_case_does_not_count(names: list[str]) -> None:
    used: set[str] = set()
    for name in names:
        path = free_path(name, used)
        assert path.startswith(f"{FOLDER}/")
        assert path.casefold() not in used
        used.add(path.casefold())
