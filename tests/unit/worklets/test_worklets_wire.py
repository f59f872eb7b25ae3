"""The CLI's lines, as recorded from the real one (recorded/record.py), and as described by hand where they are rare."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from worklets.claude import claude_command, claude_env
from worklets.details import PATCH, details
from worklets.errors import NoCredential
from worklets.events import (
    AgentEvent,
    AgentReady,
    Asked,
    AskWithdrawn,
    ModeChanged,
    PreviewVoided,
    PromptTaken,
    Retrying,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
    TurnEnded,
)
from worklets.slash import is_command
from worklets.wire import Decoder, allow_line, deny_line, interrupt_line, prompt_line

RECORDED = Path(__file__).parent / "recorded"


def lines(case: str) -> list[bytes]:
    return (RECORDED / f"{case}.jsonl").read_bytes().splitlines()


def decoded(case: str) -> list[AgentEvent]:
    decoder = Decoder()
    return [event for line in lines(case) for event in decoder.feed(line)]


ALLOW_TOUCH = {
    "type": "addRules",
    "behavior": "allow",
    "rules": [{"toolName": "Bash", "ruleContent": "touch x *"}],
}


def feed(*messages: dict[str, Any]) -> list[AgentEvent]:
    decoder = Decoder()
    return [event for message in messages for event in decoder.feed(json.dumps(message))]


def of(kind: type[Any], events: list[AgentEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def shown(events: list[AgentEvent]) -> str:
    """What a reader sees at the end: committed text, and preview that is neither committed nor void."""
    committed, preview = "", ""
    for event in events:
        match event:
            case TextDelta(text):
                preview += text
            case PreviewVoided():
                preview = ""
            case Text(text):
                committed, preview = committed + text, ""
    return committed + preview


def test_text() -> None:
    events = decoded("text")
    assert shown(events) == "Hello there, this is the answer."
    assert "".join(delta.text for delta in of(TextDelta, events)) == "Hello there, this is the answer."
    assert [taken.state for taken in of(PromptTaken, events)] == ["queued", "started", "completed"]
    (ready,) = of(AgentReady, events)
    assert ready.version == "2.1.329"
    (ended,) = of(TurnEnded, events)
    assert ended.outcome == "done"
    assert ended.error is None
    assert ended.prompt_ids == (of(PromptTaken, events)[0].prompt_id,)
    assert ended.duration > 0
    assert ended.usage.input_tokens > 0
    assert ended.usage.cost > 0


def test_thinking_and_tools() -> None:
    events = decoded("thinking_tools")
    assert [t.text for t in of(Thinking, events)] == ["", "let me see"]
    started, finished = of(ToolStarted, events), of(ToolFinished, events)
    assert [s.name for s in started] == ["Bash", "Bash", "Write", "Read", "Write"]
    assert [s.tool_id for s in started] == [f.tool_id for f in finished]
    assert started[0].input["command"] == "echo one; echo two"
    assert [(f.ok, f.details) for f in finished] == [
        (True, {"exit_code": 0}),
        (False, {"exit_code": 3}),
        (True, {"added": 1, "removed": 0, "path": "a.txt", "patch": "@@ -0,0 +1,1 @@\n+first line"}),
        (True, {"lines": 1}),
        (True, {"added": 1, "removed": 1, "path": "a.txt", "patch": finished[4].details["patch"]}),
    ]
    no_newline = "\\ No newline at end of file"
    assert finished[4].details["patch"].splitlines() == [
        "@@ -1,1 +1,1 @@", "-first line", no_newline, "+second line", no_newline,
    ]  # fmt: skip
    assert finished[0].output == "one\ntwo"
    assert shown(events) == "Looking.done"


def test_what_a_search_found() -> None:
    found = [f.details for f in of(ToolFinished, decoded("searches"))][2:]
    assert found == [
        {"hits": 1, "unit": "file"},
        {"hits": 2, "unit": "line"},
        {"hits": 2, "unit": "match"},
        {"hits": 0, "unit": "file"},
    ]


def test_the_checklist() -> None:
    assert [f.details for f in of(ToolFinished, decoded("checklist"))] == [
        {"task": {"id": "1", "subject": "First"}},
        {"task": {"id": "2", "subject": "Second"}},
        {"task": {"id": "1", "subject": "First", "status": "completed"}},
        {},  # there is no such task
        {
            "tasks": [
                {"id": "1", "subject": "First", "status": "completed"},
                {"id": "2", "subject": "Second", "status": "pending"},
            ]
        },
    ]


def test_a_checklist_goes_on_in_the_next_turn() -> None:
    decoder = Decoder()
    text = (RECORDED / "checklist.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        decoder.feed(line)

    def update(key: str, status: str) -> dict[str, Any]:
        change = {"taskId": key, "success": True, "statusChange": {"from": "pending", "to": status}}
        block = {"type": "tool_result", "tool_use_id": "t", "content": "Updated"}
        line = {"type": "user", "message": {"content": [block]}, "tool_use_result": change}
        (finished,) = decoder.feed(json.dumps(line))
        assert isinstance(finished, ToolFinished)
        return finished.details

    second = {"id": "2", "subject": "Second"}
    assert update("2", "in_progress") == {
        "task": {**second, "status": "in_progress"},
        "known": [{"id": "1", "subject": "First", "status": "completed"}],
    }
    assert update("2", "completed") == {"task": {**second, "status": "completed"}}, "the others are told once a turn"
    decoder.feed(json.dumps({"type": "result", "subtype": "success"}))
    assert update("1", "pending") == {"task": {"id": "1", "status": "pending"}}, "a list that is done is over"
    assert update("1", "deleted") == {"task": {"id": "1", "status": "deleted"}}


def test_a_sub_agent() -> None:
    events = decoded("agent")
    agent, *inner = of(ToolStarted, events)
    assert agent.name == "Agent"
    assert [(tool.name, tool.parent) for tool in inner] == [("Bash", agent.tool_id), ("Read", agent.tool_id)]
    ended = {f.tool_id: f for f in of(ToolFinished, events)}
    assert [ended[tool.tool_id].ok for tool in inner] == [True, False]
    told = ended[agent.tool_id].details
    assert (told["tools"], set(told)) == (2, {"tools", "tokens", "seconds"})


def test_a_patch_is_kept_bounded() -> None:
    lines = [f"+{'x' * 5_000}"] * 100
    hunk = {"oldStart": 1, "oldLines": 0, "newStart": 1, "newLines": 100, "lines": lines}
    known = details({"filePath": "a", "structuredPatch": [hunk]}, "", True)
    assert known["added"] == 100
    assert known["patch"].splitlines()[1:] == ["+… (5,001 characters)"] * 100
    words = {**hunk, "lines": [f"+{'some words and a key' * 25} {'s' * 200}"] * 100}
    known = details({"filePath": "a", "structuredPatch": [words]}, "", True)
    assert "sss" not in known["patch"], "half a secret would not be known for one"
    assert len(known["patch"]) <= PATCH
    assert known["patch_cut"] + len(known["patch"].splitlines()) == 101


def test_what_is_cut_holds_no_half_of_a_secret() -> None:
    known = details({"task": {"id": "1", "subject": f"{'word ' * 58}{'s' * 40}"}}, "", True)
    assert known["task"]["subject"].startswith("word word")
    assert "s" not in known["task"]["subject"].replace("characters", "")
    hunk = {"oldStart": 1, "oldLines": 0, "newStart": 1, "newLines": 1, "lines": ["+a"]}
    path = f"/{'long/' * 58}{'s' * 40}"
    assert details({"filePath": path, "structuredPatch": [hunk]}, "", True)["path"] == path
    assert "sss" not in details({"filePath": f"{path}{'s' * 5_000}", "structuredPatch": [hunk]}, "", True)["path"]


def test_what_the_web_answered() -> None:
    results = [{"tool_use_id": "t", "content": [{"title": "a", "url": "b"}] * 3}, "a text"]
    assert details({"query": "q", "results": results}, "", True) == {"hits": 3, "unit": "result"}
    assert details({"url": "u", "code": 404, "bytes": 3}, "", True) == {"status": 404}


def test_two_turns_have_their_own_cost() -> None:
    first, second = of(TurnEnded, decoded("two_turns"))
    assert first.prompt_ids != second.prompt_ids
    assert first.usage.cost == pytest.approx(second.usage.cost, rel=0.2)


def test_an_interrupt_keeps_what_was_said() -> None:
    events = decoded("interrupt")
    assert [ended.outcome for ended in of(TurnEnded, events)] == ["interrupted", "done"]
    assert [text.text for text in of(Text, events)] == ["word1 word2 word3 word4 word5", "after"]
    assert of(TurnEnded, events)[0].usage.output_tokens > 0


def test_an_interrupted_tool_says_so_without_the_words_for_the_model() -> None:
    (finished,) = of(ToolFinished, decoded("interrupt_tool"))
    assert (finished.ok, finished.output, finished.details) == (False, "", {"interrupted": True})


def test_a_retry_is_told() -> None:
    events = decoded("overloaded_once")
    (retry,) = of(Retrying, events)
    assert (retry.status, retry.attempt, retry.max_attempts) == (529, 1, 10)
    assert 0 < retry.delay < 5
    assert shown(events) == "better now"


def test_a_cut_connection_voids_the_preview() -> None:
    events = decoded("cut")
    assert len(of(PreviewVoided, events)) == 1
    assert shown(events) == " ".join(f"word{i}" for i in range(1, 31)) + "\nend"


def test_a_refused_credential_is_a_failure_though_flow_interrupted_it() -> None:
    (ended,) = of(TurnEnded, decoded("refused"))
    assert ended.outcome == "failed"
    assert "ANTHROPIC_API_KEY" in ended.error


def test_an_api_error_is_worded() -> None:
    (ended,) = of(TurnEnded, decoded("bad_request"))
    assert ended.outcome == "failed"
    assert "Scripted error 400" in ended.error
    assert ended.error.endswith(".")


@pytest.mark.parametrize("case", [path.stem for path in RECORDED.glob("*.jsonl")])
def test_a_decoder_that_starts_in_the_middle_commits_the_same_text(case: str) -> None:
    said = of(Text, decoded(case))
    for start in range(len(lines(case))):
        decoder, early = Decoder(), Decoder()
        before = [event for line in lines(case)[:start] for event in early.feed(line)]
        after = [event for line in lines(case)[start:] for event in decoder.feed(line)]
        assert of(Text, before) + of(Text, after) == said
        committed = "".join(text.text for text in of(Text, after))
        assert shown(after) == committed  # no preview is left over


RESULT = {"type": "result", "subtype": "success", "is_error": True, "terminal_reason": "api_error", "result": "Oh. No."}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"api_error_status": 401}, "credential"),
        ({"api_error_status": 401, "result": f"API Error: 401 {NoCredential().sentence()}"}, "is configured. Set"),
        ({"api_error_status": 502, "result": "API Error: 502 Flow cannot reach the model at x"}, "not be reached. C"),
        ({"api_error_status": 429}, "rate limit"),
        ({"api_error_status": 529}, "overloaded"),
        ({"api_error_status": 502}, "status 502"),
        ({"api_error_status": None}, "could not be reached (Oh. No)"),
        ({"terminal_reason": "prompt_too_long", "api_error_status": 400}, "too long"),
        ({"terminal_reason": "budget_exhausted", "subtype": "error_max_budget_usd"}, "spending limit"),
        ({"stop_reason": "refusal", "api_error_status": None}, "declined"),
        ({"terminal_reason": None, "result": None, "errors": ["odd thing"]}, "odd thing"),
    ],
)
def test_failures_are_sentences_for_people(result: dict[str, Any], words: str) -> None:
    (ended,) = feed(RESULT | result)
    assert isinstance(ended, TurnEnded)
    assert ended.outcome == "failed"
    assert ended.error is not None
    assert words in ended.error
    assert ended.error.endswith(".")


def test_the_kind_of_the_clis_own_message_counts_where_the_status_is_silent() -> None:
    synthetic = {"type": "assistant", "error": "billing_error", "message": {"model": "<synthetic>", "id": "x",
                 "content": [{"type": "text", "text": "Credit balance is too low"}]}}  # fmt: skip
    (ended,) = feed(synthetic, RESULT | {"api_error_status": 400})
    assert isinstance(ended, TurnEnded)
    assert "credit" in (ended.error or "")


def test_an_unknown_price_is_none_and_sub_agents_count() -> None:
    usage = {"a": {"inputTokens": 1, "outputTokens": 2, "costUSD": 0.5}, "b": {"inputTokens": 10, "costUSD": 0.25}}
    (priced,) = feed({"type": "result", "model_usage_since_last_result": usage})
    assert isinstance(priced, TurnEnded)
    assert (priced.usage.input_tokens, priced.usage.output_tokens, priced.usage.cost) == (11, 2, 0.75)
    (unpriced,) = feed({"type": "result", "model_usage_since_last_result": usage | {"c": {"inputTokens": 1}}})
    assert isinstance(unpriced, TurnEnded)
    assert unpriced.usage.cost is None


def test_a_sub_agents_tools_have_a_parent_and_its_text_is_not_ours() -> None:
    call = {"type": "tool_use", "id": "t2", "name": "Read", "input": {"file_path": "a"}}
    message = {"id": "m", "model": "x", "content": [{"type": "text", "text": "inner"}, call]}
    result = {"content": [{"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "abc"}]}]}
    assert feed(
        {"type": "assistant", "parent_tool_use_id": "t1", "message": message},
        {"type": "user", "parent_tool_use_id": "t1", "message": result},
    ) == [ToolStarted("t2", "Read", {"file_path": "a"}, "t1"), ToolFinished("t2", True, "abc", {}, "t1")]


def test_only_the_end_of_a_long_output_is_kept() -> None:
    result = {"content": [{"type": "tool_result", "tool_use_id": "t", "content": "a" * 40_000 + "end"}]}
    (finished,) = feed({"type": "user", "message": result})
    assert isinstance(finished, ToolFinished)
    assert len(finished.output) == 30_000
    assert finished.output.endswith("end")


BY_RULE = {"decision_reason_type": "rule"}


def asked(**request: Any) -> Asked:
    known = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "x"}, "tool_use_id": "t"}
    (event,) = feed({"type": "control_request", "request_id": "r", "request": {**known, **request}})
    assert isinstance(event, Asked)
    return event


def test_asks() -> None:
    assert asked() == Asked("r", "Bash", {"command": "x"}, "t", ("Bash(x)",))
    assert feed({"type": "control_cancel_request", "request_id": "r"}) == [AskWithdrawn("r")]


@pytest.mark.parametrize(
    ("request_", "rules"),
    [
        ({"permission_suggestions": [ALLOW_TOUCH, {"type": "setMode", "mode": "acceptEdits"}]}, ("Bash(touch x *)",)),
        ({"tool_name": "Write", "input": {"file_path": "a"}}, ("Edit", "Write")),
        ({"tool_name": "WebFetch", "input": {}}, ("WebFetch",)),
        ({"input": {"command": "rm *"}}, ()),  # the star would stand for anything
        ({"input": {"command": "one\ntwo"}}, ()),
        ({"tool_name": "ExitPlanMode", "input": {}, "requires_user_interaction": True}, ()),
        (BY_RULE | {"tool_name": "Edit", "input": {"file_path": "/w/.github/x.yml"}}, ("Edit(//w/.github/x.yml)",)),
        (BY_RULE | {"tool_name": "Write", "input": {"file_path": "/w/.github/x.yml"}}, ("Edit(//w/.github/x.yml)",)),
        (BY_RULE | {"tool_name": "Read", "input": {"file_path": "/w/.env"}}, ("Read(//w/.env)",)),
        (BY_RULE | {"tool_name": "Edit", "input": {"file_path": "/w/*"}}, ()),
        (BY_RULE | {"tool_name": "WebFetch", "input": {"url": "https://example.com"}}, ()),
    ],
)
def test_rules_that_would_let_a_call_through(request_: dict[str, Any], rules: tuple[str, ...]) -> None:
    assert asked(**request_).suggestions == rules


def test_asks_that_our_own_rules_made() -> None:
    assert asked(decision_reason_type="rule").by_rule
    assert asked(matched_ask_rule={"source": "flagSettings"}).by_rule
    assert not asked(decision_reason_type="mode").by_rule


def test_the_mode_is_told_when_it_changes() -> None:
    def status(mode: str | None) -> dict[str, Any]:
        return {"type": "system", "subtype": "status", "status": None, "permissionMode": mode}

    assert feed(status("plan"), status("plan"), status(None), status("default")) == [
        ModeChanged("plan"),
        ModeChanged("default"),
    ]


@pytest.mark.parametrize("line", ["", "no json", "[1]", "null", '{"type":"news"}', '{"type":"system","subtype":"new"}'])
def test_noise(line: str) -> None:
    assert Decoder().feed(line) == []


TEXT = '{"type":"assistant","message":{"content":[{"type":"text","text":"fine"}]}}'
TOOL = '{"type":"assistant","message":{"content":[{"type":"tool_use","id":%s,"name":"Bash","input":%s}]}}'


@pytest.mark.parametrize(
    "line",
    [
        '{"type":["unhashable"]}',
        '{"type":"assistant"}',
        '{"type":"assistant","message":{"content":["text"]}}',
        '{"type":"assistant","message":{"content":[{"type":"text","text":{}}]}}',
        '{"type":"user","message":"said"}',
        '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":7}]}}',
        '{"type":"stream_event","event":{"type":"content_block_delta"}}',
        '{"type":"stream_event","event":[]}',
        '{"type":"system","subtype":"init"}',
        '{"type":"system","subtype":"init","session_id":{},"model":null}',
        '{"type":"system","subtype":"api_retry","retry_delay_ms":"soon"}',
        '{"type":"command_lifecycle"}',
        '{"type":"control_request","request":{"subtype":"can_use_tool"}}',
        '{"type":"result","duration_ms":"long"}',
        TOOL % ('"t"', "[1]"),
        TOOL % ("[]", "{}"),
        TOOL % ('"t"', '{"deep":' + "[" * 400 + "]" * 400 + "}"),
        "[" * 100_000,
    ],
)
def test_a_line_without_sense_is_noise(line: str) -> None:
    decoder = Decoder()
    assert decoder.feed(line) == []
    assert decoder.feed(line.encode()) == []
    assert decoder.feed(TEXT) == [Text("fine")]


def test_lines_without_sense_are_told_of_once_and_without_their_content() -> None:
    decoder = Decoder()
    with capture_logs() as logs:
        for _ in range(3):
            decoder.feed('{"type":"assistant","message":"secret"}')
    assert [(log["log_level"], log["why"]) for log in logs] == [("warning", "AttributeError")]
    assert "secret" not in str(logs)


@pytest.mark.parametrize(
    ("spelt", "text"),
    [
        (rb"cut \ud83d", "cut \ufffd"),
        (rb"cut \uDE00 twice \ud83d!", "cut \ufffd twice \ufffd!"),
        (rb"whole \ud83d\ude00", "whole \U0001f600"),
        (rb"no escape: \\ud83d", "no escape: \\ud83d"),
        (b"raw \xed\xa0\xbd", "raw \ufffd\ufffd\ufffd"),
    ],
)
def test_half_an_emoji_is_replaced(spelt: bytes, text: str) -> None:
    (told,) = Decoder().feed(TEXT.encode().replace(b"fine", spelt))
    assert told == Text(text)


def test_input_lines() -> None:
    prompt = prompt_line("u", "clear @/etc/passwd")
    assert prompt["uuid"] == "u"
    assert prompt["client_composed"] is True
    assert prompt["message"] == {"role": "user", "content": "clear @/etc/passwd"}
    assert interrupt_line("r")["request"] == {"subtype": "interrupt", "cancel_queued": True}
    assert deny_line("r", "no")["response"]["response"] == {"behavior": "deny", "message": "no"}
    assert allow_line("r", {"a": 1})["response"]["response"] == {"behavior": "allow", "updatedInput": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/compact", True),
        ("/compact focus on the tests", True),
        ("/review\nthe second line", True),
        ("/etc/hosts is broken", False),
        ("/ what", False),
        ("please /compact", False),
        ("/Users is gone", False),
        ("/tmp is full, see the screenshot", False),
        ("/home", False),
    ],
)
def test_the_clis_own_commands_are_not_given_as_written_text(text: str, command: bool) -> None:
    line = prompt_line("u", text)
    assert ("client_composed" not in line) is command
    assert line["message"]["content"] == text
    assert is_command(text) is command


def test_a_command_that_comes_with_something_is_a_prompt() -> None:
    line = prompt_line("u", "/review", ["[a file]"])
    assert line["client_composed"]
    assert [block["text"] for block in line["message"]["content"]] == ["[a file]", "/review"]


def test_what_the_clis_commands_answer_is_text() -> None:
    said = [event for event in decoded("commands") if isinstance(event, Text | AgentReady | TurnEnded)]
    texts = [event.text for event in said if isinstance(event, Text)]
    assert texts[0] == "hello"
    assert texts[1].startswith("## Context Usage")
    assert re.fullmatch(r"Compacted the conversation: [\d,]+ tokens became [\d,]+\.", texts[2])
    assert texts[3].startswith("The conversation begins anew")
    assert texts[4].startswith("I remember:")
    assert "hello" not in texts[4]
    conversations = [event.claude_session_id for event in said if isinstance(event, AgentReady)]
    assert len(set(conversations[:3])) == 1, "compacting goes on in the same conversation"
    assert len(set(conversations)) == 2
    assert conversations[-1] != conversations[0]
    assert {event.outcome for event in said if isinstance(event, TurnEnded)} == {"done"}


def test_a_compaction_that_nobody_asked_for_is_not_told() -> None:
    line = '{"type":"system","subtype":"compact_boundary","compact_metadata":{"trigger":"auto","pre_tokens":9}}'
    assert Decoder().feed(line) == []
    assert Decoder().feed(line.replace("auto", "manual")) == [Text("Compacted the conversation.")]


def test_the_command_lets_no_option_in_through_a_value() -> None:
    command = claude_command("id", model="--evil", append_system_prompt="--bad")
    assert "--model=--evil" in command
    assert "--append-system-prompt=--bad" in command
    assert not any(word in ("--model", "--append-system-prompt") for word in command)


def test_the_environment_of_the_session_cannot_replace_flows() -> None:
    env = claude_env("token", {"ANTHROPIC_API_KEY": "stolen", "GIT_REPO": "x"})
    assert env["ANTHROPIC_API_KEY"] == "token"
    assert env["GIT_REPO"] == "x"
