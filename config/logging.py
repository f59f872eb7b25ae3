"""Structured logging: one event a line, with the thread, session and turn that it belongs to.

`bind(session=…, turn=…)` sets the context of the running task and of all tasks that it starts; every line
carries it, those of libraries too. Console lines for people, JSON lines for machines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from config.masking import Masker

#: Libraries whose every request and retry a debugging person wants to know.
_CHATTY = ("slack_bolt", "slack_sdk", "aiohttp.access")
#: Libraries that would drown the rest.
_NOISY = (
    "sqlalchemy", "alembic", "aiosqlite", "apscheduler", "asyncio", "docker", "httpx", "tzlocal", "urllib3",
    "websockets",
)  # fmt: skip

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose methods take an event and key-value pairs: `log.info("turn settled", outcome="done")`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bind(**context: Any) -> AbstractContextManager[None]:
    """Adds `thread=`, `session=`, `turn=` … to all lines logged inside the `with` block."""
    return structlog.contextvars.bound_contextvars(**context)


def configure(
    style: Literal["console", "json"] = "console",
    debug: bool = False,
    stream: TextIO | None = None,
    masker: Masker | Callable[[], Masker] | None = None,
) -> None:
    """Sets up the root logger on `stream` (default stderr). `debug` also shows what chatty libraries say of retries.

    `masker` takes secrets out of every line: events, values, tracebacks, those of libraries too. A callable is asked at
    each line: secrets may become known later.
    """
    out = stream or sys.stderr
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        # structlog's own choice prints every frame's variables: secrets, and seconds in which nothing else runs.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0, exception_formatter=plain)
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if style == "json" or masker is not None:
        final.append(structlog.processors.format_exc_info)
    if masker is not None:
        final.append(_masking(masker))
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[*final, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.WARNING)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _masking(given: Masker | Callable[[], Masker]) -> structlog.typing.Processor:
    def mask(
        _logger: structlog.typing.WrappedLogger, _method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        masker = given() if callable(given) else given
        return {name: masker.value(_plain(value)) for name, value in line.items()}

    return mask


def _plain(value: Any) -> Any:
    """What a renderer would print of it, so that there is nothing left that is not a string when it is masked."""
    known = value is None or isinstance(value, str | int | float | dict | list | tuple)
    return value if known else repr(value)
