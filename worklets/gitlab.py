"""Merge requests of a session's branch at GitLab: its REST API beside that of GitHub's kind (`gitpulls.py`). Pure.

`POST /projects/:id/merge_requests` (docs.gitlab.com/api/merge_requests); `:id` is the project's path, URL-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from worklets.gitpulls import NoPullRequest, Opened, PullRequest, Told, is_same_service

_API = "/api/v4"
_TOLD = 500  # characters of what GitLab says when it refuses
_SEGMENT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]*")  # of a project's path
_COMMAND = re.compile(r"[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]*(?=/)")  # of a line: what may stand before its slash


def is_gitlab(grant: Mapping[str, Any]) -> bool:
    """Whether merge requests of the grant's repository are asked for here."""
    return _api(grant) is not None


def request_of(wanted: PullRequest, grant: Mapping[str, Any]) -> tuple[str, dict[str, str], dict[str, str]]:
    """URL, headers and JSON of the request. Raises NoPullRequest."""
    api = _api(grant)
    assert api is not None
    if not grant["password"]:
        raise NoPullRequest("Flow has no token for this repository")
    path = urlsplit(grant["url"]).path.removeprefix(_below(api)).strip("/").removesuffix(".git")
    parts = path.split("/")
    if len(parts) < 2 or not all(_SEGMENT.fullmatch(part) and part.strip(".") for part in parts):
        raise NoPullRequest("the repository's address is not of the form https://host/group/project")
    headers = {"PRIVATE-TOKEN": grant["password"], "User-Agent": "flow"}
    given = {"title": wanted.title, "description": _inert(wanted.body)}
    given |= {"source_branch": wanted.head, "target_branch": wanted.base}
    return f"{api}/projects/{quote(path, safe='')}/merge_requests", headers, given


def read_answer(status: int, data: bytes) -> Opened:
    """Raises NoPullRequest with GitLab's own words."""
    told = Told.of(status, data, _words)
    return Opened(*told.where("web_url", "iid"), _change(told.get("changes_count")), called="merge request")


def _api(grant: Mapping[str, Any]) -> str | None:
    """Of the repository's own service only: another's is not to get this one's token."""
    url, api = str(grant["url"]), str(grant["api"] or "").rstrip("/")
    if api.endswith(_API) and is_same_service(url, api) and urlsplit(url).path.startswith(f"{_below(api)}/"):
        return api
    return f"https://gitlab.com{_API}" if urlsplit(url).hostname == "gitlab.com" else None


def _below(api: str) -> str:
    """A GitLab may stand below a path of its host; "" where it does not."""
    return urlsplit(api).path.removesuffix(_API)


def _inert(text: str) -> str:
    """GitLab runs a description's lines of the form `/target_branch main` with the token's rights; these it shows."""
    return "".join(_COMMAND.sub(lambda found: f"{found[0]}\\", line, count=1) if _COMMAND.match(line) else line
                   for line in text.splitlines(keepends=True))  # fmt: skip


def _change(count: object) -> str:
    """A string, such as "3" or "1000+"; null while GitLab still counts."""
    if not isinstance(count, str) or not re.fullmatch(r"\d{1,6}\+?", count):
        return ""
    return f"{count} file{'' if count == '1' else 's'} changed"


def _words(told: Mapping[str, Any]) -> str:
    """`message` is a text, a list, or lists by field; where a parameter is wrong there is `error` instead."""
    said = told.get("message") or told.get("error")
    found: list[object] = [said]
    if isinstance(said, dict):
        found = [f"{name} {one}" for name, each in said.items() for one in (each if isinstance(each, list) else [each])]
    elif isinstance(said, list):
        found = list(said)
    return " ".join(" ".join(str(one) for one in found if one).split())[:_TOLD] or "it gave no reason"
