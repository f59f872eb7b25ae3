"""The scripted model over HTTP, as a client sees it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulator.model import ScriptedModel
from simulator.model_request import read
from simulator.model_script import HELP, CallTool, parse


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def result(text: str = "ok") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": text}]}


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "claude-test", "max_tokens": 1000, "messages": list(messages), **more}


async def ask(model: ScriptedModel, http: aiohttp.ClientSession, *messages: dict[str, Any]) -> dict[str, Any]:
    async with http.post(f"{model.url}/v1/messages", json=body(*messages)) as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def stream(model: ScriptedModel, http: aiohttp.ClientSession, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    async with http.post(f"{model.url}/v1/messages", json=body(*messages, stream=True)) as response:
        assert response.content_type == "text/event-stream"
        return [json.loads(line[6:]) async for line in response.content if line.startswith(b"data: ")]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")


async def test_say_streams_in_words(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    events = await stream(model, http, user("SAY one  two"))
    assert [e["type"] for e in events] == [
        "message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert text_of(events) == "one  two"
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens"] >= 1


async def test_tools_end_a_reply_and_the_sequence_goes_on(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    prompt = user("THINK hm\nBASH ls -l\nSAY between\nWRITE /tmp/a some text\nSAY end")
    first = await ask(model, http, prompt)
    assert [b["type"] for b in first["content"]] == ["thinking", "tool_use"]
    assert first["content"][0]["thinking"] == "hm"
    assert first["content"][0]["signature"]
    assert first["content"][1]["input"]["command"] == "ls -l"
    assert first["stop_reason"] == "tool_use"
    second = await ask(model, http, prompt, result())
    assert second["content"][0]["text"] == "between"
    assert second["content"][1]["input"] == {"file_path": "/tmp/a", "content": "some text"}
    third = await ask(model, http, prompt, result(), result())
    assert [b["text"] for b in third["content"]] == ["end"]
    assert third["stop_reason"] == "end_turn"


async def test_a_streamed_tool_call_carries_its_input_in_pieces(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    events = await stream(model, http, user("READ /etc/hostname"))
    pieces = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"file_path": "/etc/hostname"}


async def test_directives_of_reminders_and_of_earlier_prompts_do_not_count(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    merged = user(
        "ERROR 400", "[Request interrupted by user]", "SAY new", "<system-reminder>\nSAY no\n</system-reminder>"
    )
    answer = await ask(model, http, merged)
    assert [b["text"] for b in answer["content"]] == ["new"]


async def test_recall_lists_earlier_prompts(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    answer = await ask(model, http, user("my name is Ada"), user("SAY x"), user("RECALL"))
    assert answer["content"][0]["text"] == "I remember:\n1. my name is Ada\n2. SAY x"


async def test_words_and_code(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    answer = await ask(model, http, user("WORDS 3\nCODE 2"))
    text = answer["content"][0]["text"]
    assert text.startswith("word1 word2 word3\n```python\n")
    assert text.endswith("```")
    assert text.count("\n") == 4


async def test_a_counted_error_happens_so_many_times(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    prompt = user("ERROR 529 2\nSAY after")
    kinds = [(await ask(model, http, prompt)) for _ in range(3)]
    assert [k.get("error", {}).get("type") for k in kinds] == ["overloaded_error", "overloaded_error", None]
    assert kinds[2]["content"][0]["text"] == "after"


async def test_an_uncounted_error_stays(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    for _ in range(3):
        assert (await ask(model, http, user("ERROR 401")))["error"]["type"] == "authentication_error"


async def test_an_error_in_mid_stream_is_an_event(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    events = await stream(model, http, user("SAY half\nERROR 529 1"))
    assert events[-1]["error"]["type"] == "overloaded_error"


async def test_cut_breaks_the_connection_once(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    prompt = user("SAY first half\nCUT\nSAY second")
    with pytest.raises(aiohttp.ClientError):
        await stream(model, http, prompt)
    assert text_of(await stream(model, http, prompt)) == "first half\nsecond"


async def test_hold_waits_for_release(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    asked = asyncio.create_task(stream(model, http, user("SAY a\nHOLD gate\nSAY b")))
    await model.held("gate")
    assert not asked.done()
    model.release("gate")
    assert text_of(await asked) == "a\nb"


async def test_another_conversation_may_release_it(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    asked = asyncio.create_task(stream(model, http, user("HOLD gate\nSAY b")))
    await model.held("gate")
    assert text_of(await stream(model, http, user("RELEASE gate"))) == "Done."
    assert text_of(await asked) == "b"


async def test_requests_are_recorded(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{model.url}/v1/messages", json=body(user("SAY x")), headers={"X-Api-Key": "k1"}):
        pass
    (request,) = model.requests
    assert request.prompt == "SAY x"
    assert request.headers["x-api-key"] == "k1"
    assert model.prompts() == ["SAY x"]


async def test_a_wrong_key_is_refused(http: aiohttp.ClientSession) -> None:
    async with ScriptedModel(api_key="right") as model:
        for headers, status in (({"x-api-key": "no"}, 401), ({}, 401), ({"Authorization": "Bearer right"}, 200)):
            async with http.post(f"{model.url}/v1/messages", json=body(user("SAY x")), headers=headers) as response:
                assert response.status == status


async def test_count_tokens(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{model.url}/v1/messages/count_tokens", json=body(user("x" * 400))) as response:
        assert (await response.json())["input_tokens"] >= 100


async def test_the_demo_answer_uses_a_tool_then_says_what_it_is(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    first = await ask(model, http, user("help me refactor this"))
    assert [b["type"] for b in first["content"]] == ["thinking", "text", "tool_use"]
    second = await ask(model, http, user("help me refactor this"), result("a\nb"))
    text = second["content"][0]["text"]
    for part in ("scripted model", "“help me refactor this”", "2 lines", "```python", "\n- ", "### ", "HOLD <name>"):
        assert part in text


async def test_the_clis_own_requests_are_answered_plainly(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    request = body(user("SAY x\nERROR 400"), output_config={"format": {"type": "json_schema"}})
    async with http.post(f"{model.url}/v1/messages", json=request) as response:
        assert "title" in json.loads((await response.json())["content"][0]["text"])


def test_lines_that_do_not_fit_are_text() -> None:
    assert parse("WAIT for me\nSAY\nERROR of mine\nwords\nTOOL Grep {not json}") == []
    assert len(parse("please\n  SAY hi  \nWAIT 5")) == 2


def test_help_names_every_directive() -> None:
    examples = {"SAY": "SAY a", "WORDS": "WORDS 1", "CODE": "CODE 1", "THINK": "THINK a", "BASH": "BASH a",
                "WRITE": "WRITE a b", "READ": "READ a", "RECALL": "RECALL", "WAIT": "WAIT 1", "HOLD": "HOLD a",
                "RELEASE": "RELEASE a",
                "ERROR": "ERROR 500", "CUT": "CUT", "TOOL": 'TOOL Grep {"pattern": "x"}',
                "ASK": "ASK Which one? | a | b", "PLAN": "PLAN # A plan"}  # fmt: skip
    named = {line.split()[0] for line in HELP.splitlines()}
    assert named == {*examples, "SLOW"}
    assert all(parse(example) for example in examples.values())


def test_a_plan_goes_into_the_file_that_the_cli_names() -> None:
    assert [step.name for step in parse("PLAN # A\\nplan") if isinstance(step, CallTool)] == [
        "EnterPlanMode",
        "Write",
        "ExitPlanMode",
    ]
    told = "<system-reminder>write to /work/home/.claude/plans/red-fox.md only</system-reminder>"
    assert read(body(user("PLAN x"), user(told))).plan_file == "/work/home/.claude/plans/red-fox.md"
    picture = "/9j/" * 1_000_000  # base64 reads like one long path; a search from each of its slashes takes minutes
    assert read(body(user(told), user(picture))).plan_file == "/work/home/.claude/plans/red-fox.md"


def test_reading_counts_results_since_the_prompt() -> None:
    conversation = read(body(user("a"), result(), user("b"), result("x"), result("y")))
    assert (conversation.prompt, conversation.earlier, conversation.results) == ("b", ("a",), ("x", "y"))


async def test_only_whole_answers_count_as_answered(model: ScriptedModel, http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ClientError):
        await stream(model, http, user("SAY half\nCUT\nSAY whole"))
    assert len(model.requests) == 1
    assert model.answered == []
    await stream(model, http, user("SAY half\nCUT\nSAY whole"))
    assert model.answered == [model.requests[1]]
