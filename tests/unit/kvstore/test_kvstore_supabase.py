"""SupabaseBackend and SupabaseAdmin against a server whose answers are written here, as Supabase's API gives them."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from waiting import until

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.supabase import SupabaseAdmin, SupabaseBackend
from kvstore.gateway.tokens import SharedSecret

SECRET = "hunter2 is nobody's business, least of all a log's"
MINTER = SharedSecret(SECRET)
KEY = "sb_publishable_0123456789"
WORKLET = "6a6f2f0c-0d5a-4c5b-9d8e-0f5f0c6b7a11"
GET = validated("kv_get", {"p_namespace": "default", "p_key": "k"})
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Project:
    """Answers with `answer`; remembers what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.answers: list[tuple[int, Any]] = []
        self.answer: Answer | None = None

    def says(self, status: int, body: Any) -> None:
        """From now on. A string is sent as HTML, all else as JSON."""
        self.answers, self.answer = [(status, body)], None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, json.loads(await request.read()), dict(request.headers)))
        if self.answer is not None:
            return await self.answer(request)
        status, body = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        return web.json_response(body, status=status)


@pytest.fixture
async def project() -> AsyncIterator[Project]:
    made = Project()
    app = web.Application(client_max_size=32 << 20)
    app.router.add_post("/rest/v1/rpc/{function}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    made.url = f"http://{host}:{port}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def backend(project: Project) -> AsyncIterator[SupabaseBackend]:
    made = SupabaseBackend(project.url, KEY, MINTER)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def admin(project: Project) -> AsyncIterator[SupabaseAdmin]:
    made = SupabaseAdmin(project.url, "sb_secret_0123456789")
    yield made
    await made.close()


def pg(code: str, hint: str | None = None) -> dict[str, Any]:
    """An error body of PostgREST, whose message and details quote what nobody may see."""
    return {"code": code, "message": f"a message with {SECRET}", "details": f"details with {SECRET}", "hint": hint}


def caller(worklet_id: str = WORKLET, issued_at: float | None = None) -> Caller:
    issued = time.time() - 60 if issued_at is None else issued_at
    return Caller("worklet", worklet_id, None, issued, f"token-of-{worklet_id}")


async def refused(backend: SupabaseBackend, who: Caller | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await backend.call(who or caller(), "kv_get", GET)
    body = json.dumps(caught.value.body())
    assert SECRET not in body
    assert caught.value.message.endswith((".", ")"))
    return caught.value


# Requests


async def test_a_call_carries_the_callers_token_and_the_publishable_key(
    project: Project, backend: SupabaseBackend
) -> None:
    project.says(200, {"key": "k"})
    assert json.loads(await backend.call(caller(), "kv_get", GET)) == {"key": "k"}
    path, body, headers = project.asked[0]
    assert path == "/rest/v1/rpc/kv_get"
    assert body == {"p_namespace": "default", "p_key": "k", "p_worklet_id": None}
    assert headers["Authorization"] == f"Bearer token-of-{WORKLET}"
    assert headers["apikey"] == KEY


async def test_four_hundred_calls_at_once_keep_their_own_tokens(project: Project, backend: SupabaseBackend) -> None:
    async def echo(request: web.Request) -> web.Response:
        await asyncio.sleep(0)
        return web.json_response(request.headers["Authorization"])

    project.answer = echo
    names = [str(uuid.uuid4()) for _ in range(20)]

    async def ask(name: str) -> tuple[str, str]:
        return name, json.loads(await backend.call(caller(name), "kv_get", GET))

    told = await asyncio.gather(*(ask(name) for name in names * 20))
    assert len(told) == 400
    assert all(answer == f"Bearer token-of-{name}" for name, answer in told)


async def test_a_caller_without_a_token_gets_one_of_their_own(project: Project, backend: SupabaseBackend) -> None:
    project.says(200, None)
    owner = str(uuid.uuid4())
    for who in (Caller.of_worklet(WORKLET), Caller("authenticated", None, owner), Caller.of_worklet(WORKLET)):
        assert await backend.call(who, "kv_get", GET) == "null"
    sent = [headers["Authorization"].removeprefix("Bearer ") for _, _, headers in project.asked]
    worklets, persons = (
        jwt.decode(token, SECRET, algorithms=["HS256"], audience="flow-kv") for token in (sent[0], sent[1])
    )
    assert (worklets["role"], worklets["worklet_id"], worklets["sub"]) == ("worklet", WORKLET, WORKLET)
    assert (persons["role"], persons["sub"], persons.get("worklet_id")) == ("authenticated", owner, None)
    assert sent[2] == sent[0], "a token is kept while it is good"


async def test_nobody_is_refused_without_a_request(project: Project, backend: SupabaseBackend) -> None:
    assert (await refused(backend, Caller("authenticated", None, None))).status == 401
    assert project.asked == []


async def test_a_kept_token_is_made_anew_before_it_expires(project: Project) -> None:
    project.says(200, None)
    now = time.time()
    backend = SupabaseBackend(project.url, KEY, MINTER, clock=lambda: now)
    for later in (0, 599, 1, 599):
        now += later
        await backend.call(Caller.of_worklet(WORKLET), "kv_get", GET)
    await backend.close()
    assert len({headers["Authorization"] for _, _, headers in project.asked}) == 2


async def test_the_waiting_time_stays_with_the_gateway(project: Project, backend: SupabaseBackend) -> None:
    project.says(200, {"changes": [], "cursor": "0", "reset": False})
    await backend.call(caller(), "kv_watch", validated("kv_watch", {"p_wait": 5}))
    assert "p_wait" not in project.asked[0][1]


async def test_a_body_of_many_megabytes_arrives_whole(project: Project, backend: SupabaseBackend) -> None:
    project.says(200, 3)
    values = {f"k{n}": "é" * 500_000 for n in range(3)}
    arguments = validated("kv_mset", {"p_namespace": "n", "p_entries": json.dumps(values)})
    assert await backend.call(caller(), "kv_mset", arguments) == "3"
    _, body, headers = project.asked[0]
    assert json.loads(body["p_entries"]) == values
    assert int(headers["Content-Length"]) > 3_000_000


async def test_the_answer_is_passed_on_as_it_came(project: Project, backend: SupabaseBackend) -> None:
    text = '{"value":12345678901234567890123,"x":1e300,"f":1.0}'

    async def exact(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    project.answer = exact
    assert await backend.call(caller(), "kv_get", GET) == text


# Refusals


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, pg("22023", "KV_NOT_A_NUMBER"), (400, "22023", "KV_NOT_A_NUMBER")),
        (400, pg("22023", "KV_INVALID"), (400, "22023", "KV_INVALID")),
        (400, pg("22P02"), (400, "22P02", "KV_INVALID")),
        (400, pg("22P05"), (400, "22P05", "KV_INVALID")),
        (400, pg("22003"), (400, "22003", "KV_INVALID")),
        (400, pg("23514"), (400, "23514", "KV_INVALID")),
        (400, pg("21000"), (400, "21000", "KV_INVALID")),
        (500, pg("54000", "KV_QUOTA_BYTES"), (413, "54000", "KV_QUOTA_BYTES")),
        (500, pg("54000", "KV_TOO_LARGE"), (413, "54000", "KV_TOO_LARGE")),
        (403, pg("42501", "KV_FORBIDDEN"), (403, "42501", "KV_FORBIDDEN")),
        (403, pg("42501", "KV_REVOKED"), (403, "42501", "KV_REVOKED")),
        (401, pg("PGRST301"), (401, "PGRST301", None)),
        (401, pg("42501"), (401, "PGRST301", None)),
        (401, pg("PGRST303"), (401, "PGRST303", None)),
        (404, pg("PGRST202", "Perhaps you meant"), (404, "PGRST202", None)),
        (404, pg("PGRST205"), (404, "PGRST202", None)),
        (503, pg("PGRST000"), (503, "PGRST000", None)),
        (504, pg("PGRST003"), (503, "PGRST000", None)),
        (503, pg("53300"), (503, "PGRST000", None)),
        (500, pg("57014"), (503, "PGRST000", None)),
        (500, pg("XX000"), (500, "XX000", None)),
        (500, pg("SUP"), (500, "XX000", None)),
    ],
)
async def test_errors_of_the_api_become_the_stores(
    project: Project, backend: SupabaseBackend, status: int, body: Any, expected: tuple[int, str, str | None]
) -> None:
    project.says(status, body)
    refusal = await refused(backend)
    assert (refusal.status, refusal.code, refusal.hint) == expected
    assert len(project.asked) == 1, "to try again is the client's matter"


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (401, pg("PGRST301"), 401, "public key"),
        (404, pg("PGRST202"), 404, "flow db upgrade --kv"),
        (403, pg("42501"), 503, "lacks a grant"),
        (403, pg("42501", "Grant the required privileges"), 503, "lacks a grant"),
        (401, {"message": "Invalid API key", "hint": "Double check"}, 503, "SUPABASE_ANON_KEY"),
        (401, {"message": "No API key found in request"}, 503, "SUPABASE_ANON_KEY"),
        (540, "<p>Project paused</p>", 503, "paused"),
        (402, {"message": "exceeds its quota"}, 503, "plan"),
        (502, "<h1>Bad Gateway</h1>", 503, "not available now"),
        (521, "<h1>Web server is down</h1>", 503, "not available now"),
        (524, "<h1>A timeout occurred</h1>", 504, "not available now"),
        (413, "<h1>Too large</h1>", 413, "size"),
        (404, "<h1>Nothing here</h1>", 503, "SUPABASE_URL"),
        (200, "<h1>Welcome</h1>", 503, "SUPABASE_URL"),
        (301, "", 503, "SUPABASE_URL"),
        (405, {"error": "no"}, 503, "SUPABASE_URL"),
    ],
)
async def test_what_is_wrong_with_the_project_is_said_with_what_to_do(
    project: Project, backend: SupabaseBackend, status: int, body: Any, expected: int, said: str
) -> None:
    project.says(status, body)
    refusal = await refused(backend)
    assert (refusal.status, said in refusal.message) == (expected, True), refusal.message
    with pytest.raises(Refusal, match=said):
        await backend.check()


