"""The TypeScript client of the key-value store: the shared cases on Node and real gateways, its build, its types."""

from __future__ import annotations

import asyncio
import filecmp
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kvsupabase
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kvpostgres import made_source
from kvserving import Served, sqlite_source
from playwright.async_api import async_playwright
from supabaselite import SupabaseLite
from typescript import PACKAGE, compiler

from kvstore.gateway.app import KVGateway
from kvstore.gateway.supabase import SupabaseAdmin
from kvstore.gateway.tokens import SharedSecret, Verifier

CASES = Path(__file__).parents[1] / "contracts" / "kv_cases.json"
STRAIGHT = 6  # every sixth case
pytestmark = pytest.mark.node
pytest_plugins = ["kvsupabasefixtures"]


async def run(
    *command: str | Path, at: Path = PACKAGE, said: str = "", environment: dict[str, str] | None = None
) -> str:
    """The program's standard output; AssertionError with all that it said when it fails."""
    program = await asyncio.create_subprocess_exec(
        *command, cwd=at, env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await program.communicate(said.encode())
    assert program.returncode == 0, f"{command} ended with {program.returncode}:\n{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "sqlite":
        with sqlite_source() as source, Served(source) as gateway:
            yield gateway
        return
    with made_source(request.getfixturevalue("postgres_server")) as source, Served(source) as gateway:
        yield gateway


async def test_shared_cases_hold_on_node(served: Served) -> None:
    cases = [case["name"] for case in mine()]
    ids = [served.worklet() for _ in cases]
    result = await ran(cases, [(worklet, served.key.mint_worklet(worklet)) for worklet in ids], url=served.url)
    assert result == {"ran": len(cases), "failures": []}
    assert len(cases) > 150


@pytest.mark.postgres
async def test_shared_cases_hold_on_node_straight_at_supabase(lite: SupabaseLite, lite_admin: SupabaseAdmin) -> None:
    """Some of them: requests take several times as long there. It does not tell limits on size as PostgREST does."""
    cases = [case["name"] for case in mine() if "big" not in case.get("tags", ())][::STRAIGHT]
    ids = [await kvsupabase.worklet(lite_admin) for _ in cases]
    secret = SharedSecret(lite.jwt_secret)
    tokens = [(worklet, secret.mint_worklet(worklet, kvsupabase.earlier())) for worklet in ids]
    result = await ran(cases, tokens, url=lite.url, apiKey=lite.publishable_key)
    assert result == {"ran": len(cases), "failures": []}


def mine() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(CASES.read_text())["cases"]
    return [case for case in cases if "typescript" in case.get("only", ["typescript"])]


async def ran(names: list[str], worklets: list[tuple[str, str]], **place: str) -> Any:
    asked = {**place, "names": names, "worklets": [{"id": worklet, "token": token} for worklet, token in worklets]}
    return json.loads(await run("node", PACKAGE / "tests" / "cases.js", CASES, said=json.dumps(asked)))


async def test_examples_of_the_readme_run(served: Served, tmp_path: Path) -> None:
    (tmp_path / "node_modules" / "@flow").mkdir(parents=True)
    (tmp_path / "node_modules" / "@flow" / "kvstore").symlink_to(PACKAGE)
    examples = re.findall(r"```js\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    (tmp_path / "examples.mjs").write_text("\n".join([examples[0], *(f"{{{example}}}" for example in examples[1:])]))
    worklet = served.worklet()
    (tmp_path / "token").write_text(served.key.mint_worklet(worklet))
    environment = {
        "PATH": str(Path(shutil.which("node") or "node").parent), "FLOW_KV_URL": served.url,
        "FLOW_WORKLET_ID": worklet, "FLOW_KV_TOKEN_FILE": str(tmp_path / "token"),
    }  # fmt: skip
    said = await run("node", tmp_path / "examples.mjs", at=tmp_path, environment=environment)
    for words in (
        "name: 'Ada', visits: 0",
        "size 12\ntheme dark",
        "blue",
        "{ a: 1, b: 2, x: null }",
        "\n70\n",
        "job:1 queued",
    ):
        assert words in said
    assert "quicker" not in said


async def test_a_watch_on_node_misses_nothing_across_restarts_of_the_gateway(tmp_path: Path) -> None:
    with sqlite_source() as source, Served(source) as served:
        worklet = served.worklet()
        with served.store(worklet) as writer:
            watcher = await started_watcher(served, worklet, tmp_path)
            try:
                for number in range(3):
                    await asyncio.to_thread(writer.set, f"k{number}", number)
                    assert await told(watcher) == {
                        "key": f"k{number}",
                        "value": number,
                        "deleted": False,
                        "reset": False,
                    }
                    await asyncio.to_thread(served.stop)
                    await asyncio.to_thread(served.start)
                await asyncio.to_thread(writer.delete, "k0")
                assert (await told(watcher))["deleted"]
            finally:
                watcher.kill()
                await watcher.wait()


async def started_watcher(served: Served, worklet: str, home: Path) -> asyncio.subprocess.Process:
    (home / "token").write_text(served.key.mint_worklet(worklet))
    environment = {"FLOW_KV_URL": served.url, "FLOW_KV_TOKEN_FILE": str(home / "token"), "FLOW_WORKLET_ID": worklet}
    program = shutil.which("node")
    assert program
    return await asyncio.create_subprocess_exec(
        program, PACKAGE / "tests" / "watcher.js", env=environment, stdout=asyncio.subprocess.PIPE
    )


async def told(watcher: asyncio.subprocess.Process) -> dict[str, Any]:
    assert watcher.stdout
    async with asyncio.timeout(60):
        found: dict[str, Any] = json.loads(await watcher.stdout.readline())
        return found


async def test_compiled_files_are_what_the_sources_give(tmp_path: Path) -> None:
    await run(await asyncio.to_thread(compiler), "-p", ".", "--outDir", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (PACKAGE / "dist").iterdir())
    _, mismatch, errors = filecmp.cmpfiles(tmp_path, PACKAGE / "dist", names, shallow=False)
    assert (mismatch, errors) == ([], []), "run `npm run build` in kvstore/typescript and commit dist/"


async def test_types_say_what_the_store_takes_and_gives() -> None:
    await run(await asyncio.to_thread(compiler), "-p", "tests/types")


async def test_unit_tests_pass_on_node() -> None:
    said = await run("node", "--test", "--test-reporter=tap")
    assert re.search(r"^# pass [1-9]\d", said, re.MULTILINE), said[-1000:]
    assert "# fail 0" in said


@pytest.mark.chromium
async def test_the_compiled_package_works_in_a_browser() -> None:
    with sqlite_source() as source:
        backend, admin = await source.backend(), await source.admin()
        worklet = str(uuid.uuid4())
        await admin.register(worklet, str(uuid.uuid4()), "a worklet", max_keys=100, max_bytes=10_000)
        gateway = KVGateway(backend, Verifier(source.signing_key), rate=1000)
        app = web.Application()
        app.add_routes([*gateway.routes(), web.static("/dist", PACKAGE / "dist"), web.get("/", _blank)])
        try:
            async with TestServer(app) as server, async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path="/usr/bin/chromium",
                    timeout=90_000,
                    args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
                )
                page = await browser.new_page()
                await page.goto(str(server.make_url("/")))
                token = source.signing_key.mint_worklet(worklet)
                assert await page.evaluate(IN_A_PAGE, token) == [
                    {"a": 1},
                    None,
                    3,
                    "KVValidationError",
                    "b",
                    "PGRST302",
                ]
                await browser.close()
        finally:
            await gateway.close()
            await admin.close()
            await backend.close()


async def _blank(_: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>A page</title>", content_type="text/html")


IN_A_PAGE = """async (token) => {
    const { createWorkletKVStore } = await import("/dist/index.js");
    const store = createWorkletKVStore(null, { url: location.origin, token });
    await store.set("a", { a: 1 });
    const watch = await store.watch().ready();
    const next = watch.next();
    await store.set("b", 3);
    const { value: change } = await next;
    await watch.return();
    const refused = await store.set("c", 1n).catch((error) => error.name);
    const nobody = createWorkletKVStore(null, { url: location.origin });
    const told = await nobody.get("a").catch((error) => error.code);
    return [await store.get("a"), await store.get("none"), await store.get("b"), refused, change.key, told];
}"""
