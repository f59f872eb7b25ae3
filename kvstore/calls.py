"""One call of a function of the store: the request, its retries, its errors."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from kvstore.connections import Lost, Pool, Sleep, Steps
from kvstore.errors import KV_NOT_BEGUN, KVConnectionError, KVError, KVQuotaError, from_answer, too_large
from kvstore.http1 import Answer, BadAnswer
from kvstore.tokens import TokenSource

VERSION: Final = "0.1.0"
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_BUSY_CODES: Final = ("40001", "40P01")  # PostgreSQL took the transaction back: nothing was changed
_STALE_TOKEN: Final = ("PGRST301", "PGRST303")

T = TypeVar("T")
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class Effect:
    """What becomes of the store when a request is sent twice."""

    READ: Final = "read"
    REPEATABLE: Final = "repeatable"  # the second one changes nothing more
    COUNTED: Final = "counted"  # as before, but the second one's answer does not count what the first one deleted
    ONCE: Final = "once"


class Address(NamedTuple):
    """Where the store is: `root` is the path before /rest/v1/rpc/."""

    scheme: str
    host: str
    port: int
    root: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


class _Tried:
    """What became of a call's attempts until now. `arrived`: one of them may have reached the store."""

    arrived = False


class Caller:
    """Calls functions of one store with one source of tokens. Holds no connection: each call brings its pool."""

    def __init__(
        self,
        address: Address,
        tokens: TokenSource,
        api_key: str | None,
        worklet_id: str | None,
        timeout: float,
    ) -> None:
        self.address, self.tokens, self.timeout = address, tokens, timeout
        self._worklet_id = worklet_id
        key = f"apikey: {api_key}\r\n" if api_key else ""
        self._head = (
            f" HTTP/1.1\r\nHost: {address.authority}\r\nUser-Agent: flow-kvstore/{VERSION}\r\n{key}"
            "Accept: application/json\r\nAccept-Encoding: identity\r\nContent-Type: application/json\r\n"
        )

    def call(
        self,
        pool: Pool,
        function: str,
        arguments: Mapping[str, Any],
        effect: str,
        shape: Callable[[Any], T],
        *,
        wait: float = 0.0,
    ) -> Steps[T]:
        """The function's result, made by `shape` from its JSON. `wait`: seconds that the server may take on purpose.

        Raises KVError.
        """
        tried = _Tried()
        try:
            found = yield from self._answer(pool, function, self._body(arguments), effect, wait, tried)
            return self._result(found, function, effect, shape, tried)
        except KVError as error:
            # Whatever came last, a refusal too: an attempt before it may have been carried out.
            error.outcome_unknown = error.outcome_unknown or (tried.arrived and effect is not Effect.READ)
            raise

    def _answer(
        self, pool: Pool, function: str, body: bytes, effect: str, wait: float, tried: _Tried
    ) -> Steps[tuple[Answer, Any]]:
        """The answer, and its JSON. Raises KVError."""
        deadline = time.monotonic() + self.timeout + wait
        token = yield from self.tokens.current()
        renewed = False
        attempt = 0
        problem: KVError | None = None
        while True:
            if pool.closed:
                raise closed()
            try:
                answer = yield from pool.exchange(
                    self._request(function, token, body), deadline, once=effect is Effect.ONCE
                )
            except Lost as lost:
                tried.arrived = tried.arrived or lost.arrived
                # Why an earlier attempt failed tells more than that the time is up.
                if problem is None or not (isinstance(lost.cause, TimeoutError) and _is_connection(problem)):
                    problem = self._lost(lost.cause, wait)
                again = not lost.arrived or effect is not Effect.ONCE
                again = again and not _is_hopeless(lost.cause)
                pause = 0.0 if lost.reused and attempt == 0 else pause_before(attempt)
            except BadAnswer as bad:
                tried.arrived, again, pause = True, False, 0.0
                problem = KVConnectionError(f"{self._where()}: {bad}.")
            else:
                told = _json(answer)
                if 200 <= answer.status < 300:
                    return answer, told
                problem = from_answer(answer.status, told, function)
                if answer.status == 401 and problem.code in _STALE_TOKEN and self.tokens.renewable and not renewed:
                    renewed, token = True, (yield from self.tokens.renewed())
                    continue
                again, pause = _again(answer, problem, effect), pause_before(attempt)
                away = isinstance(problem, KVConnectionError) and problem.hint != KV_NOT_BEGUN
                tried.arrived = tried.arrived or away
                if isinstance(problem, KVQuotaError):
                    pause = _retry_after(answer) + pause / 4
            if pool.closed:
                raise closed()
            if not again or time.monotonic() + pause >= deadline:
                raise problem
            attempt += 1
            if pause:
                yield Sleep(pause)

    def _body(self, arguments: Mapping[str, Any]) -> bytes:
        told = {f"p_{name}": value for name, value in arguments.items()}
        if self._worklet_id is not None:
            told["p_worklet_id"] = self._worklet_id
        body = _dumps(told).encode()
        if len(body) > MAX_BODY_BYTES:
            raise too_large(f"A request may have {MAX_BODY_BYTES} bytes; this one has more: send it in parts.")
        return body

    def _request(self, function: str, token: str, body: bytes) -> bytes:
        head = (
            f"POST {self.address.root}/rest/v1/rpc/{function}{self._head}"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _result(
        self, found: tuple[Answer, Any], function: str, effect: str, shape: Callable[[Any], T], tried: _Tried
    ) -> T:
        answer, told = found
        if told is _NO_JSON and answer.body:
            raise KVConnectionError(
                f"{self._where()}: what answers there is no key-value store: check FLOW_KV_URL or url=.",
                outcome_unknown=effect is not Effect.READ,
                status=answer.status,
            )
        if effect is Effect.COUNTED and told == 0 and tried.arrived:
            raise KVConnectionError(
                f"{self._where()}: the connection broke off, and the call was repeated. Nothing is there now; whether "
                "this call deleted it is not known.",
                outcome_unknown=True,
                status=answer.status,
            )
        try:
            return shape(None if told is _NO_JSON else told)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError):
            raise KVError(
                f"{function} answered in a way that this client does not know: one of the two is too old.",
                status=answer.status,
            ) from None

    def _lost(self, cause: OSError, wait: float) -> KVConnectionError:
        if isinstance(cause, TimeoutError):
            return KVConnectionError(f"{self._where()}: no answer within {self.timeout + wait:g} s.")
        return KVConnectionError(f"{self._where()}: {_reason(cause)}.")

    def _where(self) -> str:
        return f"The store at {self.address.scheme}://{self.address.authority}"