async def test_the_platforms_limit_of_requests_tells_how_long_to_wait(
    project: Project, backend: SupabaseBackend
) -> None:
    async def limited(_: web.Request) -> web.Response:
        return web.json_response({"message": "API rate limit exceeded"}, status=429, headers={"Retry-After": "7"})

    project.answer = limited
    refusal = await refused(backend)
    assert (refusal.status, refusal.code, refusal.hint, refusal.retry_after) == (429, "KV429", "KV_RATE", 7.0)


async def test_a_deadlock_is_tried_again_a_few_times(project: Project, backend: SupabaseBackend) -> None:
    project.answers = [(500, pg("40P01")), (500, pg("40001")), (200, 3)]
    assert await backend.call(caller(), "kv_increment", {"p_key": "k"}) == "3"
    assert len(project.asked) == 3
    project.asked.clear()
    project.says(500, pg("40001"))
    refusal = await refused(backend)
    assert (refusal.status, refusal.code) == (503, "40001")
    assert len(project.asked) == 4


async def test_a_token_of_this_very_second_is_tried_again_when_it_is_not_good_yet(
    project: Project, backend: SupabaseBackend
) -> None:
    project.answers = [(401, pg("PGRST303")), (200, None)]
    assert await backend.call(caller(issued_at=time.time()), "kv_get", GET) == "null"
    project.says(401, pg("PGRST303"))
    project.asked.clear()
    assert (await refused(backend)).code == "PGRST303"
    assert len(project.asked) == 1, "an old one is just expired"


