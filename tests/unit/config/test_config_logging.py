import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from config.logging import bind, configure, get_logger
from config.masking import MASK, LearningMasker, Masker


@pytest.fixture(autouse=True)
def _root_logger_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_each_line_carries_thread_session_and_turn_also_those_of_libraries() -> None:
    out = io.StringIO()
    configure("json", stream=out)
    with bind(thread="C1:1.2", session="s1", turn="t1"):
        get_logger("flow.test").info("settled", outcome="done")
        logging.getLogger("some.library").warning("odd %s", "thing")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[0]["event"] == "settled"
    assert lines[0]["outcome"] == "done"
    assert lines[1]["event"] == "odd thing"
    assert all((x["thread"], x["session"], x["turn"]) == ("C1:1.2", "s1", "t1") for x in lines)


def test_debug_shows_what_is_hidden_otherwise() -> None:
    for debug in (False, True):
        out = io.StringIO()
        configure("console", debug=debug, stream=out)
        get_logger("flow.test").debug("edit sent")
        logging.getLogger("slack_sdk").info("retrying")
        assert ("edit sent" in out.getvalue()) is debug
        assert ("retrying" in out.getvalue()) is debug


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_says_nothing_of_variables(style: Literal["console", "json"]) -> None:
    out = io.StringIO()
    configure(style, stream=out)
    token = "".join(["s.", "only-a-variable"])
    try:
        raise ValueError("no such key")
    except ValueError:
        logging.getLogger("some.library").exception("refused")
    assert "no such key" in out.getvalue()
    assert token not in out.getvalue()


@pytest.mark.parametrize("style", ["console", "json"])
def test_no_secret_gets_into_the_log(style: Literal["console", "json"]) -> None:
    secret, out = "hunter2-hunter2", io.StringIO()
    configure(style, stream=out, masker=Masker([secret]))
    log = get_logger("flow.test")
    try:
        raise ValueError(f"no such key: {secret}")
    except ValueError as error:
        log.exception(f"refused {secret}", given={"in": [secret]}, error=error)
    logging.getLogger("some.library").warning("calling https://me:%s@example.com with %r", secret, {"k": secret})
    assert "refused" in out.getvalue()
    assert "Traceback" in out.getvalue()
    assert secret not in out.getvalue()
    assert out.getvalue().count(MASK) >= 5


def test_a_secret_that_becomes_known_later_is_masked_from_then_on() -> None:
    out, known = io.StringIO(), list[str]()
    configure("json", stream=out, masker=LearningMasker(["hunter2-hunter2"], lambda: list(known)))
    log = get_logger("flow.test")
    known.append("read-from-a-store")
    log.info("hunter2-hunter2 and read-from-a-store")
    assert json.loads(out.getvalue())["event"] == f"{MASK} and {MASK}"
