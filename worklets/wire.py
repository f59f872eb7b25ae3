"""The CLI's stream-json protocol: one output line → `AgentEvent`s; what Flow says → an input line. Pure.

Held to CLI 2.1.329 by recordings of it (tests/unit/worklets/recorded). Lines and fields that are not known
here are noise: the CLI adds some with every version.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from config.logging import get_logger
from config.units import format_size
from worklets import failures
from worklets.details import TaskMemory, details
from worklets.events import (
    AgentEvent,
    AgentReady,
    Asked,
    AskWithdrawn,
    DiskFull,
    ModeChanged,
    PreviewVoided,
    PromptTaken,
    Remark,
    Retrying,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
    TurnEnded,
)
from worklets.lines import is_sound, parse
from worklets.permissions import by_rule, suggested
from worklets.pictures import Picture
from worklets.slash import is_command
from worklets.usage import Spending, of_result

log = get_logger(__name__)

_TAIL = 600  # characters of a startup script's output that the thread is shown

MOST_OUTPUT = 30_000  # characters kept of a tool's output: as many as the CLI gives to the model
_SYNTHETIC = "<synthetic>"  # the model's name in a message that the CLI wrote itself
_TOO_LONG = "Something that Claude's process said was longer than I can take in, and was dropped."
_RESET = "The conversation begins anew: I have forgotten what was said before. The workspace stays as it is."
_INTERRUPTED = ("aborted_streaming", "aborted_tools")
_STOPPED = "The user doesn't want to proceed"  # how the CLI tells the model of an interrupt: not for people

Line = dict[str, Any]


class Decoder:
    """Turns the lines of one process, in order, into events. May start anywhere in the middle.

    Streamed text is a preview: it counts only when the `assistant` line of its block arrives. A repeated API
    call leaves a preview that never gets one.
    """

    def __init__(self) -> None:
        self._message: str | None = None  # id of the message being streamed
        self._spending = Spending()
        self._mode: str | None = None  # the permission mode, as far as it was told
        self._preview = False  # preview text was told that is neither committed nor void
        self._error_kind: str | None = None
        self._refused = False  # the API refused the credential in this turn
        self._warned = False
        self._tasks = TaskMemory()
        self._by_type: dict[str, Callable[[Line], list[AgentEvent]]] = {
            "stream_event": self._stream_event,
            "assistant": self._assistant,
            "user": self._user,
            "system": self._system,
            "result": self._result,
            "command_lifecycle": self._lifecycle,
            "conversation_reset": lambda _line: [Text(_RESET)],
            "control_request": self._control_request,
            "control_cancel_request": self._control_cancel,
            "flow_startup": lambda line: [_startup(line["script"], line["failed"], line["tail"])],
            "relay_line_too_long": lambda _line: [Remark(_TOO_LONG)],
            "relay_scarce": lambda line: [_scarce(line["what"], line["limit"])],
            "relay_disk": lambda line: [
                _disk(
                    line["used"],
                    line["limit"],
                    full=line["full"] is True,
                    measured=line.get("measured") is not False,
                    crowded=line.get("crowded") is True,
                )
            ],
        }

    def feed(self, line: bytes | str) -> list[AgentEvent]:
        """A line of a shape that the CLI does not write is noise too: the agent can forge lines."""
        message = parse(line)
        try:
            decode = self._by_type.get(message.get("type", ""))
            events = decode(message) if decode else []
            if all(map(is_sound, events)):
                return events
            why = "a field has another type"
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = type(error).__name__
        if not self._warned:
            self._warned = True
            log.warning("Claude wrote a line that Flow cannot make sense of; such lines are passed over", why=why)
        return []

    def _stream_event(self, line: Line) -> list[AgentEvent]:
        event = line.get("event") or {}
        kind = event.get("type")
        if line.get("parent_tool_use_id"):
            return []
        if kind == "message_delta":
            return self._spending.ended(event)
        if kind == "content_block_delta":
            text = event["delta"].get("text", "") if event["delta"].get("type") == "text_delta" else ""
            self._preview = self._preview or bool(text)
            return [TextDelta(text)] if text else []
        if kind == "message_start":
            self._message = event["message"].get("id")
            self._spending.began(event["message"])
            return self._void()
        if kind == "content_block_start" and event["content_block"].get("type") == "thinking":
            return [Thinking()]
        return []

    def _void(self) -> list[AgentEvent]:
        had, self._preview = self._preview, False
        return [PreviewVoided()] if had else []

    def _assistant(self, line: Line) -> list[AgentEvent]:
        message, parent = line["message"], line.get("parent_tool_use_id")
        if message.get("model") == _SYNTHETIC:
            self._error_kind = line.get("error")
            return [] if self._error_kind else _answers(message)
        blocks = message.get("content") or []
        if parent:
            spent = self._spending.of_subagent(message)
            return spent + [_tool_started(block, parent) for block in blocks if block.get("type") == "tool_use"]
        events: list[AgentEvent] = []
        is_other = self._message is not None and message.get("id") != self._message
        if is_other and not any(block.get("type") == "text" for block in blocks):
            events += self._void()  # the message that was streamed has been given up
        for block in blocks:
            events += self._block(block)
        return events

    def _block(self, block: Line) -> list[AgentEvent]:
        match block.get("type"):
            case "text":
                self._preview = False
                return [Text(block["text"])]
            case "thinking" if block.get("thinking"):
                return [Thinking(block["thinking"])]
            case "tool_use":
                return [_tool_started(block, None)]
        return []

    def _user(self, line: Line) -> list[AgentEvent]:
        content = line["message"].get("content")
        blocks = content if isinstance(content, list) else []
        finished = [_tool_finished(block, line) for block in blocks if block.get("type") == "tool_result"]
        for event in finished:
            self._tasks.complete(event.details)
        return [*finished]

    def _system(self, line: Line) -> list[AgentEvent]:
        if line.get("subtype") == "init":
            ready = AgentReady(line["session_id"], line.get("model", ""), line.get("claude_code_version", ""))
            return [*self._mode_of(line), ready]
        if line.get("subtype") == "status":
            return self._mode_of(line)
        if line.get("subtype") == "compact_boundary":
            return _compacted(line.get("compact_metadata") or {})
        if line.get("subtype") != "api_retry":
            return []
        status = line.get("error_status")
        self._refused = self._refused or status == 401
        delay = (line.get("retry_delay_ms") or 0) / 1000
        error = str(line.get("error") or "")
        return [Retrying(line.get("attempt") or 0, line.get("max_retries") or 0, delay, status, error)]

    def _mode_of(self, line: Line) -> list[AgentEvent]:
        mode = line.get("permissionMode")
        if mode is None or mode == self._mode:
            return []
        self._mode = mode
        return [ModeChanged(mode)]

    def _result(self, line: Line) -> list[AgentEvent]:
        kind, refused = self._error_kind, self._refused
        self._error_kind, self._refused = None, False
        self._tasks.turn_ended()
        ended = TurnEnded(
            outcome="done",
            prompt_ids=tuple(map(str, line.get("user_message_uuids") or ())),
            usage=of_result(line),
            duration=(line.get("duration_ms") or 0) / 1000,
        )
        if line.get("is_error"):
            interrupted = line.get("terminal_reason") in _INTERRUPTED
            if interrupted and not refused:
                ended = _ended(ended, "interrupted", None)
            else:
                ended = _ended(ended, "failed", failures.AUTHENTICATION if refused else failures.describe(line, kind))
        return [*self._void(), ended]

    def _lifecycle(self, line: Line) -> list[AgentEvent]:
        return [PromptTaken(line["command_uuid"], line["state"])]

    def _control_request(self, line: Line) -> list[AgentEvent]:
        request = line.get("request") or {}
        if request.get("subtype") != "can_use_tool":
            return []
        tool, arguments = request.get("tool_name", ""), request.get("input") or {}
        asked = Asked(line["request_id"], tool, arguments, request.get("tool_use_id", ""))
        return [replace(asked, suggestions=suggested(request), by_rule=by_rule(request))]

    def _control_cancel(self, line: Line) -> list[AgentEvent]:
        return [AskWithdrawn(line["request_id"])]


def _answers(message: Line) -> list[AgentEvent]:
    """What the CLI itself says to one of its commands, such as `/context`."""
    blocks = message.get("content") or []
    return [Text(block["text"]) for block in blocks if block.get("type") == "text" and block["text"].strip()]


def _compacted(done: Line) -> list[AgentEvent]:
    """Only when people asked for it: what the CLI does by itself in the middle of a turn changes nothing for them."""
    if done.get("trigger") != "manual":
        return []
    before, after = done.get("pre_tokens"), done.get("post_tokens")
    if not isinstance(before, int) or not isinstance(after, int):
        return [Text("Compacted the conversation.")]
    return [Text(f"Compacted the conversation: {before:,} tokens became {after:,}.")]


def _tool_started(block: Line, parent: str | None) -> ToolStarted:
    return ToolStarted(block["id"], block.get("name", ""), block.get("input") or {}, parent)


def _tool_finished(block: Line, line: Line) -> ToolFinished:
    output = _plain(block.get("content"))
    ok = not block.get("is_error")
    if not ok and output.startswith(_STOPPED):
        return ToolFinished(block["tool_use_id"], ok, "", {"interrupted": True}, line.get("parent_tool_use_id"))
    known = details(line.get("tool_use_result"), output, ok)
    return ToolFinished(block["tool_use_id"], ok, output[-MOST_OUTPUT:], known, line.get("parent_tool_use_id"))


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [block.get("text", f"[{block.get('type')}]") for block in content or []]
    return "\n".join(parts)


def _ended(ended: TurnEnded, outcome: Any, error: str | None) -> TurnEnded:
    return TurnEnded(outcome, ended.prompt_ids, ended.usage, ended.duration, error)


def _scarce(what: str, limit: int) -> AgentEvent:
    """What the relay says of the worklet's memory and processes."""
    if not 0 < limit < 1 << 60:
        raise ValueError("limit")
    if what == "memory":
        told = f"A program in this thread's workspace was ended, because its memory is full ({format_size(limit)})"
        return Remark(f"{told}. An administrator can allow more (FLOW_WORKLET_MEMORY).")
    return Remark(
        f"All {int(limit)} processes of this thread's workspace are taken, so programs in it fail. An administrator "
        "can allow more (FLOW_WORKLET_PIDS)."
    )


