"""The root of every error that Flow raises on purpose.

    FlowError                    config/errors.py
    ├── SettingsError            config/settings.py
    ├── WorkletError             worklets/errors.py
    └── SessionError             sessions/errors.py

A class's docstring is its message for people; `suggestion` says what to do next. Edges word them
(bot/errors.py for Slack, bot/cli.py for the terminal, web/ for HTTP); nobody else does.
"""

import inspect


class FlowError(Exception):
    """Something went wrong in Flow."""

    suggestion: str = ""

    def __init__(self, message: str | None = None, *, suggestion: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)
        if suggestion is not None:
            self.suggestion = suggestion

    def sentence(self) -> str:
        """The message and, where there is one, what to do next: one line of plain text."""
        message = str(self).strip()
        return f"{message} {self.suggestion}".strip()
