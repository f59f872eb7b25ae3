"""What lies outside of Flow: a host of git, a vendor of tools, Vault, and hosts that people allow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import schema
from aiohttp import web
from e2e.world import ROOT
from githost import TOKEN, USER, GitHost, git, git_host
from mcpvendor import Vendor, vendor
from openbao import OpenBao, open_bao
from waiting import until

from sessions.db import open_database
from sessions.errors import StoreUnavailable
from sessions.templates import drafted
from sessions.templatestore import TemplateStore
from worklets.gatewaycontrol import holder

REPOSITORY = "acme/app.git"
VENDOR_TOKEN = "lin_api_theVendorsToken0123456789abcdefghij"
SHARED = "shared-in-vault-0123456789"
_CONTAINER = "name: app\nmcpServers:\n  tickets: linear\n"
_TEMPLATE = {"vault": {"paths": ["team/db"]}}


@dataclass
class Outside:
    """`heard`: how often which host was reached; None in `port`: no worklet reaches any."""

    git: GitHost
    vendor: Vendor
    bao: OpenBao
    port: int | None = None
    heard: Counter[str] = field(default_factory=Counter)
    share_dir: Path = Path()
    env: dict[str, str] = field(default_factory=dict)  # what the program is told of all this
    gateways: list[asyncio.subprocess.Process] = field(default_factory=list)

    def updates(self) -> list[tuple[str, str]]:
        """Each change of a branch that the host of git has seen: the branch, and the new commit's message."""
        found = []
        bare = self.git.root / REPOSITORY
        for log in sorted((bare / "logs" / "refs" / "heads").rglob("*")):
            if log.is_file():
                branch = str(log.relative_to(bare / "logs" / "refs" / "heads"))
                commits = [line.split(" ", 2)[1] for line in log.read_text().splitlines()]
                said = [git("-C", str(bare), "log", "-1", "--format=%s", commit).strip() for commit in commits]
                found += [(branch, one) for one in said]
        return found

    def tokens(self) -> list[str]:
        """The policies of sessions' tokens that live in Vault."""
        admin, found = self.bao.admin, []
        for accessor in admin.auth.token.list_accessors()["data"]["keys"]:
            with contextlib.suppress(Exception):  # it has ended meanwhile
                found += admin.auth.token.lookup_accessor(accessor)["data"]["policies"]
        return [policy for policy in found if policy.startswith("flow-worklet-")]

    async def kill_gateway(self) -> bool:
        """False: there was none."""
        if (pid := holder(self.share_dir)) is None:
            return False
        if self.port is not None:
            await self.stand_by()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    async def stand_by(self) -> None:
        """One more gateway, which serves once no other does."""
        program = [sys.executable, str(Path(__file__).with_name("outgateway.py")), str(self.share_dir)]
        nowhere = asyncio.subprocess.DEVNULL
        gateway = await asyncio.create_subprocess_exec(
            *program, "worklets.gatewayprocess", stdin=nowhere, stdout=nowhere, stderr=nowhere,
            env={**self.env, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.gateways.append(gateway)


@asynccontextmanager
async def open_outside(path: Path, share_dir: Path, *, hosts: bool) -> AsyncIterator[Outside]:
    """`hosts`: worklets reach hosts outside, through Flow's proxy, and only containers do."""
    async with AsyncExitStack() as stack:
        bao = await asyncio.to_thread(stack.enter_context, open_bao(path / "bao"))
        found = await stack.enter_async_context(vendor(f"Bearer {VENDOR_TOKEN}"))
        kept = {"flow/mcp/linear": {"token": VENDOR_TOKEN, "url": found.url}, "team/db": {"password": SHARED}}
        for name, values in kept.items():
            bao.admin.secrets.kv.v2.create_or_update_secret(name, values, mount_point="secret")
        host = await stack.enter_async_context(git_host(path / "host"))
        bare = host.make(REPOSITORY, files={".claude/container.yaml": _CONTAINER})
        git("-C", str(bare), "config", "core.logAllRefUpdates", "true")
        address = host.url.replace("http://", f"http://{USER}:{TOKEN}@")
        outside = Outside(host, found, bao, share_dir=share_dir)
        outside.env = {
            "FLOW_REPOSITORIES": f"app={address}/{REPOSITORY}",
            "FLOW_LOCAL_REPOSITORIES": "true",  # so is one on loopback
            "FLOW_MIRROR_FRESH": "1h",
            "FLOW_SECRETS": "vault",
            "VAULT_ADDR": bao.url,
            "VAULT_TOKEN": bao.token("flow"),
            "FLOW_VAULT_SHARED": "team",
        }
        await _template(share_dir)
        if hosts:
            await _hosts(outside, stack)
        yield outside


async def _template(share_dir: Path) -> None:
    """One that gives its sessions something of Vault."""
    dsn = f"sqlite://{share_dir / 'db.sqlite'}"
    await schema.migrated(dsn)
    database = open_database(dsn)

    async def stored() -> bool:
        with contextlib.suppress(StoreUnavailable):  # it is fast or nothing, and this machine may be busy
            await TemplateStore(database).add(drafted("trusted", "", _TEMPLATE, is_public=True), "U0ADMIN")
            return True
        return False

    await until(stored, timeout=60)
    await database.close()


async def _hosts(outside: Outside, stack: AsyncExitStack) -> None:
    async def hello(request: web.Request) -> web.Response:
        outside.heard[request.host.partition(":")[0]] += 1
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    outside.port = int(runner.addresses[0][1])
    outside.env |= {
        "FLOW_EGRESS": "allow-list",
        "FLOW_EGRESS_ASK": "*.askable.test",
        "FLOW_EGRESS_PORTS": f"80,443,{outside.port}",
    }
    stack.push_async_callback(_end, outside)
    await outside.stand_by()
    await until((outside.share_dir / "gateway" / "control.sock").exists, timeout=60)


async def _end(outside: Outside) -> None:
    for gateway in outside.gateways:
        with contextlib.suppress(ProcessLookupError):
            gateway.kill()
        await gateway.wait()