# Connections


async def test_an_address_where_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        backend = SupabaseBackend(f"http://127.0.0.1:{taken.getsockname()[1]}", KEY, MINTER)
        refusal = await refused(backend)
        await backend.close()
    assert (refusal.status, refusal.code, refusal.hint) == (503, "PGRST000", "KV_NOT_BEGUN")
    assert "cannot be reached" in refusal.message


async def test_a_host_that_does_not_exist() -> None:
    backend = SupabaseBackend("http://no-such-project.invalid", KEY, MINTER)
    refusal = await refused(backend)
    await backend.close()
    assert (refusal.status, refusal.code, refusal.hint) == (503, "PGRST000", "KV_NOT_BEGUN")
    assert "no-such-project.invalid" in refusal.message


async def test_a_server_that_is_silent(project: Project) -> None:
    end = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await end.wait()
        return web.json_response(None)

    project.answer = silent
    backend = SupabaseBackend(project.url, KEY, MINTER, timeout=0.1)
    for _ in range(50):  # on a busy machine the time may be up before the request has left
        refusal = await refused(backend)
        if project.asked:
            break
    end.set()
    await backend.close()
    assert (refusal.status, refusal.code) == (504, "PGRST000")


@pytest.mark.parametrize(("scheme", "said"), [("http", "SUPABASE_URL"), ("https", "speaks no TLS")])
async def test_a_server_of_another_kind(scheme: str, said: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        backend = SupabaseBackend(f"{scheme}://{host}:{port}", KEY, MINTER)
        refusal = await refused(backend)
        await backend.close()
    assert (refusal.status, said in refusal.message) == (503, True), refusal.message


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("abcd.supabase.co", KEY, "SUPABASE_URL"),
        ("http://[broken", KEY, "SUPABASE_URL"),
        ("http://127.0.0.1:1", "", "API key"),
        ("http://127.0.0.1:1", "sb_publishable_01…", "API key"),
        ("http://127.0.0.1:1", "two\nlines", "API key"),
    ],
)
async def test_settings_that_cannot_be(url: str, key: str, said: str) -> None:
    backend = SupabaseBackend(url, key, MINTER)
    with pytest.raises(Refusal, match=said):
        await backend.open()
    assert said in (await refused(backend)).message
    await backend.close()


