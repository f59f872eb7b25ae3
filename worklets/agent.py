"""One Claude Code process, seen through its relay: prompts go in, `AgentEvent`s with their positions come out."""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from worklets import rundir
from worklets.errors import AgentGone, AgentRefused
from worklets.events import AgentEvent, AgentExited, Position
from worklets.lines import parse
from worklets.link import Exit, OtherEpoch, Refused, RelayLink
from worklets.monitor import Gauge
from worklets.pictures import Picture
from worklets.profile import Profile
from worklets.relay.journal import Budget, records
from worklets.wire import Decoder, allow_line, deny_line, interrupt_line, prompt_line, request_line

Batch = tuple[Position, list[AgentEvent]]


@dataclass(frozen=True, slots=True)
class Tail:
    """`exited`: how the last process ended, if its relay was still there to see it."""

    batches: list[Batch]
    exited: AgentExited | None


_MOST_EPOCHS = 8  # processes whose journals are read; Flow keeps fewer
_SEGMENT = re.compile(r"([0-9a-f]{16})-\d{12}\.log")
_REASON = 300  # characters of an error of the CLI


class Agent:
    """Made by `attach`. The process goes on when its Agent is closed or its program dies.

    `earlier` is what a lost predecessor had still written, `ending` why that one ended (the beginning of a sentence
    for people, None: it did not, or nobody knows). `new_volume`: the conversation so far is not on it.
    """

    def __init__(self, link: RelayLink, run_dir: Path, worklet_id: str, gauge: Gauge | None = None) -> None:
        self.worklet_id = worklet_id
        self._gauge = gauge
        self.earlier: Sequence[Batch] = ()
        self.ending: str | None = None
        self.new_volume = False
        self.profile = Profile()
        self._link, self._run_dir = link, run_dir
        self._decoder, self._last = Decoder(), link.start
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}  # to our control requests
        self._holding: asyncio.Task[None] | None = None  # until it is done, no prompt is sent
        self._heard = False
        self._when_heard: Callable[[], None] | None = None

    @classmethod
    async def attach(
        cls,
        run_dir: Path,
        token: str,
        position: Position | None,
        fence: int,
        *,
        worklet_id: str = "",
        timeout: float = 30.0,
        patience: float = 1.0,
        rng: random.Random | None = None,
        gauge: Gauge | None = None,
    ) -> Self:
        """The agent whose relay listens in `run_dir`, from the line after `position` (None: from the first held).

        `timeout` is how long (seconds) a starting relay is waited for, `patience` how long one that nobody listens
        for any more. `gauge` hears what the worklet uses. Raises WorkletStartFailed, AgentGone (also when the relay has
        another epoch or a higher fence).
        """
        agent: Self

        def notice(line: bytes) -> None:
            agent._notice(line)

        def over(error: AgentGone) -> None:
            agent._over(error)

        link = RelayLink(
            run_dir, token, position, fence, notice=notice, over=over, stat=_heard(gauge), patience=patience, rng=rng
        )
        agent = cls(link, run_dir, worklet_id, gauge)
        try:
            await link.open(timeout)
        except BaseException:
            if gauge is not None:
                gauge.leave()
            raise
        if gauge is not None:
            gauge.ask = link.ask_stat
        return agent

    @property
    def epoch(self) -> str:
        """Names the relay's process: positions count within it."""
        return self._link.epoch

    @property
    def exited(self) -> bool:
        """The process had ended already when we attached; only what it said is still to be had."""
        return self._link.exited_before

    @property
    def resting(self) -> bool:
        """The process was put to rest: its relay can start another one (`worklets.rest`)."""
        return self._link.resting

    @property
    def behind(self) -> bool:
        """`events` is yet to give some of what the process had said by the time at which the relay was reached."""
        return self._link.held > self._last

    async def events(self) -> AsyncIterator[Batch]:
        """Each line's events (often none) with its position. Ends after AgentExited.

        Raises AgentGone when the relay is lost; what it had still written to its journal has been told before.
        """
        try:
            async for number, content in self._link.lines():
                self._last = number
                yield Position(self.epoch, number), _decode(self._decoder, content)
        except (Refused, OtherEpoch):
            raise
        except AgentGone:
            journal, last = self._run_dir / "journal", self._last
            for number, content in await asyncio.to_thread(_rest, journal, self.epoch, last, Budget()):
                yield Position(self.epoch, number), _decode(self._decoder, content)
                if isinstance(content, Exit):
                    return
            raise

    async def forget_earlier(self) -> None:
        """All of `earlier` is stored."""
        self.earlier = ()
        await asyncio.to_thread(rundir.forget_journals, self._run_dir)

    async def send(
        self, prompt_id: str, text: str, context: Sequence[str] = (), pictures: Sequence[Picture] = ()
    ) -> None:
        """Hands a prompt over, after what Claude should know and see first; returns when it is on the CLI's stdin.

        The CLI runs a `prompt_id` (a uuid) once, however often it is sent. Raises AgentGone, and what `ready` raises.
        """
        await self.ready()
        await self._link.put(prompt_id, prompt_line(prompt_id, text, context, pictures))

    def hold_prompts(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins `work`, which has to be done before the first prompt; all else may be done meanwhile."""
        self._holding = asyncio.create_task(work)
        self._holding.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may ever ask

    def when_heard(self, call: Callable[[], None]) -> None:
        """`call()` once, as soon as the process has said something, or nothing of it can be heard."""
        self._when_heard = call
        if self._heard:
            self._note_heard()

    def _note_heard(self) -> None:
        self._heard = True
        call, self._when_heard = self._when_heard, None
        if call is not None:
            call()

    async def ready(self) -> None:
        """Returns when a prompt can be given. Raises what kept it: AgentGone, or another WorkletError."""
        if self._holding is not None:
            await asyncio.wait([self._holding])
            if self._holding.cancelled():
                raise AgentGone("Flow let go of the agent before it was ready.")
            self._holding.result()

    async def interrupt(self, timeout: float = 10.0) -> None:
        """Asks the CLI to end the running turn; returns when it said yes. Raises AgentGone, TimeoutError (seconds)."""
        await self._ask(interrupt_line(str(uuid.uuid4())), timeout)

    async def request(self, subtype: str, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        """A control request and the CLI's reply to it ({} where it says just yes), whether or not a turn runs.

        The relay gives it to the CLI once, across reconnects. Raises AgentGone (it may have been done), TimeoutError
        (no reply within `timeout` seconds: the same), AgentRefused with the CLI's own words.
        """
        return await self._ask(request_line(str(uuid.uuid4()), subtype, fields), timeout)

    async def _ask(self, line: dict[str, Any], timeout: float) -> dict[str, Any]:
        request_id: str = line["request_id"]
        self._answers[request_id] = answered = asyncio.get_running_loop().create_future()
        answered.add_done_callback(lambda f: f.cancelled() or f.exception())  # whoever asked may have given up
        try:
            async with asyncio.timeout(timeout):
                await self._link.put(request_id, line)
                response = await answered
        finally:
            del self._answers[request_id]
        if response.get("subtype") == "error":
            raise AgentRefused(f"Claude refused: {str(response.get('error') or 'it said no more')[:_REASON]}")
        reply = response.get("response")
        return reply if isinstance(reply, dict) else {}

    async def allow(
        self, request_id: str, tool_input: Mapping[str, Any] | None = None, mode: str | None = None
    ) -> None:
        """Says yes to an `Asked`, to its call as it is or with another input; harmless when repeated. Raises AgentGone.

        `mode` is the CLI's permission mode from then on.
        """
        await self._link.put(f"answer-{request_id}", allow_line(request_id, tool_input, mode))

    async def deny(self, request_id: str, reason: str) -> None:
        """Says no to an `Asked`; Claude reads why, and goes on. Harmless when repeated. Raises AgentGone."""
        await self._link.put(f"answer-{request_id}", deny_line(request_id, reason))

    async def terminate(self) -> None:
        """Tells the CLI process to end (SIGTERM); `events` tells when it has. Raises AgentGone."""
        await self._link.signal("SIGTERM")

    async def ack(self, position: Position) -> None:
        """Everything up to `position` is stored: the relay may drop it."""
        if position.epoch == self.epoch:
            self._link.ack(position.seq)

    async def close(self) -> None:
        """Lets go of the process; it works on."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait([self._holding])
        if self._gauge is not None:
            self._gauge.leave()
        self._note_heard()
        await self._link.close()

    def _notice(self, line: bytes) -> None:
        """What cannot wait until somebody iterates `events`."""
        self._note_heard()
        start = line[:64]
        if b'"control_' not in start and b'"api_retry"' not in start:
            return
        message = parse(line)
        match message.get("type"):
            case "control_response":
                answered = self._answers.get(_name(message.get("response")))
                if answered is not None and not answered.done():
                    answered.set_result(message["response"])
            case "system" if message.get("error_status") == 401:
                # The CLI would go on asking for three minutes; the credential does not get better by that.
                key = f"refused-{message.get('uuid')}"
                self._link.post(key, interrupt_line(key))

    def _over(self, error: AgentGone) -> None:
        """Nothing more will be heard: who waits for a reply need not wait for the timeout."""
        self._note_heard()
        for answered in self._answers.values():
            if not answered.done():
                answered.set_exception(error)


def read_tail(run_dir: Path, position: Position | None) -> Tail:
    """What dead worklets had said after `position`, from their journals.

    When a journal is of a later process than `position`, nothing of it has been stored yet: all of it is told.
    """
    return _read([*rundir.journals(run_dir), run_dir / "journal"], position)


def read_put_aside(run_dir: Path, position: Position | None) -> list[Batch]:
    """The same, of those only whose successor runs already."""
    return _read(rundir.journals(run_dir), position).batches


def _read(directories: Sequence[Path], position: Position | None) -> Tail:
    tail, budget = Tail([], None), Budget()
    for directory, epoch in [(one, epoch) for one in directories for epoch in _epochs(one)][-_MOST_EPOCHS:]:
        known = position is not None and position.epoch == epoch
        if known:
            tail = Tail([], None)  # what is older is stored
        decoder = Decoder()
        for number, content in _rest(directory, epoch, position.seq if position is not None and known else 0, budget):
            if isinstance(content, bytes):
                tail.batches.append((Position(epoch, number), decoder.feed(content)))
            else:
                tail = Tail(tail.batches, AgentExited(content.code, content.stderr))
    return tail


def _epochs(journal: Path) -> list[str]:
    """A relay leaves one. The agent can write there too: what no relay can have named is passed over."""
    names = (_SEGMENT.fullmatch(path.name) for path in journal.glob("*.log"))
    return sorted({name[1] for name in names if name})


def _rest(journal: Path, epoch: str, after: int, budget: Budget) -> list[tuple[int, bytes | Exit]]:
    found: list[tuple[int, bytes | Exit]] = []
    try:
        for kind, number, content in records(journal, epoch, after, budget):
            if kind == "x":
                found.append((number, _exit(content)))
            else:
                found.append((number, content))
    except OSError:
        # The agent can write there: a journal that is no plain file is not ours to read, and all else is told.
        return found
    return found


def _heard(gauge: Gauge | None) -> Callable[[dict[str, Any]], None]:
    return gauge.note if gauge is not None else lambda _frame: None


def _decode(decoder: Decoder, content: bytes | Exit) -> list[AgentEvent]:
    return [AgentExited(content.code, content.stderr)] if isinstance(content, Exit) else decoder.feed(content)


def _exit(content: bytes) -> Exit:
    end = parse(content)
    code = end.get("code")
    return Exit(code if isinstance(code, int) else -1, str(end.get("stderr", "")))


def _name(message: object) -> str:
    """The id of the request that the message is, or answers; empty when it has none."""
    name = message.get("request_id") if isinstance(message, dict) else None
    return name if isinstance(name, str) else ""
