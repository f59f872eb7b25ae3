"""Files between people and Claude: the real Slack SDK against the simulated workspace, and a scripted agent."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from slackdoor import Flow, Start
from unit.sessions.scripted import Process, ScriptedHost
from waiting import until

from bot.filestore import files
from bot.snippets import give, snippet
from simulator.slack import SlackSimulator
from worklets.events import Text, ToolFinished, ToolStarted
from worklets.files import SEND_FILE


async def workspace(flow: Flow) -> dict[str, bytes]:
    (session,) = await flow.sessions.list()
    return flow.host.workspaces.get(session.worklet, {})


def first(flow: Flow) -> Process:
    (process,) = flow.host.processes.values()
    return process


# ---- in ----------------------------------------------------------------------------------------------------------


async def test_what_people_attach_reaches_claude(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow read this", files=[("a b.txt", b"hello"), ("c.csv", b"1,2")])
    await flow.shows("#general", ts, "read this", "tokens in")
    assert await workspace(flow) == {"attachments/a_b.txt": b"hello", "attachments/c.csv": b"1,2"}
    ((_, asked),) = first(flow).prompts
    assert asked == "read this\n\n(Attached: a b.txt, c.csv)"
    assert "attachments/a_b.txt (text/plain, 5 B)" in first(flow).contexts[0][0]
    # A reply, and one without a word.
    await flow.slack.post("jonas", "#general", "", thread_ts=ts, files=[("c.csv", b"3,4")])
    await flow.shows("#general", ts, "(Attached: c.csv)")
    await until(lambda: len(first(flow).prompts) == 2)
    assert (await workspace(flow))["attachments/c-2.csv"] == b"3,4"


async def test_a_direct_message_that_is_nothing_but_a_file(flow: Flow) -> None:
    await flow.slack.post("maya", "dm", "", files=[("notes.pdf", b"%PDF-1.7")])
    await until(lambda: flow.host.processes and first(flow).prompts)
    assert await workspace(flow) == {"attachments/notes.pdf": b"%PDF-1.7"}


async def test_a_file_of_another_workspace_is_asked_for(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow look", files=[("a.txt", b"far")], foreign=True)
    await flow.shows("#general", ts, "tokens in")
    assert await workspace(flow) == {"attachments/a.txt": b"far"}


@pytest.mark.parametrize("trouble", ["status", "reset", "limited"])
async def test_trouble_that_passes_is_waited_out(flow: Flow, trouble: str) -> None:
    if trouble == "reset":
        flow.slack.faults.reset("download")
    else:
        flow.slack.faults.fail("download", status=503 if trouble == "status" else 429, retry_after=1)
    ts = await flow.slack.post("maya", "#general", "@flow look", files=[("a.txt", b"x")])
    await flow.shows("#general", ts, "tokens in")
    assert await workspace(flow) == {"attachments/a.txt": b"x"}


async def test_what_cannot_be_had_is_told_and_the_turn_goes_on(flow: Flow) -> None:
    flow.slack.faults.fail("download", status=404)
    ts = await flow.slack.post("maya", "#general", "@flow look", files=[("a.txt", b"x"), ("b.txt", b"y")])
    shown = await flow.shows("#general", ts, "a.txt did not reach Claude: it was deleted in Slack.", "tokens in")
    assert sum("did not reach" in text for text in shown) == 1
    assert await workspace(flow) == {"attachments/b.txt": b"y"}


async def test_the_sign_in_page_is_no_file(flow: Flow) -> None:
    manifest = flow.slack.app.manifest
    flow.slack.app.manifest = replace(manifest, scopes=(manifest.scopes or frozenset()) - {"files:read"})
    for name in ("a.txt", "a.html"):
        ts = await flow.slack.post("maya", "#general", "@flow look", files=[(name, b"x" * 7)])
        await flow.shows("#general", ts, f"{name} did not reach Claude: Slack does not let me read it", "tokens in")
    assert flow.host.workspaces == {}


async def test_a_file_that_is_deleted_while_it_waits(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD")
    process = await flow.process("HOLD")
    reply = await flow.slack.post("maya", "#general", "next", thread_ts=ts, files=[("a", b"1"), ("b", b"2")])
    (session,) = await flow.sessions.list()
    await until(lambda: _waiting(flow, session.id))
    await flow.slack.delete_file("maya", flow.slack.record(reply).body["files"][0]["id"])
    (_, turn) = await flow.sessions.turns(session.id)
    store = flow.sessions.store.files
    await until(lambda: _count(store.of_turn(turn.id), 1))
    process.answer("done")
    await until(lambda: len(process.prompts) == 2)
    assert process.prompts[1][1] == "next\n\n(Attached: b)"
    assert await workspace(flow) == {"attachments/b": b"2"}


async def _waiting(flow: Flow, session_id: Any) -> bool:
    return len(await flow.sessions.turns(session_id)) == 2


async def _count(found: Any, number: int) -> bool:
    return len(await found) == number


# ---- out ---------------------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n not quite"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where worklets hand over."""
    return tmp_path / "worklets"


