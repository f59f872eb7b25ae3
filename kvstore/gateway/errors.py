"""What the gateway and its backends answer when they do not do what was asked.

Every refusal is one exception with an HTTP status and PostgREST's error body. A message never holds a value, a key,
a namespace or a token: people's logs keep messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

KV_INVALID = "KV_INVALID"
KV_TOO_LARGE = "KV_TOO_LARGE"
KV_NOT_A_NUMBER = "KV_NOT_A_NUMBER"
KV_NOT_APPENDABLE = "KV_NOT_APPENDABLE"
KV_OUT_OF_RANGE = "KV_OUT_OF_RANGE"
KV_QUOTA_BYTES = "KV_QUOTA_BYTES"
KV_QUOTA_KEYS = "KV_QUOTA_KEYS"
KV_RATE = "KV_RATE"
KV_FORBIDDEN = "KV_FORBIDDEN"
KV_REVOKED = "KV_REVOKED"
KV_NOT_BEGUN = "KV_NOT_BEGUN"

#: A thousand values of 1 MiB would be a gigabyte in the memory of the process that serves all worklets.
MAX_ANSWER_CHARACTERS: Final = 16 * 1_048_576


class Refusal(Exception):
    """A request that was refused: `status` is HTTP's, `code` and `hint` are for programs, `message` for people.

    `retry_after` is in seconds, where waiting helps.
    """

    def __init__(
        self, status: int, code: str, message: str, hint: str | None = None, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.retry_after = retry_after

    def body(self) -> dict[str, str | None]:
        """PostgREST's error body. `details` is always null: PostgreSQL's own quote values."""
        return {"code": self.code, "message": self.message, "details": None, "hint": self.hint}


def invalid(message: str) -> Refusal:
    """An argument that breaks a rule."""
    return Refusal(400, "22023", message, KV_INVALID)


def too_large(message: str) -> Refusal:
    return Refusal(413, "54000", message, KV_TOO_LARGE)


def answer_too_large() -> Refusal:
    return too_large(f"The answer would have more than {MAX_ANSWER_CHARACTERS} characters; ask for fewer keys.")


def bounded(texts: Iterable[str]) -> list[str]:
    """The parts of an answer. Raises Refusal as soon as they are too much for one, whatever more there would be."""
    found: list[str] = []
    size = 0
    for text in texts:
        size += len(text)
        if size > MAX_ANSWER_CHARACTERS:
            raise answer_too_large()
        found.append(text)
    return found


def not_a_number() -> Refusal:
    return Refusal(400, "22023", "The value is not a number, so nothing can be added to it.", KV_NOT_A_NUMBER)


def not_appendable() -> Refusal:
    message = "Only a string can be appended to a string, anything to a list, and nothing to other values."
    return Refusal(400, "22023", message, KV_NOT_APPENDABLE)


def out_of_range() -> Refusal:
    return Refusal(400, "22023", "The result is outside the range of a double.", KV_OUT_OF_RANGE)


def quota_keys(maximum: int) -> Refusal:
    return Refusal(413, "54000", f"The worklet holds all of the {maximum} keys that it may have.", KV_QUOTA_KEYS)


def quota_bytes(maximum: int) -> Refusal:
    return Refusal(413, "54000", f"The worklet's store would be over its {maximum} bytes.", KV_QUOTA_BYTES)


def forbidden() -> Refusal:
    """Another worklet, another owner's, or none: the answer does not tell which."""
    return Refusal(403, "42501", "This token may not use this worklet's store.", KV_FORBIDDEN)


def revoked() -> Refusal:
    return Refusal(403, "42501", "This token was revoked.", KV_REVOKED)


def too_many(retry_after: float) -> Refusal:
    message = f"Too many operations a second; try again in {retry_after:.3f} s."
    return Refusal(429, "KV429", message, KV_RATE, retry_after=retry_after)


def no_token() -> Refusal:
    return Refusal(401, "PGRST302", "A token is needed: send it as Authorization: Bearer.")


def unknown_function(known: str) -> Refusal:
    return Refusal(404, "PGRST202", f"There is no such function. There are: {known}.")


def unavailable(message: str) -> Refusal:
    """The database is away; `message` says why and what to do."""
    return Refusal(503, "PGRST000", message)


def not_begun(refused: Refusal) -> Refusal:
    """The same, before anything of the request was begun: clients may repeat an increment too."""
    return Refusal(refused.status, refused.code, refused.message, KV_NOT_BEGUN)
