"""What is against the law in the messages of one turn, and in the order of several. Pure."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from law_records import Records, TurnRecord
from law_shown import ROOT, Message, compact, script

#: What stands below an answer that is over.
_FINISHED = ("turn_retry", "turn_continue", "turn_copy", "turn_up", "turn_down")
_RAN = re.compile(r"\bran=(\d+)")


def of_turn(turn: TurnRecord, messages: list[Message]) -> Iterator[str]:
    for event in turn.said("ToolFinished") if not str(turn.row["source_id"]).startswith("resume:") else ():
        for times in _RAN.findall(str(event.get("output", ""))):
            if int(times) > 1:
                yield f"a command of {turn.name} ran {times} times"
    for part, count in Counter(message.part for message in messages).items():
        if count > 1:
            yield f"part {part} of {turn.name} stands {count} times in the thread"
    if turn.row["ended_at"] is None:
        return
    body = sorted((message for message in messages if message.part != ROOT), key=lambda m: m.part)
    if turn.state == "withdrawn":
        if body and not any("Taken back" in line for message in body for line in message.notes):
            yield f"{turn.name} was withdrawn, but {len(body)} of its messages stand"
        return
    if [message.part for message in body] != list(range(len(body))) or not body:
        yield f"{turn.name} shows the parts {[message.part for message in body]}"
    if [m.ts for m in body] != sorted(m.ts for m in body):
        yield f"the messages of {turn.name} are in the wrong order"
    yield from _words(turn, "".join(message.words for message in body))
    yield from _notes(turn, body)
    yield from _asks(turn, [message for message in body if message.asks])


def _words(turn: TurnRecord, shown: str) -> Iterator[str]:
    """Those of the transcript; where the turn was broken off, also a beginning of what was to come."""
    texts = [compact(event["text"]) for event in turn.said("Text")]
    stored, known = "".join(texts), script(turn.text)
    if not turn.explained:
        if shown != stored:
            yield f"{turn.name} does not show its transcript: {_difference(stored, shown)}"
        resumed = str(turn.row["source_id"]).startswith("resume:")
        if known is not None and not resumed and stored != known:
            yield f"the transcript of {turn.name} is not what the model said: {_difference(known, stored)}"
        return
    at = 0
    for text in texts:
        found = shown.find(text, at)
        if found < 0:
            yield f"{turn.name} does not show {text[:60]!r} of its transcript after {shown[:at][-30:]!r}"
            return
        if known is not None and shown[at:found] not in known:
            yield f"{turn.name} shows words that nobody said: {shown[at:found][:60]!r}"
        at = found + len(text)
    if known is not None and shown[at:] not in known:
        yield f"{turn.name} shows words that nobody said: {shown[at:][:60]!r}"


def _notes(turn: TurnRecord, body: list[Message]) -> Iterator[str]:
    notes = [line for message in body for line in message.notes]
    tools = [mark for message in body for mark in message.tools]
    used = len({event["tool_id"] for event in turn.said("ToolStarted") if _has_a_line(event)})
    if len(tools) != used:
        yield f"{turn.name} used {used} tools and shows {len(tools)}"
    if "▸" in tools or any(line.lstrip().startswith("⏳") for line in notes):
        yield f"{turn.name} is settled but looks alive: {[x for x in notes if '⏳' in x or '▸' in x]}"
    buttons = [button for message in body for button in message.buttons if button not in _FINISHED]
    if buttons and turn.state != "cut":
        yield f"{turn.name} is settled but has the buttons {buttons}"
    told = compact("".join(notes))
    if turn.state == "interrupted" and "Stopped" not in told:
        yield f"{turn.name} was interrupted, which the thread does not say"
    for event in turn.said("Restarted"):
        if compact(event["reason"])[:40] not in told:
            yield f"{turn.name} went on in a new process, and the thread does not say why: {event['reason']}"
    if turn.state in ("failed", "cut") and compact(str(turn.row["error"]))[:40] not in told:
        yield f"{turn.name} is {turn.state}, and the thread does not say why: {turn.row['error']}"


def _asks(turn: TurnRecord, shown: list[Message]) -> Iterator[str]:
    """What Claude asked stands in the thread once each, in order, and says how it ended."""
    for state in turn.asks:
        while shown and shown[0].notes[0].startswith("📋") and not _says_an_end(shown[0]):
            shown = shown[1:]  # a page of a long plan
        if not shown or not shown[0].ended(state):
            yield f"{turn.name} asked something that is {state}, and the thread shows {[m.notes for m in shown[:1]]}"
            return
        shown = shown[1:]
    if shown:
        yield f"{turn.name} shows {len(shown)} questions that nobody asked: {shown[0].notes[:1]}"


def _says_an_end(message: Message) -> bool:
    return any(message.ended(state) for state in ("allowed", "denied", "withdrawn", "expired"))


def _has_a_line(event: Mapping[str, Any]) -> bool:
    """Those of sub-agents are counted in the sub-agent's line, those that keep the checklist are in it."""
    return event.get("parent") is None and not re.match(r"Task(Create|Update|List|Get)|TodoWrite", event["name"])


def _difference(wanted: str, found: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found)))
    return (
        f"at {at} of {len(wanted)}: {wanted[max(0, at - 15) : at + 25]!r} became {found[max(0, at - 15) : at + 25]!r}"
    )


def out_of_order(records: Records, shown: dict[str, list[Message]]) -> Iterator[str]:
    """Turns are shown and worked on as they were asked, but for messages that Slack brought in another order."""
    for session in records.sessions:
        turns = sorted(session.turns, key=lambda t: str(t.row["ts"]))
        for before, after in itertools.pairwise(turns):
            if before.row["created_at"] > after.row["created_at"] or "withdrawn" in (before.state, after.state):
                continue
            first = [min((m.ts for m in shown.get(t.id, []) if m.part != ROOT), default=None) for t in (before, after)]
            if None not in first and first[0] > first[1]:  # type: ignore[operator]
                yield f"out of order: {after.name} is shown above {before.name}"
            began = [t.row["started_at"] for t in (before, after)]
            if None not in began and began[0] > began[1] and not after.row["hurried"]:
                yield f"out of order: {after.name} was worked on before {before.name}"