def hand_over(
    path: Path, worklet: str, tool_id: str, name: str = "chart.png", content: bytes = PNG, **told: str
) -> Path:
    """What the MCP server leaves."""
    place = path / worklet / "run" / "outgoing" / tool_id
    place.mkdir(parents=True)
    (place / "content").write_bytes(content)
    (place / "meta.json").write_text(json.dumps({"name": name, "size": len(content), **told}))
    return place


def reply_in(place: Path) -> Any:
    reply = place / "reply.json"
    return json.loads(reply.read_text()) if reply.exists() else None


async def at_work(flow: Flow) -> tuple[str, Process]:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD")
    process = await flow.process("HOLD")
    process.say(Text("Drawing."))
    await flow.shows("#general", ts, "Drawing.")
    return ts, process


def pictures(slack: SlackSimulator, ts: str) -> list[dict[str, Any]]:
    return [file for message in slack.messages("#general", ts) for file in message.get("files", [])]


async def test_a_sent_file_appears_in_the_thread_once(flow: Flow, path: Path) -> None:
    ts, process = await at_work(flow)
    process.say(ToolStarted("t1", SEND_FILE, {"path": "chart.png"}))
    place = hand_over(path, process.name, "t1", title="<Sales> & more", comment="Look, <!channel>")
    assert await until(lambda: reply_in(place)) == {"error": None}
    (file,) = pictures(flow.slack, ts)
    assert (file["name"], file["title"], file["mimetype"]) == ("chart.png", "<Sales> & more", "image/png")
    assert flow.slack.workspace.files[file["id"]].content == PNG
    message = next(m for m in flow.slack.messages("#general", ts) if m.get("files"))
    assert flow.slack.visible_text(message).startswith("Look, <!channel>")
    assert flow.slack.pings(message) == set()
    process.say(ToolFinished("t1", ok=True, output="chart.png is in the thread."))
    process.say(Text("There it is."))
    process.end()
    await flow.shows("#general", ts, "There it is.", "tokens in")
    assert len(pictures(flow.slack, ts)) == 1
    shown = [text for text in flow.thread("#general", ts)[1:] if "Drawing" in text or "Look" in text or "There" in text]
    assert ["Drawing" in shown[0], "Look" in shown[1], "There it is." in shown[2]] == [True] * 3


async def test_several_files_and_a_tool_that_refused(flow: Flow, path: Path) -> None:
    ts, process = await at_work(flow)
    for number in (1, 2):
        process.say(ToolStarted(f"t{number}", SEND_FILE, {"path": f"{number}.png"}))
        place = hand_over(path, process.name, f"t{number}", f"{number}.png")
        await until(lambda place=place: reply_in(place))
        process.say(ToolFinished(f"t{number}", ok=True))
    process.say(ToolStarted("t3", SEND_FILE, {"path": "gone"}), ToolFinished("t3", ok=False, output="no file"))
    process.end()
    await flow.shows("#general", ts, "tokens in")
    assert [file["name"] for file in pictures(flow.slack, ts)] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("method", "after"),
    [
        ("files.getUploadURLExternal", True),
        ("upload", False),
        ("files.completeUploadExternal", False),
        ("files.completeUploadExternal", True),
    ],
)
async def test_trouble_with_slack_shows_it_once_all_the_same(flow: Flow, path: Path, method: str, after: bool) -> None:
    flow.slack.faults.reset(method, after=after)
    flow.slack.faults.fail(method, status=503, after=after)
    ts, process = await at_work(flow)
    process.say(ToolStarted("t1", SEND_FILE, {}))
    place = hand_over(path, process.name, "t1")
    assert await until(lambda: reply_in(place)) == {"error": None}
    assert len(pictures(flow.slack, ts)) == 1


async def test_claude_hears_why_slack_does_not_take_it(flow: Flow, path: Path) -> None:
    flow.slack.faults.fail("files.completeUploadExternal", error="restricted_action")
    ts, process = await at_work(flow)
    process.say(ToolStarted("t1", SEND_FILE, {}))
    place = hand_over(path, process.name, "t1")
    assert "restricted_action" in (await until(lambda: reply_in(place)))["error"]
    assert pictures(flow.slack, ts) == []


async def test_an_upload_that_slack_refuses_for_good(flow: Flow, path: Path) -> None:
    flow.slack.faults.fail("upload", status=413)
    _, process = await at_work(flow)
    process.say(ToolStarted("t1", SEND_FILE, {}))
    place = hand_over(path, process.name, "t1")
    assert await until(lambda: reply_in(place)) == {"error": "Slack does not take it (HTTP 413)."}


async def test_people_hear_of_it_when_claude_has_gone_on(flow: Flow, path: Path) -> None:
    flow.slack.faults.latency(1.5, "files.completeUploadExternal")
    flow.slack.faults.fail("files.completeUploadExternal", error="restricted_action")
    ts, process = await at_work(flow)
    process.say(ToolStarted("t1", SEND_FILE, {}))
    hand_over(path, process.name, "t1", name="a`<!channel>.png")
    await until(lambda: flow.calls("files.getUploadURLExternal"))
    process.say(ToolFinished("t1", ok=True, output="on its way"))
    await flow.shows("#general", ts, "`a'<!channel>.png` could not be shown: Slack does not let me write here")


