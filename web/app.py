"""Flow's HTTP server: a literal list of routes, and the start and stop of the listener."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from config.errors import FlowError
from web.health import Probe, health

if TYPE_CHECKING:
    from kvstore.gateway.app import KVGateway
    from web.metrics import Metrics
    from web.previews import PreviewHosts
    from worklets.kvdoor import StoreDoor


class PortTaken(FlowError):
    """The HTTP port is taken."""

    suggestion = "Set FLOW_HTTP_PORT to a free one, or to 0 to let the system choose."


def build(
    probes: Mapping[str, Probe],
    kv: KVGateway | StoreDoor | None = None,
    previews: PreviewHosts | None = None,
    metrics: Metrics | None = None,
) -> web.Application:
    """The application. `probes` gives each part's state for /health; `kv` is the worklets' key-value store.

    `metrics` answers /metrics. `previews` answers for the hosts that are its own, before any route is looked at.
    """
    app = web.Application(middlewares=[*([previews.middleware] if previews is not None else []), _json_errors])
    app.add_routes([web.get("/health", health(probes))])
    if metrics is not None:
        app.add_routes([web.get("/metrics", metrics.handle)])
    if kv is not None:
        app.add_routes(kv.routes())

        async def answer_those_who_wait(_: web.Application) -> None:
            await kv.close()

        app.on_shutdown.append(answer_those_who_wait)
    return app


class Server:
    """Listens from `start` to `stop`; `url` is known after `start`."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        # Who leaves while waiting for a change does not wait any more.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        self._host, self._port = host, port
        self.url = ""

    async def start(self) -> None:
        """Raises PortTaken, or FlowError when the address does not belong to this machine."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as e:
            await self._runner.cleanup()
            if e.errno == errno.EADDRINUSE:
                raise PortTaken(f"Port {self._port} of {self._host} is taken.") from e
            raise FlowError(
                f"Cannot listen on {self._host}:{self._port}: {e.strerror}.", suggestion="Check FLOW_HTTP_HOST."
            ) from e
        port = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        await self._runner.cleanup()


@web.middleware
async def _json_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as e:
        suggestion: dict[str, Any] = {"suggestion": "GET /health is what this server answers."}
        body = {"error": e.reason, "code": e.reason.upper().replace(" ", "_"), "details": suggestion}
        return web.json_response(body, status=e.status)
