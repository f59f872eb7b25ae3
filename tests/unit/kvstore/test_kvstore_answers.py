"""What one answer may hold: not all that a worklet keeps, in the memory of the process that serves every worklet."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import MAX_ANSWER_CHARACTERS, Refusal, bounded
from kvstore.gateway.functions import validated
from kvstore.gateway.sqlite import SqliteStore


async def test_many_large_values_are_asked_for_in_parts(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "kv.sqlite", max_keys=1000, max_bytes=1 << 30)
    await store.open()
    caller = Caller.of_worklet(str(uuid.uuid4()))
    await store.register(str(caller.worklet_id), str(uuid.uuid4()), "", max_keys=None, max_bytes=None)

    async def call(function: str, **arguments: Any) -> Any:
        return json.loads(await store.call(caller, function, validated(function, arguments)))

    try:
        await call("kv_set", p_namespace="default", p_key="k", p_value=json.dumps("x" * 1_000_000))
        look = {"op": "get", "key": "k"}
        many = json.dumps([{"op": "set", "key": "new", "value": 1}, *[look] * 68])
        with pytest.raises(Refusal, match="ask for fewer keys") as refused:
            await call("kv_transaction", p_operations=many)
        assert (refused.value.status, refused.value.hint) == (413, "KV_TOO_LARGE")
        assert await call("kv_has", p_namespace="default", p_key="new") is False, "nothing of it was done"
        assert len((await call("kv_transaction", p_operations=json.dumps([look] * 9)))["results"]) == 9
    finally:
        await store.close()


def test_the_parts_are_counted_as_they_come() -> None:
    asked = 0

    def parts() -> Any:
        nonlocal asked
        while True:
            asked += 1
            yield "x" * (MAX_ANSWER_CHARACTERS // 4)

    with pytest.raises(Refusal):
        bounded(parts())
    assert asked == 5, "the rest is not even read"
    assert bounded(["a", "b"]) == ["a", "b"]
