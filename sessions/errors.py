"""What can go wrong with sessions.

SessionError
├── SessionNotFound
├── ShuttingDown
├── SessionBusy           what was asked for needs a session that is not working
├── StoreUnavailable      the database does not answer or is full
├── StoreBusy             another Flow uses the same data directory
└── LeaseLost             another process took this session over
"""

from config.errors import FlowError


class SessionError(FlowError):
    """The session failed."""


class SessionNotFound(SessionError):
    """There is no such session."""

    suggestion = "List them with `flow sessions list`."


class ShuttingDown(SessionError):
    """Flow is restarting."""

    suggestion = "Send the message again in a moment."


class SessionBusy(SessionError):
    """Claude is working here."""

    suggestion = "Stop it, or wait for the end of the answer, then try again."


class StoreUnavailable(SessionError):
    """The database does not answer."""

    suggestion = "Check FLOW_DSN, the disk and the server, then run `flow doctor`."


class StoreBusy(SessionError):
    """Another Flow is running on this data directory."""

    suggestion = "Stop it first, or set FLOW_SHARE_DIR to another directory."


class LeaseLost(SessionError):
    """Another process has taken this session over."""
