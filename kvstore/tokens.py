"""Where the bearer token comes from: a fixed text, the caller's function, or a file that is renewed in place."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from kvstore.connections import Ask, Steps
from kvstore.errors import KVPermissionError

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]


class TokenSource(ABC):
    """`renewable`: asking again may give another token."""

    renewable = False

    @abstractmethod
    def current(self) -> Steps[str]:
        """The token to send now."""

    def renewed(self) -> Steps[str]:
        """After the store has refused the current one."""
        return self.current()


class FixedToken(TokenSource):
    def __init__(self, token: str) -> None:
        self._token = _checked(token)

    def current(self) -> Steps[str]:
        return self._token
        yield  # a generator, as the others


class AskedToken(TokenSource):
    """Asks the caller's function before each request."""

    renewable = True

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def current(self) -> Steps[str]:
        return _checked((yield Ask(self._function)))


class TokenFile(TokenSource):
    """Reads the file anew when it has changed: whoever renews the token writes it there."""

    renewable = True

    def __init__(self, path: str) -> None:
        self._path = path
        self._read: tuple[object, str] = (None, "")

    def current(self) -> Steps[str]:
        return self._text(again=False)
        yield

    def renewed(self) -> Steps[str]:
        return self._text(again=True)
        yield

    def _text(self, *, again: bool) -> str:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - pathlib is slow to import
            state = (found.st_mtime_ns, found.st_ino, found.st_size)
            known, token = self._read
            if again or state != known:
                with open(self._path, encoding="utf-8") as file:  # noqa: PTH123
                    token = _checked(file.read().strip())
                self._read = (state, token)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise KVPermissionError(
                f"The token cannot be read from {self._path}: {reason}. Is this code running in a worklet?",
                code="PGRST302",
            ) from None
        return token


class NoToken(TokenSource):
    def current(self) -> Steps[str]:
        raise KVPermissionError(
            "There is no token: set FLOW_KV_TOKEN_FILE, or pass token= or token_file=.", code="PGRST302"
        )
        yield


def _checked(token: object) -> str:
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise KVPermissionError("The token is no token: it must be one line of ASCII text.", code="PGRST301")
    return token
