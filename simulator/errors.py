"""What a Web API method may answer instead of `ok`."""

from typing import Any


class SlackError(Exception):
    """A Slack error string, answered as HTTP 200 with `{"ok": false, "error": …}`."""

    def __init__(self, error: str, *messages: str, **extra: Any) -> None:
        super().__init__(error)
        self.error = error
        self.messages = messages
        self.extra = extra

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"ok": False, "error": self.error, **self.extra}
        if self.messages:
            body["response_metadata"] = {"messages": list(self.messages)}
        return body


class RateLimited(Exception):
    """HTTP 429; `retry_after` in whole seconds, as Slack's header has it."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after
