"""What Flow tells the key-value store of its worklets, also when that is away."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from config.errors import FlowError
from config.slices.kv import KVSettings
from kvstore.gateway.errors import Refusal, unavailable
from kvstore.gateway.functions import validated
from kvstore.gateway.opening import SIGNING_KEY, StoreNotSet, open_admin, open_backend
from kvstore.gateway.tokens import SigningKey, Verifier
from worklets.kvregistry import Registry, owner_of

W = str(uuid.uuid4())


class Away:
    """An Admin in front of the real one, which is away as long as `why` says something."""

    def __init__(self, share_dir: Path) -> None:
        self.share_dir = share_dir
        self.admin = open_admin(KVSettings(), share_dir)
        self.why: Exception | None = None
        self.calls: list[str] = []
        self.slow = asyncio.Event()
        self.slow.set()
        self.ends = asyncio.Event()
        self.ends.set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*given: Any, **more: Any) -> Any:
            self.calls.append(name)
            try:
                await self.slow.wait()
            except asyncio.CancelledError:
                await self.ends.wait()  # as a driver whose server does not answer that the query is cancelled
                raise
            if self.why is not None and name != "close":
                raise self.why
            return await getattr(self.admin, name)(*given, **more)

        return call


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[Away]:
    away = Away(tmp_path)
    yield away
    await away.admin.close()


@pytest.fixture
async def registry(away: Away) -> AsyncIterator[Registry]:
    def open_admin() -> Any:
        return away

    registry = Registry(open_admin, max_keys=7, max_bytes=1000, patience=0.1, again=(0.01,))
    yield registry
    await registry.aclose()


async def ask(share_dir: Path, token: str, function: str = "kv_stats", **arguments: Any) -> str:
    backend = open_backend(KVSettings(), share_dir)
    await backend.open()
    try:
        caller = Verifier(SigningKey.load(share_dir / SIGNING_KEY)).verify(token)
        given = validated(function, arguments)
        return await backend.call(caller, function, given)
    finally:
        await backend.close()


async def test_a_worklet_is_registered_with_its_owner_and_quotas(
    registry: Registry, away: Away, tmp_path: Path
) -> None:
    await registry.begin(W, "U1", "the first words")
    await registry.begin(W, "U1", "the first words")
    await until(lambda: registry.waiting == 0)
    assert await away.admin.worklets() == [{"id": W, "owner_id": owner_of("U1"), "name": "the first words"}]
    token = SigningKey.load(tmp_path / SIGNING_KEY).mint_worklet(W)
    stats = await ask(tmp_path, token)
    assert '"max_keys":7' in stats.replace(" ", "")
    assert '"max_bytes":1000' in stats.replace(" ", "")


def test_owners_are_uuids_that_stay_the_same() -> None:
    assert owner_of("U1") == owner_of("U1") != owner_of("U2")
    assert owner_of("U1") == "96406e89-93a6-5c22-a089-d62d4621b8d0", "stores keep it"
    assert uuid.UUID(owner_of("U1")).version == 5


async def test_a_store_that_is_away_holds_nobody_up_and_is_told_when_it_is_back(
    registry: Registry, away: Away, capsys: pytest.CaptureFixture[str]
) -> None:
    away.why = unavailable("The database is away.")
    began = time.monotonic()
    await registry.begin(W, "U1", "x")
    assert time.monotonic() - began < 5
    await until(lambda: len(away.calls) > 3)
    assert (registry.waiting, registry.trouble) == (1, "The key-value store refused: The database is away.")
    away.why = OSError("other trouble, that a driver raises")
    tries = len(away.calls)
    await until(lambda: len(away.calls) > tries + 2)
    away.why = None
    await until(lambda: registry.waiting == 0)
    assert registry.trouble == ""
    assert [one["id"] for one in await away.admin.worklets()] == [W]
    said = capsys.readouterr()
    assert (said.out + said.err).count("it is tried again") == 2, "each trouble once"


async def test_a_slow_store_is_waited_for_a_moment_only(registry: Registry, away: Away) -> None:
    away.slow.clear()
    async with asyncio.timeout(30):
        await registry.begin(W, "U1", "x")
    assert registry.waiting == 1
    away.slow.set()
    await until(lambda: registry.waiting == 0)
    assert len(await away.admin.worklets()) == 1


async def test_a_store_that_does_not_end_a_call_delays_no_session(registry: Registry, away: Away) -> None:
    away.slow.clear()
    away.ends.clear()
    async with asyncio.timeout(20):
        for _ in range(4):
            await registry.begin(W, "U1", "x")
            await registry.end(W)
        await until(lambda: len(away.calls) >= 8)
        assert registry.waiting == 2
        away.slow.set()
        await registry.remove(W)
        closing = asyncio.create_task(registry.aclose())
        await until(lambda: away.calls[-1] == "close")
        away.ends.set()
        await closing
    assert registry.waiting == 0
    again = open_admin(KVSettings(), away.share_dir)
    assert await again.worklets() == [], "no registration comes after the removal"
    await again.close()


async def test_one_that_is_known_is_made_sure_of_and_not_waited_for(away: Away) -> None:
    registry = Registry(lambda: away, max_keys=7, max_bytes=1000, patience=3600)  # type: ignore[arg-type, return-value]
    await registry.begin(W, "U1", "x")
    await away.admin.remove(W)
    away.slow.clear()
    async with asyncio.timeout(60):
        await registry.begin(W, "U1", "x")
    away.slow.set()
    await until(lambda: registry.waiting == 0)
    assert len(await away.admin.worklets()) == 1
    await registry.aclose()


async def test_settings_that_lack_something_are_said(away: Away) -> None:
    def open_admin() -> Any:
        raise StoreNotSet("SUPABASE_SERVICE_ROLE_KEY is not set.", suggestion="Set it.")

    registry = Registry(open_admin, max_keys=1, max_bytes=1, patience=0.1, again=(60.0,))
    await registry.begin(W, "U1", "x")
    assert registry.trouble == "SUPABASE_SERVICE_ROLE_KEY is not set. Set it."
    await registry.remove(W)  # nothing of ours is there, and the session is to go
    with pytest.raises(FlowError, match="SUPABASE_SERVICE_ROLE_KEY"):
        await registry.sweep()
    async with asyncio.timeout(10):
        await registry.aclose()


async def test_tokens_are_void_after_the_end_and_new_ones_work_at_once(registry: Registry, tmp_path: Path) -> None:
    key = SigningKey.load(tmp_path / SIGNING_KEY)
    await registry.begin(W, "U1", "x")
    old = key.mint_worklet(W)
    await ask(tmp_path, old, "kv_set", p_namespace="default", p_key="k", p_value="1")
    await registry.end(W)
    with pytest.raises(Refusal) as refused:
        await ask(tmp_path, old)
    assert (refused.value.status, refused.value.hint) == (403, "KV_REVOKED")
    await registry.begin(W, "U1", "x")
    assert '"value":1' in await ask(tmp_path, key.mint_worklet(W), "kv_get", p_namespace="default", p_key="k")
    with pytest.raises(Refusal):
        await ask(tmp_path, old)


async def test_a_revocation_that_comes_late_spares_the_next_process(
    registry: Registry, away: Away, tmp_path: Path
) -> None:
    key = SigningKey.load(tmp_path / SIGNING_KEY)
    await registry.begin(W, "U1", "x")
    old = key.mint_worklet(W)
    away.why = unavailable("away")
    await registry.end(W)
    new = key.mint_worklet(W)
    away.why = None
    await until(lambda: registry.waiting == 0)
    await ask(tmp_path, new)
    with pytest.raises(Refusal):
        await ask(tmp_path, old)


async def test_what_is_removed_is_gone_and_stays_so(registry: Registry, away: Away) -> None:
    away.why = unavailable("away")
    await registry.begin(W, "U1", "x")
    with pytest.raises(FlowError, match="away"):
        await registry.remove(W)
    away.why = None
    await registry.remove(W)
    assert registry.waiting == 0, "no registration that comes later brings it back"
    assert await away.admin.worklets() == []


async def test_it_sweeps_once_a_minute(away: Away) -> None:
    now = 1_000_000.0
    registry = Registry(lambda: away, max_keys=1, max_bytes=1, clock=lambda: now)  # type: ignore[arg-type, return-value]
    for _ in range(3):
        await registry.sweep()
    assert away.calls.count("sweep") == 1
    now += 61
    await registry.sweep()
    assert away.calls.count("sweep") == 2
    away.why, now = unavailable("The database is away."), now + 61
    with pytest.raises(FlowError, match="away"):
        await registry.sweep()