def legacy(role: str) -> str:
    return jwt.encode({"role": role, "iss": "supabase"}, "x" * 40)


@pytest.mark.parametrize("key", ["sb_secret_0123456789", legacy("service_role")])
async def test_the_secret_key_goes_nowhere_as_the_publishable_one(project: Project, key: str) -> None:
    backend = SupabaseBackend(project.url, key, MINTER)
    with pytest.raises(Refusal, match="SUPABASE_ANON_KEY holds the project's secret key") as caught:
        await backend.open()
    assert key not in str(caught.value.body())
    await backend.close()
    assert project.asked == []


@pytest.mark.parametrize("key", [KEY, legacy("anon")])
async def test_a_publishable_key_is_known_for_no_administrators_without_a_request(project: Project, key: str) -> None:
    admin = SupabaseAdmin(project.url, key)
    with pytest.raises(Refusal, match="SUPABASE_SERVICE_ROLE_KEY"):
        await admin.worklets()
    await admin.close()
    assert project.asked == []


@pytest.mark.parametrize("key", [legacy("anon"), "a.b.c", "a.ey.c", "key-of-a-proxy"])
async def test_older_and_other_keys_are_sent_as_they_are(project: Project, key: str) -> None:
    project.says(200, None)
    backend = SupabaseBackend(project.url, key, MINTER)
    assert await backend.call(caller(), "kv_get", GET) == "null"
    await backend.close()
    assert project.asked[0][2]["apikey"] == key


async def test_a_key_may_end_with_a_line(project: Project) -> None:
    """As one that was read from a file does."""
    project.says(200, None)
    backend = SupabaseBackend(project.url + "/", f"{KEY}\n", MINTER)
    assert await backend.call(caller(), "kv_get", GET) == "null"
    await backend.close()
    path, _, headers = project.asked[0]
    assert (path, headers["apikey"]) == ("/rest/v1/rpc/kv_get", KEY)


