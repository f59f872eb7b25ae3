"""Takes a Web API request through token, scope, limit and fault checks to its method, and keeps a record of it."""

import asyncio
import struct
import time
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from aiohttp import web

from simulator import webapi
from simulator.core import ApiCall, Core
from simulator.errors import RateLimited, SlackError
from simulator.faults import Fault
from simulator.state import App
from simulator.webapi.call import METHODS, Call, Method, read_args

Json = dict[str, Any]
MODULES = webapi  # importing it is what fills METHODS
HANG = 3600.0


class ApiServer:
    """The handler of `/api/{method}`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def handle(self, request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        name = request.match_info["method"]
        if latency := self._core.faults.latency_of(name):
            await asyncio.sleep(latency)
        fault = self._core.faults.take(name)
        if fault and not fault.after:
            return await self._suffer(request, fault, name, {}, started)
        try:
            args = await read_args(request)
        except SlackError as error:
            return self._answer(name, {}, 200, error.body(), None, started)
        token = _token(request, args)
        app, status, body, headers = await self._run(name, token, args)
        if fault:
            return await self._suffer(request, fault, name, args, started, app)
        return self._answer(name, args, status, body, app, started, headers)

    async def _run(self, name: str, token: str, args: Json) -> tuple[App | None, int, Json, dict[str, str]]:
        app: App | None = None
        try:
            method = METHODS.get(name)
            if method is None:
                raise SlackError("unknown_method", req_method=name)
            app = self._authenticate(token, method)
            call = Call(self._core, app, name, args)
            call.need(*method.scopes)
            self._core.limits.check(app.id, name, args)
            body = await method.handler(call)
            return app, 200, {"ok": True, **body}, self._headers(app)
        except SlackError as error:
            return app, 200, error.body(), self._headers(app)
        except RateLimited as limited:
            headers = {"Retry-After": str(limited.retry_after)}
            return app, 429, {"ok": False, "error": "ratelimited"}, headers

    def _authenticate(self, token: str, method: Method) -> App:
        apps = self._core.workspace.apps.values()
        if method.caller == "anyone":
            return next(iter(apps))
        if not token:
            raise SlackError("not_authed")
        for app in apps:
            if token in (app.bot_token, app.app_token):
                if token != (app.app_token if method.caller == "app" else app.bot_token):
                    raise SlackError("not_allowed_token_type")
                return app
        raise SlackError("invalid_auth")

    def _headers(self, app: App | None) -> dict[str, str]:
        return {"x-oauth-scopes": app.manifest.granted()} if app else {}

    async def _suffer(
        self, request: web.Request, fault: Fault, name: str, args: Json, started: float, app: App | None = None
    ) -> web.StreamResponse:
        """Answers as the fault says, whether or not the call took effect."""
        if fault.kind == "fail":
            headers = {"Retry-After": str(fault.retry_after)} if fault.status == 429 else {}
            error = fault.error or ("ratelimited" if fault.status == 429 else "internal_error")
            return self._answer(name, args, fault.status, {"ok": False, "error": error}, app, started, headers)
        self._record(name, args, 0, {}, app, started)
        if fault.kind == "hang":
            await asyncio.sleep(HANG)
        if request.transport is not None:
            raw = request.transport.get_extra_info("socket")
            raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        return web.Response()

    def _answer(
        self,
        name: str,
        args: Json,
        status: int,
        body: Json,
        app: App | None,
        started: float,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        self._record(name, args, status, body, app, started)
        return web.json_response(body, status=status, headers=headers)

    def _record(self, name: str, args: Json, status: int, body: Json, app: App | None, started: float) -> None:
        shown = {key: value for key, value in args.items() if key != "token"}
        duration = time.perf_counter() - started
        now = self._core.clock.now()
        self._core.calls.append(ApiCall(now, name, shown, status, body, app.id if app else "", duration))
        self._core.workspace.changed("call", method=name)


def _token(request: web.Request, args: Json) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else str(args.get("token", ""))