def _disk(used: int, limit: int, *, full: bool, measured: bool, crowded: bool) -> AgentEvent:
    """What the relay says of the worklet's disk."""
    if full:
        return DiskFull(used, limit, measured, crowded)
    told = f"{format_size(used)} of {format_size(limit)} are used in this thread's workspace"
    if used >= limit:
        return Remark(f"{told}: delete what is not needed. If it grows further, I have to stop.")
    return Remark(f"{told}. At {format_size(limit)} I have to stop.")


def _startup(script: str, failed: str, tail: str) -> Remark:
    """What worklets/image/startup.py says of a script that failed."""
    shown = tail.strip()[-_TAIL:].replace("```", "ˋˋˋ")
    said = f" Its output ended with:\n```\n{shown}\n```" if shown else ""
    return Remark(f"The startup script {script[:64]} failed: {failed[:200]}. Claude goes on without it.{said}")


def prompt_line(prompt_id: str, text: str, context: Sequence[str] = (), pictures: Sequence[Picture] = ()) -> Line:
    """A person's words, as they wrote them: no slash commands, and no `@file` that would read a file unasked.

    `context` is what Claude should know first, and `pictures` see, as blocks of the same message: the CLI would take a
    line of its own (`shouldQuery:false`) in a resumed conversation as the answer to the prompt before it. The CLI runs
    a `prompt_id` (a uuid) once, however often it comes. A command of the CLI (worklets/slash.py) goes out so that it is
    read as one, unless something else goes with it.
    """
    if is_command(text) and not context and not pictures:
        message = {"role": "user", "content": text}
        return {"type": "user", "uuid": prompt_id, "parent_tool_use_id": None, "message": message}
    blocks = [*map(_text_block, context)]
    for picture in pictures:
        blocks += [_text_block(f"{picture.name}:"), _picture_block(picture)]
    return {
        "type": "user",
        "uuid": prompt_id,
        "parent_tool_use_id": None,
        "client_composed": True,
        "message": {"role": "user", "content": [*blocks, _text_block(text)] if blocks else text},
    }