async def test_a_connection_that_breaks_after_the_request_leaves_the_outcome_open(
    project: Project, backend: SupabaseBackend
) -> None:
    async def breaks(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    project.answer = breaks
    refusal = await refused(backend)
    assert (refusal.status, refusal.code, refusal.hint) == (504, "PGRST000", None)
    assert len(project.asked) == 1


async def test_a_project_that_was_away_is_used_again() -> None:
    project, runners = Project(), []
    project.says(200, None)

    async def start(port: int) -> int:
        app = web.Application()
        app.router.add_post("/rest/v1/rpc/{function}", project.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        return int(runner.addresses[0][1])

    port = await start(0)
    backend = SupabaseBackend(f"http://127.0.0.1:{port}", KEY, MINTER)
    try:
        for _ in range(3):
            assert await backend.call(caller(), "kv_increment", {"p_key": "k"}) == "null"
            await runners[-1].cleanup()
            # The first may still find the connection that is being closed, and cannot know what became of it.
            assert (await refused(backend)).status in (503, 504)
            assert (await refused(backend)).status == 503
            await start(port)
    finally:
        await runners[-1].cleanup()
        await backend.close()


async def test_a_closed_backend_opens_again(project: Project, backend: SupabaseBackend) -> None:
    project.says(200, None)
    await backend.close()
    await backend.close()
    assert await backend.call(caller(), "kv_get", GET) == "null"


# check


async def test_check_is_content_when_a_worklet_that_is_not_there_is_refused(
    project: Project, backend: SupabaseBackend
) -> None:
    project.says(403, pg("42501", "KV_FORBIDDEN"))
    await backend.check()
    [(path, _, headers)] = project.asked
    assert path == "/rest/v1/rpc/kv_has"
    claims = jwt.decode(headers["Authorization"].split()[1], SECRET, algorithms=["HS256"], audience="flow-kv")
    assert claims["role"] == "worklet"


# Admin


async def test_the_administrator_sends_the_secret_key_alone(project: Project, admin: SupabaseAdmin) -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    project.answer = nothing
    await admin.register(WORKLET, "o", "name", max_keys=5, max_bytes=None)
    path, body, headers = project.asked[0]
    assert path == "/rest/v1/rpc/kv_admin_register"
    assert body == {
        "p_worklet_id": WORKLET, "p_owner_id": "o", "p_name": "name", "p_max_keys": 5, "p_max_bytes": None,
    }  # fmt: skip
    assert headers["apikey"] == "sb_secret_0123456789"
    assert headers["Authorization"] == "Bearer sb_secret_0123456789"


async def test_a_sweep_goes_on_while_there_is_more(project: Project, admin: SupabaseAdmin) -> None:
    project.answers = [(200, 5000), (200, 5000), (200, 17), (200, 0), (500, pg("XX000"))]
    assert await admin.sweep() == 10_017
    assert len(project.asked) == 4


@pytest.mark.parametrize("answer", [(401, pg("42501")), (401, pg("PGRST301"))])
async def test_the_publishable_key_is_no_administrators(
    project: Project, admin: SupabaseAdmin, answer: tuple[int, Any]
) -> None:
    project.says(*answer)
    with pytest.raises(Refusal, match="SUPABASE_SERVICE_ROLE_KEY") as caught:
        await admin.worklets()
    assert caught.value.status == 503


async def test_a_worklet_with_many_calls_leaves_connections_to_others(
    project: Project, backend: SupabaseBackend
) -> None:
    """Supabase has 32 connections for all."""
    other = "0a6f2f0c-0d5a-4c5b-9d8e-0f5f0c6b7a12"
    held = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"].endswith(WORKLET):
            await held.wait()
        return web.json_response({"version": 1})

    project.answer = slow
    put = validated("kv_set", {"p_namespace": "default", "p_key": "k", "p_value": "1"})
    calls = [asyncio.create_task(backend.call(caller(), "kv_set", put)) for _ in range(40)]
    calls += [asyncio.create_task(backend.call(caller(), "kv_get", GET)) for _ in range(40)]
    await until(lambda: len(project.asked) == 4 + 8)
    async with asyncio.timeout(8):
        await backend.call(caller(other), "kv_set", put)
        await backend.call(caller(other), "kv_get", GET)
    assert len(project.asked) == 4 + 8 + 2
    held.set()
    await asyncio.gather(*calls)
    assert len(project.asked) == 80 + 2


async def test_who_waits_too_long_behind_itself_is_told_that_nothing_was_begun(project: Project) -> None:
    backend = SupabaseBackend(project.url, KEY, MINTER, timeout=0.5)
    held = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await held.wait()
        return web.json_response(None)

    project.answer = slow
    async with asyncio.timeout(60):
        done = await asyncio.gather(*(backend.call(caller(), "kv_get", GET) for _ in range(30)), return_exceptions=True)
    held.set()
    await backend.close()
    assert all(isinstance(one, Refusal) for one in done)
    assert {one.hint for one in done if isinstance(one, Refusal) and one.status == 503} == {"KV_NOT_BEGUN"}
    assert len(project.asked) < 30
