"""What can go wrong with a relay of one's own.

RelayError
├── CommandFailed     the command could not be started
└── RelayGone         the client's end: the process has ended, or the relay will not have us
"""

from typing import Any, Literal

from worklets.errors import WorkletError

Code = Literal["CONNECTION_REFUSED", "TIMEOUT", "UNAUTHORIZED", "GONE"]

_NEXT: dict[Code, str] = {
    "CONNECTION_REFUSED": "Check that the relay runs and that its address is right; the client goes on trying.",
    "TIMEOUT": "Call again with more time, or look what the process is doing.",
    "UNAUTHORIZED": "Give the relay's token: it is in its token file, or was printed when it started.",
    "GONE": "Start the relay's command again and connect anew.",
}


class RelayError(WorkletError):
    """The relay failed."""


class CommandFailed(RelayError):
    """The command could not be started. `exit_code` is a shell's for it: 127 not found, 126 not executable."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, suggestion="Check its name, and its path.")
        self.exit_code = exit_code


class RelayGone(RelayError):
    """The relay is gone."""

    def __init__(self, message: str, code: Code = "GONE", suggestion: str | None = None) -> None:
        super().__init__(message, suggestion=_NEXT[code] if suggestion is None else suggestion)
        self.code: Code = code


def failure(error: str, code: Code, suggestion: str | None = None) -> dict[str, Any]:
    """A call that could not be answered, in the shape that all tools of the project use for it."""
    return {
        "success": False,
        "error": error,
        "code": code,
        "details": {"suggestion": _NEXT[code] if suggestion is None else suggestion},
    }
