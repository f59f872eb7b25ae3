"""No row crosses the line between worklets in PostgreSQL: operations of all callers, judged exactly.

20,000 of them, always the same; in `make chaos` 100,000.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import kvwalls
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings
from kvfuzz import RUNNER, Fuzz
from postgres import postgres_server  # noqa: F401 - fixture

from kvstore.gateway.app import KVGateway
from kvstore.gateway.functions import FUNCTIONS
from kvstore.gateway.postgres import PostgresBackend
from kvstore.gateway.tokens import SigningKey, Verifier

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(900)]

CHAOS = settings.get_current_profile_name() == "chaos"
OPERATIONS = 100_000 if CHAOS else 20_000
ROUNDS = 5 if CHAOS else 2  # of 400 requests and more over HTTP
LINES = 2  # connections at once; the machine's cores, say
BATCH = 500


async def test_operations_see_and_change_ones_own_rows_alone(postgres_server: str) -> None:  # noqa: F811
    superuser, _ = await kvwalls.make_owned_database(postgres_server)
    async with _connected(superuser) as connection:
        await _fuzz_and_compare(superuser, connection)


@pytest.mark.parametrize("mutant", [
    "alter policy kv_worklet on public.worklet_kv_store using (true)",
    "alter function public.kv_list(text, text, text, integer, boolean, uuid) security definer",
])  # fmt: skip
async def test_the_fuzz_notices_a_loosened_wall(postgres_server: str, mutant: str) -> None:  # noqa: F811
    superuser, _ = await kvwalls.make_owned_database(postgres_server)
    async with _connected(superuser) as connection:
        await connection.execute(RUNNER)
        await connection.execute(mutant)
    with pytest.raises(AssertionError):
        await _fuzz(superuser, Fuzz(1), 5000)


async def _fuzz_and_compare(superuser: str, connection: Any) -> None:
    await connection.execute(RUNNER)
    lines = [Fuzz(seed) for seed in range(LINES)]
    await asyncio.gather(*(_fuzz(superuser, line) for line in lines))
    for line in lines:
        for tenant in line.tenants:
            rows = await connection.fetch(
                "select namespace, key, value::text from public.worklet_kv_store where worklet_id = $1", tenant.id
            )
            assert {(r[0], r[1]): json.loads(r[2]) for r in rows} == tenant.rows
        assert all(len(tenant.rows) > 10 for tenant in line.tenants), "there is something that could be seen"
    foreign = await connection.fetchval("select count(*) from public.worklet_kv_store")
    assert foreign == sum(len(tenant.rows) for line in lines for tenant in line.tenants)
    counts = [sum(line.counts[kind] for line in lines) for kind in lines[0].counts]
    assert sum(counts) == OPERATIONS
    assert min(counts) > OPERATIONS / 20, "each kind was tried"


async def _fuzz(dsn: str, line: Fuzz, operations: int = OPERATIONS // LINES) -> None:
    async with _connected(dsn) as connection:
        for tenant in line.tenants:
            await connection.execute("select public.kv_admin_register($1, $2)", tenant.id, tenant.owner)
            # A token from before that is void.
            await connection.execute("select public.kv_admin_revoke($1, to_timestamp(1500000000))", tenant.id)
        for _ in range(operations // BATCH):
            batch = [line.operation() for _ in range(BATCH)]
            sent = json.dumps([operation.sent() for operation in batch])
            results = json.loads(await connection.fetchval("select fuzz.run($1)", sent))
            for operation, result in zip(batch, results, strict=True):
                line.judge(operation, result)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn, server_settings={"synchronous_commit": "off", "jit": "off"})
    try:
        yield connection
    finally:
        await connection.close()


def _encoded(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bad_tokens(key: SigningKey, worklet: str) -> dict[str, str | None]:
    """Tokens that must not open the worklet, by name. None: no header at all."""
    now = time.time()
    claims = {"role": "worklet", "worklet_id": worklet, "sub": worklet, "aud": "flow-kv", "iss": "flow", "iat": now,
              "exp": now + 900}  # fmt: skip
    good = key.mint_worklet(worklet)
    header, body, signature = good.split(".")
    kid = jwt.get_unverified_header(good)["kid"]
    private = ec.generate_private_key(ec.SECP256R1())
    pem = key.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    hs256 = f"{_encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{_encoded(claims)}"
    other = f"{_encoded({**claims, 'role': 'service_role'})}"
    return {
        "none": None,
        "empty": "",
        "garbage": "not.a.token",
        "expired": key.mint_worklet(worklet, now=now - 3600),
        "forged": jwt.encode(claims, private, "ES256", headers={"kid": kid}),
        "alg none": f"{_encoded({'alg': 'none', 'typ': 'JWT', 'kid': kid})}.{_encoded(claims)}.",
        "HS256 with the public key": f"{hs256}.{_encoded(hmac.digest(pem, hs256.encode(), 'sha256'))}",
        "changed claims": f"{header}.{other}.{signature}",
        "cut signature": f"{header}.{body}.{signature[:-4]}",
        **{
            name: jwt.encode({**claims, **change}, key_of(key), "ES256", headers={"kid": kid})
            for name, change in (
                ("wrong audience", {"aud": "authenticated"}),
                ("service role", {"role": "service_role"}),
                ("postgres role", {"role": "postgres"}),
                ("injected role", {"role": "worklet; set role postgres"}),
                ("injected worklet", {"worklet_id": f"{worklet}' or true --"}),
            )
        },
    }


def key_of(key: SigningKey) -> Any:
    """For tokens that are signed right and say what they must not."""
    return key.private


async def test_requests_over_http_see_ones_own_rows_alone(postgres_server: str, tmp_path: Path) -> None:  # noqa: F811
    superuser, _ = await kvwalls.make_owned_database(postgres_server)
    async with _connected(superuser) as connection:
        await kvwalls.seed(connection)
        before = await kvwalls.everything(connection)
        key = SigningKey.load(tmp_path / "key.pem")
        backend = PostgresBackend(superuser.replace("://flow@", "://authenticator@"))
        await backend.open()
        gateway = KVGateway(backend, Verifier(key), rate=1e9)
        application = web.Application()
        application.add_routes(gateway.routes())
        async with TestClient(TestServer(application)) as client:
            answered = await _try_all(client, key)
        await gateway.close()
        await backend.close()
        assert answered["refused"] >= 400 * ROUNDS
        assert answered["own"] >= 400
        assert await kvwalls.everything(connection) == before, "nothing was changed"


async def _try_all(client: TestClient[Any, Any], key: SigningKey) -> dict[str, int]:
    """Requests of all functions: with bad tokens, for other worklets, and reads of ones own."""
    a, b, c = kvwalls.A, kvwalls.B, kvwalls.C
    answered = {"refused": 0, "own": 0}
    chances = random.Random(5)

    async def post(name: str, body: dict[str, Any], token: str | None) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with client.post(f"/rest/v1/rpc/{name}", json=body, headers=headers) as response:
            return response.status, await response.text()

    async def refused(name: str, body: dict[str, Any], token: str | None, *statuses: int) -> None:
        status, text = await post(name, body, token)
        assert status in statuses, f"{name} {body} gave {status} {text}"
        assert not any(f'"of": "{w}"' in text for w in kvwalls.OWNERS)
        assert json.loads(text)["details"] is None
        answered["refused"] += 1

    bad = _bad_tokens(key, a)
    for _ in range(ROUNDS):
        for name in FUNCTIONS:
            body = _body(name, chances)
            for token in bad.values():
                await refused(name, body, token, 401, 403)
                await refused(name, {**body, "p_worklet_id": b}, token, 401, 403)
            await refused(name, {**body, "p_worklet_id": b}, key.mint_worklet(a), 403)
            await refused(name, {**body, "p_worklet_id": c}, key.mint_person(kvwalls.P), 403)
            await refused(name, body, key.mint_person(kvwalls.P), 403)
            await refused(name, {**body, "p_worklet_id": a}, key.mint_person(a), 403)
            await refused(name, {**body, "p_worklet_id": f"{b}' or true --"}, key.mint_worklet(a), 400)
            await refused(name, {**body, "worklet_id": b}, key.mint_worklet(a), 400)
            await refused(f"{name}) union select kv_admin_worklets(", body, key.mint_worklet(a), 404)
    for _ in range(100):
        for worklet in (a, b):
            for name in ("kv_get", "kv_list"):
                body = _body(name, chances)
                for token, named in ((key.mint_worklet(worklet), None), (key.mint_person(kvwalls.P), worklet)):
                    status, text = await post(name, {**body, "p_worklet_id": named}, token)
                    assert status == 200
                    assert not any(f'"of": "{w}"' in text for w in kvwalls.OWNERS if w != worklet)
                    seen = name == "kv_list" or (body["p_namespace"], body["p_key"]) in kvwalls.KEYS
                    assert (f'"of": "{worklet}"' in text) == (seen and body["p_namespace"] != INJECTED)
                    answered["own"] += 1
    return answered


INJECTED = "' or true --"


def _body(name: str, chances: random.Random) -> dict[str, Any]:
    """Arguments that the function takes; some try to break out of theirs."""
    values: dict[str, Any] = {
        "p_namespace": chances.choice(("default", "other", INJECTED)),
        "p_key": chances.choice(
            ("a", "b", "'; drop table worklet_kv_store; --", "(select set_config('role', 'postgres', true))")
        ),
        "p_keys": ["a", "b", '"}, {'],
        "p_value": '{"worklet_id": "x"}',
        "p_entries": '{"a": 1, "\\", x": 2}'.replace('\\", x', "'; --"),
        "p_operations": json.dumps([{"op": "set", "key": "a", "value": 1}]),
        "p_values": True,
    }
    return {a.name: values[a.name] for a in FUNCTIONS[name].arguments if a.name in values}
