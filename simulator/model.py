"""The scripted model: an Anthropic Messages API on loopback that does what a prompt's directives say.

The real Claude Code CLI runs against it, offline and with known answers, in the demo and in tests.
`simulator/model_script.py` lists the directives.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from simulator import model_demo
from simulator.model_reply import Reply
from simulator.model_request import Conversation, is_side_request, read, tokens
from simulator.model_script import (
    PLAN_FILE,
    CallTool,
    Cut,
    Fail,
    Hold,
    Pause,
    Recall,
    Release,
    Say,
    Step,
    Think,
    parse,
    reply,
    words,
)

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_PING_SECONDS = 0.1  # while a reply is held; it also shows us that the client has gone


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: `at` is `time.monotonic()` in seconds; header names are lower-case."""

    at: float
    path: str
    body: dict[str, Any]
    headers: Mapping[str, str] = field(repr=False)

    @property
    def prompt(self) -> str:
        """The last text of a person."""
        return read(self.body).prompt


class _CutOff(Exception):
    """The connection was broken on purpose."""


class ScriptedModel:
    """`async with ScriptedModel() as model: … model.url`.

    With `api_key` every request must carry it (`x-api-key`, or as a bearer token); others get a 401.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1", *, api_key: str | None = None) -> None:
        self.requests: list[Request] = []
        self.answered: list[Request] = []  # those whose answer was written to its end
        self.usage: list[dict[str, Any]] = []  # what each of them told of tokens
        self.url = ""
        self._host, self._port, self._api_key = host, port, api_key
        self._used: Counter[str] = Counter()  # how often a CUT or a counted ERROR has happened
        self._released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._held: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20, middlewares=[self._check_key])
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_get("/", self._alive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://{self._host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def release(self, name: str) -> None:
        """Lets the reply held by `HOLD <name>` go on; one that comes to it later is not held."""
        self._released[name].set()

    async def held(self, name: str) -> None:
        """Returns as soon as a reply has come to `HOLD <name>`."""
        await self._held[name].wait()

    def prompts(self) -> list[str]:
        """The prompts that came, repetitions and tool rounds included, in order."""
        return [r.prompt for r in self.requests if r.path == "/v1/messages"]

    @web.middleware
    async def _check_key(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._api_key is not None and given != self._api_key:
            return _error_response(401, "invalid x-api-key")
        response: web.StreamResponse = await handler(request)
        return response

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="The scripted model is listening.\n")

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = (await self._record(request)).body
        return web.json_response({"input_tokens": tokens(body.get("messages"))})

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        asked = await self._record(request)
        body = asked.body
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})

        async def send(data: bytes) -> None:
            if not response.prepared:
                await response.prepare(request)
            await response.write(data)

        streams = bool(body.get("stream"))
        answer = Reply(body.get("model", "scripted"), tokens(body.get("messages")), send if streams else None)
        try:
            error = await self._perform(body, answer)
        except _CutOff:
            if request.transport is not None:
                request.transport.abort()
            return response
        except ConnectionError:
            return response  # the client hung up: an interrupt
        if error is not None and not response.prepared:
            return _error_response(error.status)
        if error is None:
            self.answered.append(asked)
            self.usage.append(dict(answer.message["usage"]))
        return response if streams else web.json_response(answer.message)

    async def _record(self, request: web.Request) -> Request:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Request(time.monotonic(), request.path, await request.json(), headers))
        return self.requests[-1]

    async def _perform(self, body: dict[str, Any], answer: Reply) -> Fail | None:
        """Writes the answer; returns the error that ended it early, if one did."""
        conversation = read(body)
        key = f"{(body.get('metadata') or {}).get('user_id')}/{conversation.key}"
        for number, step in enumerate(_plan(body, conversation)):
            if isinstance(step, Fail):
                if step.times is None or self._once_more(f"{key}#{number}", step.times):
                    if answer.started:
                        await answer.error(_error_body(step.status))
                    return step
            elif isinstance(step, Cut):
                if self._once_more(f"{key}#{number}", 1):
                    await asyncio.sleep(0.05)  # what was written has to arrive before the reset
                    raise _CutOff
            else:
                await self._write(step, conversation, answer)
        await answer.finish()
        return None

    async def _write(
        self, step: Say | Think | CallTool | Pause | Hold | Release | Recall, conversation: Conversation, answer: Reply
    ) -> None:
        match step:
            case Say(chunks, delay):
                await _stream(answer, chunks, delay)
            case Recall(delay):
                await _stream(answer, words(model_demo.recall(conversation)), delay)
            case Think(text):
                await answer.thinking(text)
            case CallTool(name, arguments):
                given = {
                    key: conversation.plan_file if value == PLAN_FILE else value for key, value in arguments.items()
                }
                await answer.tool(name, given)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Hold(name):
                await self._hold(name, answer)
            case Release(name):
                self.release(name)

    async def _hold(self, name: str, answer: Reply) -> None:
        await answer.start()
        self._held[name].set()
        while not self._released[name].is_set():
            await answer.ping()
            try:
                await asyncio.wait_for(self._released[name].wait(), _PING_SECONDS)
            except TimeoutError:
                continue

    def _once_more(self, key: str, times: int) -> bool:
        self._used[key] += 1
        return self._used[key] <= times


def _plan(body: dict[str, Any], conversation: Conversation) -> list[Step]:
    if is_side_request(body):
        return model_demo.side_answer()
    if steps := parse(conversation.prompt):
        return reply(steps, len(conversation.results))
    return model_demo.answer(conversation)


async def _stream(answer: Reply, chunks: tuple[str, ...], delay: float) -> None:
    for number, chunk in enumerate(chunks):
        if number and delay and answer.streams:
            await asyncio.sleep(delay)
        await answer.text(chunk, new_step=number == 0)


def _error_body(status: int, message: str | None = None) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(status, "api_error")
    message = message or f"Scripted error {status}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def _error_response(status: int, message: str | None = None) -> web.Response:
    return web.json_response(_error_body(status, message), status=status)
