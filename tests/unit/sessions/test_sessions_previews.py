"""Links to previews: whom they let in, for how long, and to what."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from sessions.previews import OPEN_SECONDS, PARAMETER, Links, Preview, wanted
from sessions.types import SessionId
from worklets.identity import Identity

ME = Identity("01234567", b"k" * 32)
ONE = Preview("0" * 16, SessionId("s"), 3000, "", "/", None, datetime(2026, 1, 1, tzinfo=UTC), None)
OTHER = Preview("1" * 16, SessionId("s"), 3001, "", "/", None, datetime(2026, 1, 1, tzinfo=UTC), None)


class Now:
    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def token_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)[PARAMETER][0]


def test_a_link_is_for_one_person_one_preview_and_some_minutes() -> None:
    now = Now()
    links = Links(ME, "https://*.preview.example.org", now)
    link = links.link(ONE, "U1")
    assert link.startswith(f"https://{ONE.id}.preview.example.org/?{PARAMETER}=")
    token = token_of(link)
    assert links.user("link", ONE.id, token) == "U1"
    assert links.user("link", OTHER.id, token) is None
    assert links.user("cookie", ONE.id, token) is None
    assert links.user("link", ONE.id, token.replace("U1", "U2", 1)) is None
    assert Links(Identity("01234567", b"x" * 32), links.url, now).user("link", ONE.id, token) is None
    now.seconds += OPEN_SECONDS
    assert links.user("link", ONE.id, token) == "U1"
    now.seconds += 1
    assert links.user("link", ONE.id, token) is None


@pytest.mark.parametrize("token", ["", "U1", "U1.2", "U1.9.zz", "..", "U1.1000." + "0" * 64, "é.1." + "0" * 64])
def test_what_is_no_token(token: str) -> None:
    assert Links(ME, "http://*.localhost", Now()).user("link", ONE.id, token) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/?flow_preview=T"),
        ("/a?b=1", "/a?b=1&flow_preview=T"),
        ("/#/x", "/?flow_preview=T#/x"),
        ("/#/users?id=1", "/?flow_preview=T#/users?id=1"),
    ],
)
def test_where_a_link_leads(path: str, expected: str) -> None:
    links = Links(ME, "http://*.localhost:8080", Now())
    preview = Preview(ONE.id, ONE.session_id, 3000, "", path, None, ONE.created_at, None)
    link = links.link(preview, "U1")
    assert link == f"http://{ONE.id}.localhost:8080{expected}".replace("=T", f"={token_of(link)}")


def test_what_claude_may_ask_for() -> None:
    assert wanted({"port": 3000}) == {"port": 3000, "path": "/", "title": "", "command": None}
    full = {"port": 1, "path": "/a?b", "title": " A\n title ", "command": "npm start"}
    assert wanted(full) == {"port": 1, "path": "/a?b", "title": "A title", "command": "npm start"}
    for bad in ({}, [], None, {"port": "3000"}, {"port": True}, {"port": 0}, {"port": 65536},
                {"port": 1, "path": "//evil.test"}, {"port": 1, "path": "/\\evil.test"},
                {"port": 1, "path": "a"}, {"port": 1, "path": "/ b"}):  # fmt: skip
        assert isinstance(wanted(bad), str)
