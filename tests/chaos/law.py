"""The law that every run must keep, whatever died in it.

What each thread shows equals its transcript, once, in order; every prompt was put to Claude exactly once or its thread
says why not; no session is stuck; no container, volume or task is left over.

    law = Law(slack, model, share_dir=tmp_path / "data", runtime="local")
    violations = await law.at_rest(timeout=60)     # waits until all is answered, then looks
    ...                                            # sessions asleep, the program ended with SIGTERM
    violations += await law.left_over()

Each violation is a sentence. Prompts are to be told apart: each with directives (`simulator/model_script.py`) and words
of its own. A command that counts its runs prints `ran=<times>`: more than one is a violation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import law_shown
from law_records import Records, SessionRecord, read
from law_remains import containers, processes, volumes
from law_shown import Message
from law_turns import of_turn, out_of_order

from simulator.model import Request, ScriptedModel
from simulator.model_request import is_side_request
from simulator.model_request import read as conversation_of
from simulator.slack import SlackSimulator

_RESTING = ("new", "idle", "asleep")


@dataclass
class Law:
    """`dsn` as FLOW_DSN; empty for SQLite in the share directory. `tmp`: the program's TMPDIR, if it has its own."""

    slack: SlackSimulator
    model: ScriptedModel
    share_dir: Path
    runtime: str = "local"
    dsn: str = ""
    tmp: Path | None = None
    in_transit: Counter[tuple[str, int]] = field(
        default_factory=Counter
    )  # what may be asked once more: prompt, results
    _changed: asyncio.Event = field(default_factory=asyncio.Event)  # something in Slack

    def __post_init__(self) -> None:
        self.slack.workspace.listeners.append(lambda *_: self._changed.set())

    async def at_rest(self, timeout: float = 60.0, mending: float = 0.0) -> list[str]:
        """Waits until nothing more is to come, at most `timeout` seconds, then looks; empty: the law holds.

        `mending`: seconds in which what a process did too late may still be set right.
        """
        self._changed.clear()
        found = await self._at_rest(timeout)
        end = time.monotonic() + mending
        while found and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()  # what sets it right is seen in Slack
            self._changed.clear()
            found = await self._at_rest(timeout)
        return found

    async def _at_rest(self, timeout: float) -> list[str]:
        end = time.monotonic() + timeout
        while True:
            while await self.unfinished() and time.monotonic() < end:
                await asyncio.sleep(0.05)
            found = await self.violations()
            # A command that a standing process had in hand begins late: it may have begun while we looked.
            if time.monotonic() >= end or not await self.unfinished():
                return found

    async def unfinished(self) -> list[str]:
        """What somebody still waits for: prompts without a turn, turns that are not shown to the end, busy sessions."""
        records = await self.records()
        stuck = [f"the prompt {text!r} has no turn" for text in self._unheard(records)]
        for session in records.sessions:
            if session.row["status"] not in _RESTING:
                stuck.append(f"{session.name} is stuck in {session.row['status']}")
            for turn in session.turns:
                if turn.row["ended_at"] is None:
                    stuck.append(f"{turn.name} is stuck in {turn.state}")
                elif not turn.row["delivered"]:
                    stuck.append(f"{turn.name} is {turn.state} but not delivered")
        return stuck

    async def unsettled(self) -> list[SessionRecord]:
        """Sessions that are at work, or have turns that have not ended."""
        return [
            session
            for session in (await self.records()).sessions
            if session.row["status"] not in _RESTING or any(turn.row["ended_at"] is None for turn in session.turns)
        ]

    async def violations(self) -> list[str]:
        """What is against the law now, the order included."""
        records, shown = await self.records(), law_shown.of_turns(self.slack)
        return [
            *await self.unfinished(),
            *self._foreign(records, shown),
            *_shared(records),
            *(sentence for turn in records.turns for sentence in of_turn(turn, shown.get(turn.id, []))),
            *(sentence for session in records.sessions for sentence in self._of_prompts(session, records)),
            *out_of_order(records, shown),
        ]

    async def left_over(self) -> list[str]:
        """What remains of a run whose sessions sleep and whose program has ended politely."""
        records = await self.records()
        instance = json.loads((self.share_dir / "instance.json").read_text())["instance"]
        left = [f"{s.name} is {s.row['status']}" for s in records.sessions if s.row["status"] not in ("new", "asleep")]
        if self.dsn.startswith(
            "postgres"
        ):  # with SQLite a lease in the table is a dead process's, and counts for nothing
            held = [s for s in records.sessions if (s.row["lease_until"] or 0) > time.time()]
            left += [f"the lease of {session.name} is still held" for session in held]
        if self.runtime == "docker":
            left += [f"the container {line} is left over" for line in containers(instance)]
        left += [f"the process {pid} is left over: {command}" for pid, command in processes(instance).items()]
        kept = {str(session.row["worklet"]) for session in records.sessions if session.row["retired_at"] is None}
        volumes_ = volumes(instance, self.share_dir, self.runtime)
        left += [f"the volume {name} has no session" for name in volumes_ if name not in kept]
        for pattern in ("pid.json", "run/spec.json", "run/*.sock"):
            left += [f"{path} is left over" for path in self.share_dir.glob(f"worklets/*/{pattern}")]
        left += [f"{path} is left over" for path in (self.tmp.glob("flow-*") if self.tmp else ())]
        return left

    async def records(self) -> Records:
        return await read(self.dsn or f"sqlite://{self.share_dir / 'db.sqlite'}")

    # ---- prompts ----

    def _unheard(self, records: Records) -> Iterator[str]:
        """Prompts that people wrote and no turn knows of."""
        began = {(s.row["channel"], s.row["thread_ts"]): min((str(t.row["ts"]) for t in s.turns), default="")
                 for s in records.sessions}  # fmt: skip
        for asked in law_shown.asked(self.slack):
            if asked.source_id in records.sources | records.asides:
                continue
            if asked.thread_ts is not None:
                first = began.get((asked.channel, asked.thread_ts))
                if first is None or asked.source_id.partition(":")[2] < first:
                    continue  # nobody had called the bot into that thread yet
            yield asked.text

    def _of_prompts(self, session: SessionRecord, records: Records) -> Iterator[str]:
        """Each prompt was put to Claude once: looked for in conversations, since the CLI repeats failed requests."""
        requests = self._requests(session, records, self.model.requests)
        answered = Counter(_round(request) for request in self._requests(session, records, self.model.answered))
        texts = _persons_texts(requests[-1]) if requests else []
        for turn in session.turns:
            same = [other for other in session.turns if other.text == turn.text]
            if turn.state == "done" and not any(_holds(conversation_of(r.body).prompt, turn.text) for r in requests):
                yield f"{turn.name} is done, but its prompt was never put to Claude"
            if any(other.explained for other in same):
                continue
            if (times := sum(_holds(text, turn.text) for text in texts)) > len(same):
                yield f"the prompt of {turn.name} stands {times} times in the conversation"
            for (text, results), times in answered.items():
                if _holds(text, turn.text) and times > len(same) + self.in_transit[text, results]:
                    yield f"Claude answered {turn.name} {times} times (after {results} tool results)"

    def gateway_died(self) -> None:
        """What it was passing on, whole or not, may not have arrived: Claude's process asks once more."""
        last = {
            request.headers.get("x-claude-code-session-id"): request
            for request in self.model.requests
            if request.path == "/v1/messages" and not is_side_request(request.body)
        }
        self.in_transit.update(_round(request) for request in last.values())

    def _requests(self, session: SessionRecord, records: Records, among: list[Request]) -> list[Request]:
        """Those of this session's conversation, or of one that no session owns up to."""
        mine = {session.id, str(session.row["claude_session_id"])}
        others = {i for s in records.sessions for i in (s.id, str(s.row["claude_session_id"]))} - mine
        return [
            request
            for request in among
            if request.path == "/v1/messages"
            and not is_side_request(request.body)
            and request.headers.get("x-claude-code-session-id") not in others
        ]

    # ---- messages ----

    def _foreign(self, records: Records, shown: dict[str, list[Message]]) -> Iterator[str]:
        known = {turn.id for turn in records.turns}
        for turn_id in shown.keys() - known:
            yield f"a message shows a turn that is not in the table: {turn_id}"
        for text in law_shown.strangers(self.slack):
            yield f"a message of the bot belongs to no turn: {text[:80]!r}"


def _shared(records: Records) -> Iterator[str]:
    """A worklet that stood ready, with its conversation, is one thread's."""
    for conversation, times in Counter(str(s.row["claude_session_id"]) for s in records.sessions).items():
        if times > 1:
            yield f"the conversation {conversation} was given to {times} sessions"
    for session in records.sessions:
        if session.row["worklet"] in records.pool:
            yield f"the worklet {session.row['worklet']} of {session.name} stands ready for others"


def _persons_texts(request: Request) -> tuple[str, ...]:
    conversation = conversation_of(request.body)
    return (*conversation.earlier, conversation.prompt)


def _holds(said: str, prompt: str) -> bool:
    """Whether the prompt's lines stand in what was said, as a whole."""
    return f"\n{prompt.strip()}\n" in f"\n{said.strip()}\n"


def _round(request: Request) -> tuple[str, int]:
    conversation = conversation_of(request.body)
    return conversation.prompt, len(conversation.results)