def _text_block(text: str) -> Line:
    return {"type": "text", "text": text}


def _picture_block(picture: Picture) -> Line:
    data = base64.b64encode(picture.content).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": picture.media_type, "data": data}}


def interrupt_line(request_id: str, *, cancel_queued: bool = True) -> Line:
    """Ends the running turn; the session goes on."""
    return request_line(request_id, "interrupt", {"cancel_queued": cancel_queued})


def request_line(request_id: str, subtype: str, fields: Mapping[str, Any]) -> Line:
    """A control request, such as `set_model` with {"model": "opus"}."""
    return {"type": "control_request", "request_id": request_id, "request": {"subtype": subtype, **fields}}


def deny_line(request_id: str, reason: str) -> Line:
    """Answers `can_use_tool` with no; Claude is told why and goes on."""
    return _answer(request_id, {"behavior": "deny", "message": reason})


def allow_line(request_id: str, tool_input: Mapping[str, Any] | None = None, mode: str | None = None) -> Line:
    """Answers `can_use_tool` with yes: to the call as it is, or with another input; `mode` is the CLI's from then on.

    The input is left out where it stays: what Flow has of it may be masked.
    """
    response: Line = {"behavior": "allow"}
    if tool_input is not None:
        response["updatedInput"] = dict(tool_input)
    if mode is not None:
        response["updatedPermissions"] = [{"type": "setMode", "mode": mode, "destination": "session"}]
    return _answer(request_id, response)


def _answer(request_id: str, response: Line) -> Line:
    answer = {"subtype": "success", "request_id": request_id, "response": response}
    return {"type": "control_response", "response": answer}
