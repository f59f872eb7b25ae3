"""Pull requests of a session's branch, opened by the gateway at the repository's host: the REST API of GitHub's kind.

`git pull-request TITLE [BODY [BASE]]` inside is an alias that posts a form to `/flow/git/<name>/pulls`. GitHub, GitHub
Enterprise and Gitea take `POST /repos/{owner}/{repo}/pulls` (docs.github.com/rest/pulls/pulls). GitLab's merge requests
are `gitlab.py`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from worklets.git import is_branch_name

LONGEST = 128 << 10  # bytes of the form
_TITLE, _BODY = 250, 60_000  # characters: GitHub takes 256, and 65,536
_TOLD = 500  # characters of what the host says when it refuses
#: A form, so that the shell need not write JSON.
ALIAS = (
    '!f() { curl -sS --fail-with-body -H "x-api-key: $ANTHROPIC_API_KEY" --data-urlencode "title=$1" '
    '--data-urlencode "body=$2" --data-urlencode "base=$3" @flow-gateway@/flow/git/%s/pulls; }; f'
)


class NoPullRequest(Exception):
    """The text says why there is none, for people."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """One that is wanted."""

    title: str
    body: str
    head: str
    base: str


@dataclass(frozen=True, slots=True)
class Opened:
    """One that is open. `change`: "+12 −3 in 2 files", where the host says so. `called`: as its host does."""

    url: str
    number: int
    change: str
    called: str = "pull request"


def read_form(data: bytes, grant: Mapping[str, Any]) -> PullRequest:
    """What is wanted, of the session's own branch. Raises NoPullRequest."""
    try:
        fields = {name: values[0] for name, values in parse_qs(data.decode(), max_num_fields=10).items()}
    except (UnicodeDecodeError, ValueError):
        raise NoPullRequest("that is no form") from None
    title = " ".join(fields.get("title", "").split())[:_TITLE]
    if not title:
        raise NoPullRequest('it needs a title: git pull-request "title" "body"')
    base = fields.get("base") or grant["base"] or grant["default"]
    if not base or not is_branch_name(base):
        raise NoPullRequest("it needs the branch that it should go to, as the third word")
    if not grant["own"]:
        raise NoPullRequest("this session has no branch of its own")
    return PullRequest(title, fields.get("body", "")[:_BODY], grant["own"], base)


def request_of(wanted: PullRequest, grant: Mapping[str, Any]) -> tuple[str, dict[str, str], dict[str, str]]:
    """URL, headers and JSON of the request. Raises NoPullRequest."""
    parts = urlsplit(grant["url"])
    found = re.fullmatch(r"/([^/]+)/([^/]+?)(?:\.git)?/?", parts.path)
    if found is None:
        raise NoPullRequest("the repository's address is not of the form https://host/owner/name")
    if not grant["password"]:
        raise NoPullRequest("Flow has no token for this repository")
    api = grant["api"]
    if not api or not is_same_service(grant["url"], api):  # another's: this one's token is not for it
        api = _api_of(parts.scheme, parts.netloc)
    url = f"{api}/repos/{quote(found[1])}/{quote(found[2])}/pulls"
    headers = {
        "Authorization": f"Bearer {grant['password']}",
        "Accept": "application/vnd.github+json",
        "User-Agent": "flow",
    }
    return url, headers, {"title": wanted.title, "body": wanted.body, "head": wanted.head, "base": wanted.base}


def is_same_service(url: str, api: str) -> bool:
    """Whether a repository's login may be sent to that API: on the same host and port, and no less sealed."""
    one, other = urlsplit(url), urlsplit(api)
    if one.hostname != other.hostname or other.scheme not in ("https", one.scheme):
        return False
    return _port(one) == _port(other) or (one.port is None and other.port is None)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _api_of(scheme: str, host: str) -> str:
    return "https://api.github.com" if host == "github.com" else f"{scheme}://{host}/api/v3"


def read_answer(status: int, data: bytes) -> Opened:
    """Raises NoPullRequest with the host's own words."""
    told = Told.of(status, data, _words)
    return Opened(*told.where("html_url", "number"), _change(told))


class Told(dict[str, Any]):
    """The JSON of a host's answer to such a request."""

    @classmethod
    def of(cls, status: int, data: bytes, words: Callable[[Mapping[str, Any]], str]) -> Self:
        """`words`: what it says of a refusal. Raises NoPullRequest with those."""
        try:
            told = json.loads(data)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise NoPullRequest(f"the repository's host answered with HTTP {status} and no JSON")
        if status != 201:
            raise NoPullRequest(f"the repository's host refused it (HTTP {status}): {words(told)}")
        return cls(told)

    def where(self, url_name: str, number_name: str) -> tuple[str, int]:
        """Its address and number. Raises NoPullRequest."""
        url, number = told_url(self.get(url_name)), self.get(number_name)
        if url is None or not isinstance(number, int):
            raise NoPullRequest("the repository's host opened it, and did not say where")
        return url, number


def told_url(url: object) -> str | None:
    """An address that people can be shown as a link; None for anything else."""
    return url if isinstance(url, str) and re.fullmatch(r"https?://[^\s<>|]{1,500}", url) else None


def _change(told: Mapping[str, Any]) -> str:
    added, gone, files = (told.get(name) for name in ("additions", "deletions", "changed_files"))
    if not all(isinstance(one, int) for one in (added, gone, files)):
        return ""
    return f"+{added} −{gone} in {files} file{'' if files == 1 else 's'}"


def _words(told: Mapping[str, Any]) -> str:
    said = [str(told.get("message") or "")]
    errors = told.get("errors")
    for one in errors if isinstance(errors, list) else []:
        said.append(str(one.get("message") or one.get("code") or "") if isinstance(one, dict) else str(one))
    return " ".join(" ".join(filter(None, said)).split())[:_TOLD] or "it gave no reason"
