"""The embedded store's one writer, shared: no worklet holds it for long, however much it asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.sqlite import SqliteStore

GREEDY, OTHER = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
OWNER = "00000000-0000-4000-8000-0000000000aa"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "kv.sqlite", max_keys=1000, max_bytes=1 << 30)
    await store.open()
    for worklet_id in (GREEDY, OTHER):
        await store.register(worklet_id, OWNER, "")
    yield store
    await store.close()


async def ask(store: SqliteStore, worklet_id: str, function: str, **arguments: Any) -> Any:
    return json.loads(await store.call(Caller.of_worklet(worklet_id), function, validated(function, arguments)))


def appends(number: int) -> str:
    return json.dumps([{"op": "append", "key": "long", "value": "y"}] * number)


async def test_a_transaction_that_handles_too_much_is_refused_whole(store: SqliteStore) -> None:
    long = json.dumps("x" * 1_000_000)
    await ask(store, GREEDY, "kv_set", p_namespace="default", p_key="long", p_value=long)
    with pytest.raises(Refusal, match="split it") as caught:
        await ask(store, GREEDY, "kv_transaction", p_operations=appends(50))
    assert (caught.value.code, caught.value.hint) == ("54000", "KV_TOO_LARGE")
    answer = await ask(store, GREEDY, "kv_transaction", p_operations=appends(5))
    assert answer["results"][-1]["length"] == 1_000_005, "of the refused one nothing stayed"


async def test_others_get_their_turns(store: SqliteStore) -> None:
    long = json.dumps("x" * 500_000)
    await ask(store, GREEDY, "kv_set", p_namespace="default", p_key="long", p_value=long)
    greedy = [asyncio.create_task(ask(store, GREEDY, "kv_transaction", p_operations=appends(8))) for _ in range(40)]
    await asyncio.sleep(0)  # all of them have asked
    await ask(store, OTHER, "kv_set", p_namespace="default", p_key="k", p_value="1")
    assert sum(one.done() for one in greedy) < 20
    answers = await asyncio.gather(*greedy)
    assert max(answer["results"][-1]["length"] for answer in answers) == 500_000 + 40 * 8
