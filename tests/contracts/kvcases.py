"""Takes the steps of `kv_cases.json` with the Python client, the blocking one or the asynchronous one."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kvstore.errors import KVError

CASES: list[dict[str, Any]] = [
    case
    for case in json.loads((Path(__file__).parent / "kv_cases.json").read_text())["cases"]
    if "python" in case.get("only", ["python"])
]
_SECONDS = 60.0


def _cycle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


BAD = {"cycle": _cycle, "date": lambda: datetime(2026, 1, 1), "function": lambda: print, "bytes": lambda: b"x"}  # noqa: DTZ001


def made(word: Any, variables: Mapping[str, Any]) -> Any:
    """An argument or an expected result, with what JSON has no word for filled in."""
    if isinstance(word, list):
        return [made(item, variables) for item in word]
    if not isinstance(word, dict):
        return word
    if len(word) == 1 and next(iter(word)) in _MAKERS:
        ((name, about),) = word.items()
        return _MAKERS[name](about, variables)
    return {name: made(item, variables) for name, item in word.items()}


def _nest(about: Any, variables: Mapping[str, Any]) -> Any:
    depth, inner = about[0], made(about[1], variables)
    for _ in range(depth):
        inner = [inner]
    return inner


_MAKERS: dict[str, Any] = {
    "$var": lambda name, variables: variables[name],
    "$repeat": lambda about, _: about[0] * about[1],
    "$nest": _nest,
    "$times": lambda about, variables: [made(about[1], variables)] * about[0],
    "$keys": lambda about, _: [f"{about[0]}{number:04}" for number in range(about[1])],
    "$object": lambda about, variables: {f"{about[0]}{n:04}": made(about[2], variables) for n in range(about[1])},
    "$number": lambda name, _: {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[name],
    "$bad": lambda name, _: BAD[name](),
}


def difference(want: Any, have: Any, variables: Mapping[str, Any], at: str = "result") -> str | None:
    """Where `have` is not what is wanted, or None."""
    if isinstance(want, dict) and len(want) == 1 and next(iter(want)).startswith("$"):
        ((name, about),) = want.items()
        if name in _MATCHERS:
            return _MATCHERS[name](about, have, variables, at)
        if name in _MAKERS:
            return difference(_MAKERS[name](about, variables), have, {}, at)
    if isinstance(want, dict) and isinstance(have, dict):
        if want.keys() != have.keys():
            return f"{at} has the names {sorted(have)[:20]}, not {sorted(want)[:20]}"
        return _first(difference(item, have[name], variables, f"{at}.{name}") for name, item in want.items())
    if isinstance(want, list) and isinstance(have, list):
        if len(want) != len(have):
            return f"{at} has {len(have)} items, not {len(want)}: {str(have)[:300]}"
        pairs = zip(want, have, strict=True)
        return _first(difference(w, h, variables, f"{at}.{i}") for i, (w, h) in enumerate(pairs))
    same = want == have and isinstance(want, bool) == isinstance(have, bool)
    return None if same else f"{at} is {str(have)[:300]!r}, not {str(want)[:300]!r}"


def _first(found: Iterator[str | None]) -> str | None:
    return next((words for words in found if words), None)


def _is(kind: Any, have: Any, _variables: Mapping[str, Any], at: str) -> str | None:
    if kind == "any":
        return None
    if kind == "time":
        right = isinstance(have, str) and datetime.fromisoformat(have).tzinfo is not None
    elif kind == "version":
        right = type(have) is int and have > 0
    elif kind == "text":
        right = isinstance(have, str)
    else:
        right = type(have) in (int, float)
    return None if right else f"{at} is {str(have)[:200]!r}, no {kind}"


def _has(about: Any, have: Any, variables: Mapping[str, Any], at: str) -> str | None:
    if not isinstance(have, dict) or not about.keys() <= have.keys():
        return f"{at} is {str(have)[:300]}, without {sorted(about)}"
    return _first(difference(item, have[name], variables, f"{at}.{name}") for name, item in about.items())


def _above(about: Any, have: Any, variables: Mapping[str, Any], at: str) -> str | None:
    least = made(about, variables)
    right = type(have) in (int, float) and have > least
    return None if right else f"{at} is {str(have)[:200]!r}, not above {least!r}"


def _not(about: Any, have: Any, variables: Mapping[str, Any], at: str) -> str | None:
    return f"{at} is {str(have)[:200]!r}" if difference(about, have, variables) is None else None


def _length(about: Any, have: Any, _variables: Mapping[str, Any], at: str) -> str | None:
    return None if len(have) == about else f"{at} has {len(have)} items, not {about}"


_MATCHERS: dict[str, Any] = {"$is": _is, "$has": _has, "$above": _above, "$not": _not, "$length": _length}


def plain(result: Any) -> Any:
    """A result of the client as the JSON that the cases speak."""
    if is_dataclass(result) and not isinstance(result, type):
        return {name: plain(item) for name, item in asdict(result).items()}
    if isinstance(result, datetime):
        return result.isoformat()
    if isinstance(result, Mapping):
        return {name: plain(item) for name, item in result.items()}
    if isinstance(result, list | tuple):
        return [plain(item) for item in result]
    return result


async def take(case: Mapping[str, Any], store: Any) -> None:
    """AssertionError names the step and what was wrong."""
    variables: dict[str, Any] = {}
    for number, step in enumerate(case["steps"]):
        where = f"step {number} ({step['do']} {str(step.get('args', ''))[:120]})"
        arguments = made(step.get("args", []), variables)
        options = made(step.get("with", {}), variables)
        try:
            result = plain(await _do(store, step["do"], arguments, options))
        except KVError as error:
            _check(error, step, where)
            continue
        assert "fails" not in step, f"{where} gave {str(result)[:200]} and should have failed"
        if "gives" in step:
            wrong = difference(step["gives"], result, variables)
            assert wrong is None, f"{where}: {wrong}"
        for name, path in step.get("save", {}).items():
            variables[name] = _at(result, path)


def _check(error: KVError, step: Mapping[str, Any], where: str) -> None:
    assert "fails" in step, f"{where} failed: {type(error).__name__} {error.code} {error.hint}: {error}"
    kind, *hint = step["fails"]
    names = [one.__name__ for one in type(error).__mro__]
    assert kind in names, f"{where} failed with {type(error).__name__} ({error}), not {kind}"
    if hint:
        assert error.hint == hint[0], f"{where} failed with {error.hint} ({error}), not {hint[0]}"
    if "failed" in step:
        assert error.failed == step["failed"], f"{where}: failed is {error.failed}"
    if "hides" in step:
        words = [str(error), repr(error), error.code, error.hint, *map(str, error.args)]
        assert not [word for word in words if word and step["hides"] in word], f"{where} tells what it should hide"


def _at(result: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        result = result[int(part)] if isinstance(result, list) else result[part]
    return result


async def _do(store: Any, name: str, arguments: list[Any], options: dict[str, Any]) -> Any:
    own = globals().get(f"_do_{name}")
    if own is not None:
        return await own(store, *arguments, **options)
    if name.startswith("view_"):
        return await _view(store, name.removeprefix("view_"), *arguments)
    return await _result(getattr(store, name)(*arguments, **options))


async def _result(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


async def _all(given: Any, most: float = math.inf) -> list[Any]:
    """Items of an iterator of either kind."""
    found: list[Any] = []
    if isinstance(given, AsyncIterator):
        async with aclosing(given) as items:  # type: ignore[type-var]
            async for item in items:
                found.append(item)
                if len(found) >= most:
                    break
        return found
    with closing(given) as items:
        for item in items:
            found.append(item)
            if len(found) >= most:
                break
    return found


async def _do_scan(store: Any, *arguments: Any, **options: Any) -> Any:
    return await _all(store.scan(*arguments, **options))


async def _do_watch(store: Any, *arguments: Any, take: int, **options: Any) -> Any:
    return await _all(store.watch(*arguments, **options), take)


async def _do_transaction(store: Any, operations: list[dict[str, Any]]) -> Any:
    work = store.transaction()
    for operation in operations:
        options = dict(operation)
        name = options.pop("op")
        places = [options.pop(place) for place in ("key", "value", "version") if place in options]
        getattr(work, name)(*places, **options)
    return await _result(work.commit())


async def _do_until_missing(store: Any, key: str) -> None:
    async with asyncio.timeout(_SECONDS):
        while await _result(store.has(key)):
            await asyncio.sleep(0.01)


async def _do_until_empty(store: Any, namespace: str) -> None:
    async with asyncio.timeout(_SECONDS):
        while (await _result(store.list(namespace=namespace))).entries:
            await asyncio.sleep(0.01)


async def _view(store: Any, name: str, namespace: str, *arguments: Any) -> Any:
    """The mapping of a namespace; the asynchronous client has a store of that namespace instead."""
    view = store.namespace(namespace)
    if not hasattr(view, "__setitem__"):
        return await _async_view(view, name, *arguments)
    if name == "get":
        return view.get(*arguments)
    if name == "set":
        view[arguments[0]] = arguments[1]
        return None
    if name == "has":
        return arguments[0] in view
    if name == "delete":
        try:
            del view[arguments[0]]
        except KeyError:
            return False
        return True
    return list(view) if name == "keys" else len(view)


async def _async_view(view: Any, name: str, *arguments: Any) -> Any:
    if name in ("keys", "len"):
        keys = [entry.key for entry in await _all(view.scan())]
        return keys if name == "keys" else len(keys)
    return await getattr(view, name)(*arguments)
