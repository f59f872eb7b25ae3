"""What the store's client raises.

KVError
├── KVValidationError   an argument or a value breaks a rule; the same call will fail again
├── KVPermissionError   no token, a bad, expired or revoked one, or another worklet's store
├── KVQuotaError        the worklet holds all that it may, or asks too often
├── KVConflictError     a check of a transaction did not hold
└── KVConnectionError   the store cannot be reached, or broke off

No message holds a value, a key, a namespace or a token, so that all of them may be logged. `code` is PostgREST's or
PostgreSQL's code and `hint` the store's own word for the reason (KV_TOO_LARGE, say); either may be None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KV_INVALID = "KV_INVALID"
KV_TOO_LARGE = "KV_TOO_LARGE"
KV_NOT_BEGUN = "KV_NOT_BEGUN"  # the store is away, and nothing of the request was begun

#: PostgreSQL's own codes for what the client calls invalid. Its messages quote values, so they are never shown.
_INVALID = {
    "22P02": "An argument is of the wrong kind.",
    "22P05": "A string may not hold the character NUL.",
    "23514": "An argument breaks a rule of the store's table.",
    "22003": "A number is outside its range.",
    "21000": "The same key stands twice in one request.",
    "22023": "An argument breaks a rule.",
}
_TOKEN = {
    "PGRST302": "The store wants a token: set FLOW_KV_TOKEN_FILE, or pass token= or token_file=.",
    "PGRST303": "The token has expired: it needs to be renewed.",
    "PGRST301": "The token is not valid for this store.",
}


class KVError(Exception):
    """The store did not do what was asked.

    `outcome_unknown`: this request, or an earlier attempt of the same call, may have arrived all the same, so the
    change may have been made; look before doing it again.
    """

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.hint, self.status = code, hint, status
        self.outcome_unknown = False


class KVValidationError(KVError):
    """An argument or a value breaks a rule. Most are found before anything is sent."""


class KVPermissionError(KVError):
    """The token is missing, bad, expired or revoked, or the store belongs to another worklet."""


class KVQuotaError(KVError):
    """The worklet holds as many keys or bytes as it may, or asks more often than it may (hint KV_RATE)."""


class KVConflictError(KVError):
    """A check of a transaction did not hold, so nothing was changed. `failed` is the check's index among the steps."""

    def __init__(self, message: str, *, failed: int) -> None:
        super().__init__(message)
        self.failed = failed

    def __reduce__(self) -> tuple[Any, ...]:
        return _conflict, (str(self), self.failed)


class KVConnectionError(KVError):
    """The store cannot be reached, or the connection broke off. See `outcome_unknown`."""

    def __init__(
        self,
        message: str,
        *,
        outcome_unknown: bool = False,
        code: str | None = None,
        hint: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint, status=status)
        self.outcome_unknown = outcome_unknown


def _conflict(message: str, failed: int) -> KVConflictError:
    return KVConflictError(message, failed=failed)


def invalid(message: str) -> KVValidationError:
    """An argument that breaks a rule, found by the client itself."""
    return KVValidationError(message, code="22023", hint=KV_INVALID)


def too_large(message: str) -> KVValidationError:
    return KVValidationError(message, code="54000", hint=KV_TOO_LARGE)


def from_answer(status: int, body: object, function: str) -> KVError:
    """The error that an answer tells. `body` is its JSON, or None where it was none."""
    told: Mapping[str, Any] = body if isinstance(body, dict) else {}
    code, hint = _text(told.get("code")), _text(told.get("hint"))
    if hint is not None and not hint.startswith("KV_"):  # PostgreSQL's and PostgREST's own hints may quote
        hint = None
    # Only the store's own messages, known by their hint, are sure to hold no value.
    message = _text(told.get("message")) if hint else None
    kind, words = _kind_and_words(status, code, hint, function)
    if kind is KVConnectionError:
        return KVConnectionError(message or words, code=code, hint=hint, status=status)
    return kind(message or words, code=code, hint=hint, status=status)


def _kind_and_words(status: int, code: str | None, hint: str | None, function: str) -> tuple[type[KVError], str]:
    if status == 429:
        return KVQuotaError, "Too many operations a second."
    if hint in ("KV_QUOTA_BYTES", "KV_QUOTA_KEYS"):
        return KVQuotaError, "The worklet's store is full."
    if code in _INVALID:
        return KVValidationError, _INVALID[code]
    if code == "54000" or status == 413:
        return KVValidationError, "The value or the request is too large."
    if code in ("PGRST202", "PGRST205"):
        return KVError, f"The server has no function {function}: apply the migrations, or reload its schema."
    if code == "42501" or status == 403:
        return KVPermissionError, "This token may not use this worklet's store."
    if status == 401:
        return KVPermissionError, _TOKEN.get(code or "", _TOKEN["PGRST301"])
    if code in ("40001", "40P01"):
        return KVError, "The store was too busy with other changes of the same keys; try again."
    if status in (502, 503, 504):
        return KVConnectionError, f"The store is away (HTTP {status})."
    if status == 404 or 300 <= status < 400:
        return KVError, f"There is no store at this address (HTTP {status}): check FLOW_KV_URL or url=."
    return KVError, f"The store failed (HTTP {status}{', ' + code if code else ''})."


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