async def test_secrets_do_not_leave_in_files(flow: Flow, path: Path) -> None:
    ts, process = await at_work(flow)
    process.say(ToolStarted("t1", SEND_FILE, {}))
    secret = "xoxb-" + "1234567890-" * 2 + "abcdefGHIJKLmnopQRSTuvwx"
    place = hand_over(path, process.name, "t1", ".env", f"TOKEN={secret}\n".encode(), comment=f"the token {secret}")
    await until(lambda: reply_in(place))
    (file,) = pictures(flow.slack, ts)
    content = flow.slack.workspace.files[file["id"]].content
    assert content is not None
    assert secret.encode() not in content
    assert all(secret not in text for text in flow.thread("#general", ts))


# ---- killed in between -------------------------------------------------------------------------------------------


async def begun(start: Start, path: Path, host: ScriptedHost, hang: str, *, after: bool) -> tuple[str, Path]:
    """A program that is killed while that call of it has no answer."""
    async with start(flush=False, call_seconds=30) as flow:
        ts, process = await at_work(flow)
        flow.slack.faults.hang(hang, after=after)
        slack, place = flow.slack, path / process.name / "run" / "outgoing" / "t1"
        process.say(ToolStarted("t1", SEND_FILE, {"path": "chart.png"}))
        hand_over(path, process.name, "t1")
        await until(lambda: any(call.method == hang for call in slack.calls))
        if after and hang == "files.completeUploadExternal":
            await until(lambda: pictures(flow.slack, ts))
    return ts, place


@pytest.mark.parametrize(
    ("hang", "after"),
    [
        ("files.getUploadURLExternal", False),
        ("files.completeUploadExternal", False),
        ("files.completeUploadExternal", True),
    ],
)
async def test_a_kill_between_upload_and_note_shows_it_once(
    start: Start, path: Path, host: ScriptedHost, hang: str, after: bool
) -> None:
    ts, place = await begun(start, path, host, hang, after=after)
    async with start() as flow:
        assert await until(lambda: reply_in(place)) == {"error": None}
        assert len(pictures(flow.slack, ts)) == 1
        (process,) = host.processes.values()
        process.say(ToolFinished("t1", ok=True))
        process.end()
        await flow.shows("#general", ts, "tokens in")
        assert len(pictures(flow.slack, ts)) == 1
        async with flow.db.read() as connection:
            (row,) = (await connection.execute(sa.select(files))).all()
        assert row.state == "shared"


async def test_a_file_that_was_left_behind_is_found_by_the_sweep(start: Start, path: Path, host: ScriptedHost) -> None:
    ts, place = await begun(start, path, host, "files.completeUploadExternal", after=False)
    async with start(flush=False) as flow:
        # Its turn is over and shown, so nothing tells of it any more; and who had claimed it is gone.
        async with flow.db.transaction() as connection:
            await connection.execute(sa.update(files).values(until=None))
        assert await until(lambda: reply_in(place)) == {"error": None}
        assert len(pictures(flow.slack, ts)) == 1


# ---- long outputs ------------------------------------------------------------------------------------------------


async def test_the_whole_output_of_a_tool_as_a_snippet(flow: Flow) -> None:
    await flow.sessions.options.set("workspace", "", "level", "verbose", "U1")
    ts, process = await at_work(flow)
    output = "\n".join(f"line {n}" for n in range(200))
    process.say(ToolStarted("b1", "Bash", {"command": "seq 200"}), ToolFinished("b1", ok=True, output=output))
    process.end()
    await flow.shows("#general", ts, "Full output", "tokens in")
    message = next(m for m in flow.slack.messages("#general", ts) if "Full output" in flow.slack.visible_text(m))
    await flow.slack.click("jonas", message, "full_output")
    (file,) = await until(lambda: pictures(flow.slack, ts))
    assert (file["name"], file["title"], file["mimetype"]) == ("output.txt", "Bash seq 200", "text/plain")
    assert flow.slack.workspace.files[file["id"]].content == (output + "\n").encode()


async def test_a_double_click_uploads_the_output_once(flow: Flow) -> None:
    ts, process = await at_work(flow)
    process.say(ToolStarted("b1", "Bash", {"command": "true"}), ToolFinished("b1", ok=True, output="fine"))
    process.end()
    await flow.shows("#general", ts, "tokens in")
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    presses = [{"value": f"{turn.id} b1", "action_ts": moment} for moment in ("17.5", "17.7")]
    said: list[str] = []

    async def respond(text: str, **_options: Any) -> None:
        said.append(text)

    await asyncio.gather(*(give(flow.door, press, respond) for press in presses))
    assert (len(flow.calls("files.completeUploadExternal")), said) == (1, [])


def test_a_snippet_says_when_its_beginning_is_missing() -> None:
    assert snippet("a\nb") == "a\nb\n"
    cut = snippet("x" * 29_998 + "\ny")
    assert cut == "[… what came before was not kept]\ny\n"
