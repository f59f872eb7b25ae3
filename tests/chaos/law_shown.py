"""What people see of each turn, read from the simulated workspace; and what they asked. No product code."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from simulator.model_script import CallTool, Recall, Say, parse
from simulator.model_script import reply as scripted
from simulator.slack import SlackSimulator
from simulator.state import Channel, Record

ROOT = -1  # the part that opens the thread of a slash command
_TOOL = re.compile(r"^\s*([▸✓✗■]) (?!Stopped|Taken back|Cut off)")
_DIFF = re.compile(r"(diff|full_output)(_\d)?")
_OUTPUT = re.compile(r"\n```\n.*?\n```", re.DOTALL)  # of a tool, below its line
_ASK = re.compile("[🔐❓📋💰🌐] ")  # how the headline of what Claude asks begins
_ENDED = {
    "allowed": re.compile("✓ "),
    "denied": re.compile("✗ |↻ |■ (?!Withdrawn)"),
    "answered": re.compile("✓ "),
    "withdrawn": re.compile("■ Withdrawn"),
    "expired": re.compile("⌛ Expired"),
}
_FENCE = re.compile(r"^\s*(```|~~~)\S*\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """A message of the bot that says in its metadata which part of which turn it is."""

    turn_id: str
    part: int
    channel: str
    thread_ts: str | None
    ts: str
    body: dict[str, Any]

    @property
    def words(self) -> str:
        """The answer's text, without white space and fences: pages may be cut anywhere. A plan to approve is none."""
        if self.asks:
            return ""
        return compact("\n".join(str(b["text"]) for b in self._blocks("markdown")))

    @property
    def notes(self) -> list[str]:
        """The lines that are not Claude's words: tools without what they printed, status, how it ended."""
        texts = [str(e.get("text", "")) for b in self._blocks("context") for e in b.get("elements", [])]
        texts += [str((b.get("text") or {}).get("text", "")) for b in self._blocks("section")]
        return [_unescaped(line) for text in texts for line in _OUTPUT.sub("", text).splitlines()]

    @property
    def tools(self) -> list[str]:
        """The marks of the tool lines: one of ▸ ✓ ✗ ■ each. The question how to go on, and its answer, have none."""
        if self._blocks("section"):
            return []
        return [match[1] for line in self.notes if (match := _TOOL.match(line))]

    @property
    def asks(self) -> bool:
        """Claude asks something in it, or has."""
        first = (self.body.get("blocks") or [{}])[0]
        return first.get("type") == "section" and bool(_ASK.match(str((first.get("text") or {}).get("text", ""))))

    def ended(self, state: str) -> bool:
        """What Claude asked in it has come to this end, by its own words. Only the last page of a plan says so."""
        return any(_ENDED[state].match(line) for line in self.notes) if state in _ENDED else False

    @property
    def buttons(self) -> list[str]:
        """But for those that show what an edit changed: they stay for good."""
        found = [e for b in self._blocks("actions") for e in b.get("elements", [])]
        found += [b["accessory"] for b in self._blocks("section") if "accessory" in b]
        ids = [str(element.get("action_id")) for element in found if element.get("type") == "button"]
        return [action_id for action_id in ids if not _DIFF.fullmatch(action_id)]

    def _blocks(self, kind: str) -> list[dict[str, Any]]:
        return [block for block in self.body.get("blocks") or [] if block.get("type") == kind]


@dataclass(frozen=True)
class Asked:
    """What a person wrote for the bot. `source_id` is as in the table of turns.

    `thread_ts` is set for a reply that does not call the bot: it counts where there is a session.
    """

    source_id: str
    text: str
    channel: str = ""
    thread_ts: str | None = None


def of_turns(slack: SlackSimulator) -> dict[str, list[Message]]:
    """Turn id to its messages, the oldest first."""
    found: defaultdict[str, list[Message]] = defaultdict(list)
    for channel in slack.workspace.channels.values():
        for record in channel.messages.values():
            if (message := _message(slack, channel, record)) is not None:
                found[message.turn_id].append(message)
    for messages in found.values():
        messages.sort(key=lambda m: m.ts)
    return dict(found)


def strangers(slack: SlackSimulator) -> list[str]:
    """Posts of the bot that belong to no turn, nor offer a preview."""
    return [
        slack.visible_text(record.body)
        for channel in slack.workspace.channels.values()
        for record in channel.messages.values()
        if record.app_id == slack.app.id and not record.deleted and _message(slack, channel, record) is None
        if (record.metadata or {}).get("event_type") != "flow_preview"
    ]


def _message(slack: SlackSimulator, channel: Channel, record: Record) -> Message | None:
    metadata = record.metadata or {}
    payload = metadata.get("event_payload") or {}
    if record.deleted or record.app_id != slack.app.id or "turn" not in payload:
        return None
    return Message(str(payload["turn"]), int(payload["part"]), channel.id, record.thread_ts, record.ts, record.body)


def asked(slack: SlackSimulator) -> list[Asked]:
    """Every prompt with directives that people wrote for the bot and Slack delivered, or goes on trying to.

    A command that was not acknowledged, or with an excuse, is not among them: its author was told.
    """
    excused = {ack.envelope_id for ack in slack.acks if isinstance(ack.payload, dict) and ack.payload.get("text")}
    found = [
        Asked(f"cmd:{delivery.payload['trigger_id']}", str(delivery.payload.get("text", "")))
        for delivery in slack.deliveries
        if delivery.type == "slash_commands" and delivery.acked and not delivery.timed_out
        if delivery.envelope_id not in excused
    ]
    for channel in slack.workspace.channels.values():
        if slack.bot_user_id not in channel.members:
            continue
        for record in channel.messages.values():
            if record.app_id or record.deleted or record.body.get("subtype"):
                continue
            text = str(record.body.get("text", ""))
            called = channel.kind == "im" or f"<@{slack.bot_user_id}>" in text
            if called or record.thread_ts:
                found.append(Asked(f"{channel.id}:{record.ts}", text, channel.id, None if called else record.thread_ts))
    return [one for one in found if parse(_unescaped(re.sub(r"<@\w+>\s*", "", one.text)))]


def script(prompt: str) -> str | None:
    """What the scripted model says to this prompt, compact; None when it cannot be known beforehand."""
    steps = parse(prompt)
    if not steps or any(isinstance(step, Recall) for step in steps):
        return None
    rounds = 1 + sum(isinstance(step, CallTool) for step in steps)
    said = ["".join(step.chunks) for n in range(rounds) for step in scripted(steps, n) if isinstance(step, Say)]
    return compact("\n".join(said))


def compact(text: str) -> str:
    """Without white space, fence lines, and what Flow puts in so that nothing in it is live."""
    return "".join(_FENCE.sub("", _unescaped(text).replace("\u200b", "")).split())


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