_NO_JSON: Final = object()


def _is_connection(problem: KVError) -> bool:
    return isinstance(problem, KVConnectionError)


def closed() -> KVError:
    return KVError("The store was closed.", code="KV_CLOSED")


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body.decode()) if answer.body else _NO_JSON
    except (ValueError, RecursionError):
        return _NO_JSON


def _again(answer: Answer, problem: KVError, effect: str) -> bool:
    if answer.status == 429 or problem.code in _BUSY_CODES or problem.hint == KV_NOT_BEGUN:
        return True
    return isinstance(problem, KVConnectionError) and effect is not Effect.ONCE


def pause_before(attempt: int) -> float:
    import random

    # Never zero, and different for each of many clients that lost the same server.
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(answer: Answer) -> float:
    try:
        seconds = float(answer.headers.get("retry-after", "0"))
    except ValueError:  # a date: rare, and clocks differ
        return 1.0
    return seconds if 0 <= seconds < 3600 else 3600.0


def _is_hopeless(cause: OSError) -> bool:
    """A certificate that is not trusted will not be in a second either."""
    return type(cause).__name__ == "SSLCertVerificationError"


def _reason(cause: OSError) -> str:
    if _is_hopeless(cause):
        return f"its certificate is not trusted ({getattr(cause, 'verify_message', '')})"
    if (cause.errno or 0) > 0 and "SSL" not in type(cause).__name__:
        return os.strerror(cause.errno or 0)  # asyncio has words of its own for a connection that is refused
    return (cause.strerror or str(cause) or type(cause).__name__).rstrip(".")
