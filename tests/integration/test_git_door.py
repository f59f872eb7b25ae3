"""Fetching and pushing through a worklet's door, with the real git against a real git host; the worklet is the test."""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector
from githost import TOKEN, USER, GitHost, git, git_host
from waiting import until

from worklets import gitlab
from worklets.gateway import ModelGateway
from worklets.gitdoor import SUBJECT, GitDoor
from worklets.gitpulls import ALIAS, NoPullRequest, PullRequest, request_of
from worklets.gitpush import NotAPush, Push, Reading, read_push, refused
from worklets.identity import Identity

OWN = "flow/fix-it-12345678"


class Inside:
    """A worklet's side: a clone, and a port that leads to its door, as the relay has one."""

    def __init__(self, tmp_path: Path, host: GitHost) -> None:
        self.run_dir, self.clone, self.host = tmp_path / "run", tmp_path / "clone", host
        self.run_dir.mkdir()
        self.identity = Identity.load(tmp_path)
        self.events: list[dict[str, Any]] = []
        self.opened: list[dict[str, Any]] = []
        self.noted: list[dict[str, Any]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.flow_listens = True
        self.door = GitDoor(patience=30)
        self.gateway = ModelGateway(
            "http://127.0.0.1:9", None, self.identity, routes={SUBJECT: self.door.answer}, tell=self._hear
        )
        self.token = self.identity.token("gateway", "w")
        self.grant: dict[str, Any] = {
            "name": "app", "url": f"{host.url}/acme/app.git", "username": USER, "password": TOKEN, "push": "ask",
            "own": OWN,
            "granted": [], "refused": [], "protected": ["@default", "release-*"], "default": "main", "answers": {},
            "base": None, "api": None, "pulls": None,
        }  # fmt: skip
        self.port = 0

    def _hear(self, kind: str, **fields: Any) -> None:
        """As Flow does: what rules let through is written down, and then goes."""
        if kind == "push wanted" and self.flow_listens and self._passes(fields):
            self.noted.append(fields)
            self.tasks.add(asyncio.ensure_future(self.decide(answers={fields["request"]: True})))
        else:
            (self.events if kind == "push wanted" else self.opened).append(fields)

    def _passes(self, fields: dict[str, Any]) -> bool:
        if fields["what"] != "push":
            return self.grant["pulls"] is True
        own = self.grant["push"] == "allow" and fields["branch"] == OWN
        return own or fields["branch"] in self.grant["granted"]

    async def decide(self, **changes: Any) -> None:
        self.grant |= changes
        await self.gateway.open("w", self.run_dir, "1234", {SUBJECT: dict(self.grant)})

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_unix_connection(self.run_dir / "gateway.sock")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
                sink.write_eof()
            except OSError:
                pass

        try:
            await asyncio.gather(pump(reader, down), pump(up, writer))
        finally:
            writer.close()
            down.close()

    async def git(self, *words: str, at: Path | None = None) -> tuple[int, str]:
        here = f"http://127.0.0.1:{self.port}"
        pairs = [
            (f"url.{here}/flow/git/app.insteadOf", f"{self.host.url}/acme/app.git"),
            (f"http.{here}/.extraHeader", f"Authorization: Bearer {self.token}"),
            *[(f"alias.{one}-request", ALIAS.replace("%s", "app").replace("@flow-gateway@", here))
              for one in ("pull", "merge")],
            ("user.name", "Ada"), ("user.email", "ada@flow.invalid"), ("push.default", "current"),
        ]  # fmt: skip
        env = {"PATH": os.environ["PATH"], "HOME": str(self.run_dir), "GIT_CONFIG_COUNT": str(len(pairs))}
        env |= {"GIT_TERMINAL_PROMPT": "0", "ANTHROPIC_API_KEY": self.token}
        for at_, (key, value) in enumerate(pairs):
            env |= {f"GIT_CONFIG_KEY_{at_}": key, f"GIT_CONFIG_VALUE_{at_}": value}
        process = await asyncio.create_subprocess_exec(
            "git", *words, cwd=at or self.clone, env=env, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    async def commit(self, branch: str, text: str) -> None:
        assert (await self.git("checkout", "-q", "-B", branch))[0] == 0
        (self.clone / "file").write_text(text)
        code, said = await self.git("commit", "-q", "-a", "-m", text)
        assert code == 0, said

    async def asked(self) -> dict[str, Any]:
        await until(lambda: self.events, what="the question")
        return self.events[-1]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[GitHost]:
    async with git_host(tmp_path / "host") as made:
        made.make("acme/app.git")
        made.make("other.git")
        yield made


@pytest.fixture
async def inside(tmp_path: Path, host: GitHost) -> AsyncIterator[Inside]:
    made = Inside(tmp_path, host)
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    await made.decide()
    code, said = await made.git("clone", "-q", f"{host.url}/acme/app.git", str(made.clone), at=tmp_path)
    assert code == 0, said
    yield made
    await made.gateway.aclose()
    server.close()


async def test_what_may_be_pushed_goes_out_with_the_login_that_stays_outside(inside: Inside, host: GitHost) -> None:
    await inside.decide(granted=[OWN])
    await inside.commit(OWN, "two")
    code, said = await inside.git("push")
    assert code == 0, said
    assert host.branches("acme/app.git") == {"main": "one|a@b <a@b>", OWN: "two|Ada <ada@flow.invalid>"}
    assert not inside.events
    assert TOKEN not in said
    assert not [path for path in inside.clone.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    code, said = await inside.git("fetch", "-q")
    assert code == 0, said


async def test_a_fetch_that_git_compresses_goes_through(inside: Inside, host: GitHost, tmp_path: Path) -> None:
    for number in range(80):  # git tells the host of all of them, in more than a kilobyte
        await inside.commit(OWN, f"mine {number}")
    assert (await inside.git("clone", "-q", str(host.root / "acme/app.git"), str(tmp_path / "hers"), at=tmp_path))[
        0
    ] == 0
    hers = tmp_path / "hers"
    for words in (("commit", "-q", "--allow-empty", "-m", "hers"), ("push", "-q", "origin", "main")):
        code, said = await inside.git(*words, at=hers)
        assert code == 0, said
    code, said = await inside.git("fetch", "-q")
    assert code == 0, said
    assert (await inside.git("log", "-1", "--format=%s", "origin/main"))[1] == "hers\n"


async def test_other_branches_tags_and_protected_ones_are_refused_here(inside: Inside, host: GitHost) -> None:
    await inside.decide(granted=[OWN, "main"], refused=["no"])
    await inside.commit("no", "two")
    git("-C", str(host.root / "acme/app.git"), "branch", "elsewhere", "main")
    await inside.git("tag", "v1")
    before = host.branches("acme/app.git")
    for refspec, why in [
        ("no:main", "protected"), ("no:release-2", "protected"), ("no", "a rule of Flow's"),
        (":main", "protected"), (":elsewhere", "only the session's own branch can be deleted"),
        ("v1", "403"), ("no:refs/flow/x", "403"), (f"no:{OWN} no:main", "protected"),
    ]:  # fmt: skip
        host.requests.clear()
        code, said = await inside.git("push", "origin", *refspec.split())
        assert code != 0, refspec
        assert why in said, said
        assert not [one for one in host.requests if one.startswith("POST")], "the host heard of it"
    code, said = await inside.git("push", "-o", "merge_request.create", "origin", f"no:{OWN}")
    assert code != 0
    assert host.branches("acme/app.git") == before


async def test_a_push_waits_for_people(inside: Inside, host: GitHost) -> None:
    await inside.commit(OWN, "two")
    pushing = asyncio.create_task(inside.git("push"))
    asked = await inside.asked()
    assert (asked["session"], asked["repository"], asked["branch"], asked["own"]) == ("1234", "app", OWN, OWN)
    assert OWN not in host.branches("acme/app.git")
    await inside.decide(answers={asked["request"]: True})
    code, said = await pushing
    assert code == 0, said
    assert host.branches("acme/app.git")[OWN].startswith("two")

    await inside.commit("elsewhere", "three")
    inside.events.clear()
    pushing = asyncio.create_task(inside.git("push"))
    asked = await inside.asked()
    await inside.decide(answers={asked["request"]: "people in the thread said no: later"})
    code, said = await pushing
    assert code != 0
    assert "people in the thread said no: later" in said
    assert "elsewhere" not in host.branches("acme/app.git")


async def test_a_yes_to_one_push_is_none_to_the_next(inside: Inside) -> None:
    await inside.commit(OWN, "two")
    pushing = asyncio.create_task(inside.git("push"))
    first = await inside.asked()
    await inside.decide(answers={first["request"]: True})
    assert (await pushing)[0] == 0
    await inside.commit(OWN, "three")
    inside.events.clear()
    pushing = asyncio.create_task(inside.git("push"))
    second = await inside.asked()
    assert second["request"] != first["request"]
    await inside.decide(refused=[OWN])
    assert (await pushing)[0] != 0


async def test_a_session_that_ends_meanwhile_pushes_nothing(inside: Inside, host: GitHost) -> None:
    await inside.commit(OWN, "two")
    pushing = asyncio.create_task(inside.git("push"))
    await inside.asked()
    await inside.gateway.close("w")
    assert (await pushing)[0] != 0
    assert OWN not in host.branches("acme/app.git")


async def test_what_is_taken_back_while_people_think_is_not_pushed(inside: Inside, host: GitHost) -> None:
    await inside.commit(OWN, "two")
    await inside.commit("elsewhere", "three")
    before = host.branches("acme/app.git")
    pushing = asyncio.create_task(inside.git("push", "origin", OWN, "elsewhere"))
    first = await inside.asked()
    await inside.decide(answers={first["request"]: True})
    await until(lambda: inside.events[-1]["branch"] != first["branch"], what="the other question")
    answers = {first["request"]: True, inside.events[-1]["request"]: True}
    await inside.decide(answers=answers, refused=[first["branch"]])
    code, said = await pushing
    assert code != 0
    assert "a rule of Flow's" in said
    assert host.branches("acme/app.git") == before


async def test_a_pull_request_goes_with_the_login_and_the_rules_of_its_moment(inside: Inside, host: GitHost) -> None:
    await inside.decide(granted=[OWN])
    await inside.commit(OWN, "two")
    assert (await inside.git("push"))[0] == 0
    await inside.decide(password="an old one")
    asking = asyncio.create_task(inside.git("pull-request", "Fix it"))
    asked = await inside.asked()
    await inside.decide(answers={asked["request"]: True}, pulls=False)
    assert "a rule of Flow's" in (await asking)[1]
    inside.events.clear()
    await inside.decide(pulls=None)
    asking = asyncio.create_task(inside.git("pull-request", "Fix it"))
    asked = await inside.asked()
    await inside.decide(answers={asked["request"]: True}, password=TOKEN)
    code, said = await asking
    assert code == 0, said
    assert len(host.pulls) == 1


async def test_nobody_waits_for_ever(inside: Inside, host: GitHost) -> None:
    inside.door._patience = 0.5
    await inside.commit(OWN, "two")
    code, said = await inside.git("push")
    assert code != 0
    assert "did not answer within" in said
    assert "were asked" not in said, "nobody may have been"
    assert "now if the thread shows no question" in said
    assert OWN not in host.branches("acme/app.git")


async def test_what_a_rule_lets_through_goes_once_flow_has_written_it_down(inside: Inside, host: GitHost) -> None:
    inside.flow_listens, inside.door._patience = False, 0.5
    await inside.decide(granted=[OWN])
    await inside.commit(OWN, "two")
    code, said = await inside.git("push")
    assert code != 0
    assert "Flow did not answer" in said
    assert OWN not in host.branches("acme/app.git")
    inside.flow_listens, inside.door._patience = True, 30
    assert (await inside.git("push"))[0] == 0
    code, said = await inside.git("push", "origin", f":{OWN}")
    assert code == 0, said
    assert [(one["branch"], one["deletes"]) for one in inside.noted] == [(OWN, False), (OWN, True)]
    assert OWN not in host.branches("acme/app.git")


async def test_never_means_never_and_allow_means_its_own_branch(inside: Inside, host: GitHost) -> None:
    await inside.commit(OWN, "two")
    await inside.decide(push="never")
    code, said = await inside.git("push")
    assert code != 0
    assert "FLOW_PUSH=never" in said
    await inside.decide(push="allow")
    code, said = await inside.git("push")
    assert code == 0, said
    assert host.branches("acme/app.git")[OWN].startswith("two")


async def test_a_worklet_without_the_token_or_of_another_repository_gets_nothing(inside: Inside) -> None:
    async def status(path: str, token: str, method: str = "GET", **options: Any) -> int:
        connector = UnixConnector(str(inside.run_dir / "gateway.sock"))
        async with ClientSession(connector=connector) as http:
            headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
            async with http.request(method, f"http://w{path}", headers=headers, **options) as answer:
                await answer.read()
                return answer.status

    refs = "/flow/git/app/info/refs?service=git-upload-pack"
    push = {"Content-Type": "application/x-git-receive-pack-request"}
    line = b"%040x %040x refs/heads/main\0 report-status" % (0, 1)
    body = b"%04x" % (len(line) + 4) + line + b"0000"
    assert await status(refs, inside.token) == 200
    for path, token in [
        (refs, inside.identity.token("gateway", "another")), (refs, ""),
        (refs.replace("app", "other"), inside.token), (refs.replace("app", "..%2fother.git"), inside.token),
        ("/flow/git/app/objects/info/packs", inside.token), ("/flow/git/app/HEAD", inside.token),
        ("/flow/git/app/info/refs", inside.token), ("/flow/git/app/info/refs?service=git-upload-archive", inside.token),
        (f"{refs}&x=1", inside.token), ("/flow/git/app/git-receive-pack", inside.token),
    ]:  # fmt: skip
        assert await status(path, token) in (400, 401, 403, 404), path
    door = "/flow/git/app/git-receive-pack"
    inside.host.requests.clear()
    packed = {**push, "Content-Encoding": "gzip"}
    assert await status(door, inside.token, "POST", headers=packed, data=zlib.compress(body)) in (400, 415)
    for data in (
        b"",
        b"what",
        b"ffff" + b"a" * 9,
        body[:-4],
        b"0009x\n",
        body[:-4] + body,
        b"00040000",
        b"0000" + body,
    ):
        await status(door, inside.token, "POST", headers=push, data=data)
    assert not inside.host.requests


async def test_a_repository_that_does_not_let_flow_in_is_told(inside: Inside) -> None:
    await inside.decide(password="wrong")
    code, said = await inside.git("fetch")
    assert code != 0
    assert "does not let Flow in" in said


@pytest.mark.parametrize("login", [(USER, TOKEN), ("", "")])
async def test_logins_of_this_machines_own_stay_here(
    login: tuple[str, str], inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {TOKEN}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    await inside.decide(username=login[0], password=login[1])
    code, said = await inside.git("fetch")
    assert (code == 0) == bool(login[1]), said
    assert login[1] or "does not let Flow in" in said


async def test_a_pull_request_waits_for_people_and_is_told(inside: Inside, host: GitHost) -> None:
    await inside.decide(granted=[OWN])
    await inside.commit(OWN, "two")
    code, said = await inside.git("pull-request", "  ")
    assert code != 0
    assert "it needs a title" in said
    assert (await inside.git("push"))[0] == 0
    asking = asyncio.create_task(inside.git("pull-request", "Fix *it*", "Because\nit & that", ""))
    asked = await inside.asked()
    assert (asked["what"], asked["branch"], asked["title"]) == ("pull request", OWN, "Fix *it*")
    assert (asked["base"], asked["body"]) == ("main", "Because\nit & that")
    assert not host.pulls
    await inside.decide(answers={asked["request"]: True})
    code, said = await asking
    assert code == 0, said
    wanted = {"title": "Fix *it*", "body": "Because\nit & that", "head": OWN, "base": "main", "repository": "acme/app"}
    assert host.pulls == [wanted]
    url = f"{host.url}/acme/app/pull/1"
    assert said.strip() == f"Opened {url} +1 −1 in 1 file"
    change = "+1 −1 in 1 file"
    assert inside.opened == [
        {"session": "1234", "url": url, "number": 1, "title": "Fix *it*", "change": change, "called": "pull request"},
    ]


@pytest.mark.parametrize(
    ("repository", "api", "expected"),
    [
        ("https://github.com/acme/app.git", "https://git.test/api/v1", "https://api.github.com"),
        ("https://git.test/acme/app", "https://git.test/api/v1", "https://git.test/api/v1"),
        ("https://ghe.test/acme/app", "https://git.test/api/v1", "https://ghe.test/api/v3"),
        ("https://ghe.test/acme/app", None, "https://ghe.test/api/v3"),
    ],
)
def test_a_token_goes_to_its_own_host(repository: str, api: str | None, expected: str) -> None:
    wanted = PullRequest("Fix", "", OWN, "main")
    url, _, _ = request_of(wanted, {"url": repository, "password": TOKEN, "api": api})
    assert url == f"{expected}/repos/acme/app/pulls"


@pytest.mark.parametrize(
    ("repository", "api", "expected"),
    [
        ("https://gitlab.com/acme/app.git", None, "https://gitlab.com/api/v4/projects/acme%2Fapp"),
        ("https://gitlab.com/a/b/c", "https://git.test/api/v4", "https://gitlab.com/api/v4/projects/a%2Fb%2Fc"),
        ("https://git.test/a/b.c/d", "https://git.test/api/v4/", "https://git.test/api/v4/projects/a%2Fb.c%2Fd"),
        ("https://h.test/lab/a/b", "https://h.test/lab/api/v4", "https://h.test/lab/api/v4/projects/a%2Fb"),
        ("https://h.test/a", "https://h.test/api/v4", None),
        ("https://h.test/a/../b", "https://h.test/api/v4", None),
        ("https://h.test/a%2f/b", "https://h.test/api/v4", None),
    ],
)
def test_a_merge_request_is_asked_for_where_its_project_is(repository: str, api: str | None, expected: str) -> None:
    wanted, grant = PullRequest("Fix", "Why", OWN, "main"), {"url": repository, "password": TOKEN, "api": api}
    assert gitlab.is_gitlab(grant)
    assert not gitlab.is_gitlab({**grant, "url": "https://elsewhere.test/a/b"}), "this token is another host's"
    if expected is None:
        with pytest.raises(NoPullRequest, match="not of the form"):
            gitlab.request_of(wanted, grant)
        return
    url, headers, body = gitlab.request_of(wanted, grant)
    assert url == f"{expected}/merge_requests"
    assert headers["PRIVATE-TOKEN"] == TOKEN
    assert body == {"title": "Fix", "description": "Why", "source_branch": OWN, "target_branch": "main"}


@pytest.mark.parametrize(
    ("repository", "api", "expected"),
    [
        ("https://h.test/acme/app", "http://h.test/api/v4", False),
        ("http://h.test/acme/app", "https://h.test/api/v4", True),
        ("https://h.test/acme/app", "https://h.test:8443/api/v4", False),
        ("https://h.test:443/acme/app", "https://h.test/api/v4", True),
        ("https://h.test/git/acme/app", "https://h.test/git/api/v4", True),
        ("https://h.test/github/acme/app", "https://h.test/git/api/v4", False),
    ],
)
def test_a_token_goes_to_gitlab_where_it_is_the_repositorys_own(repository: str, api: str, expected: bool) -> None:
    assert gitlab.is_gitlab({"url": repository, "password": TOKEN, "api": api}) is expected


def test_a_token_is_not_sent_in_clear_nor_to_another_port() -> None:
    for api in ("http://git.test/api/v1", "https://git.test:8443/api/v1"):
        grant = {"url": "https://git.test/acme/app", "password": TOKEN, "api": api}
        assert request_of(PullRequest("Fix", "", OWN, "main"), grant)[0].startswith("https://git.test/api/v3/")


@pytest.mark.parametrize("before", ["", "Why.\n", "Why.\r\n \t", "\r", "\u2028", "Why.\n\x00", "Why.\n\ufeff"])
def test_no_line_of_a_text_is_a_command_to_gitlab(before: str) -> None:
    grant = {"url": "https://gitlab.com/acme/app", "password": TOKEN, "api": None}
    text = f"{before}/target_branch main\n/label x and/or y\nsee a/b"
    sent = gitlab.request_of(PullRequest("Fix", text, OWN, "develop"), grant)[2]["description"]
    assert sent == f"{before}\\/target_branch main\n\\/label x and/or y\nsee a/b"


async def test_people_are_shown_all_of_a_pull_requests_text(inside: Inside) -> None:
    text = "Small fix.\n" + "and " * 500 + "\n/target_branch main"
    asking = asyncio.create_task(inside.git("pull-request", "Fix it", text))
    asked = await inside.asked()
    assert asked["body"] == text
    await inside.decide(answers={asked["request"]: "No."})
    assert "No." in (await asking)[1]


@pytest.mark.parametrize(
    ("status", "told", "why"),
    [
        (401, {"message": "401 Unauthorized"}, "HTTP 401): 401 Unauthorized"),
        (400, {"error": "title is missing"}, "HTTP 400): title is missing"),
        (422, {"message": {"base": ["is wrong", "is gone"]}}, "base is wrong base is gone"),
        (409, {"message": ["there is one", {"odd": 1}]}, "there is one {'odd': 1}"),
        (500, {}, "gave no reason"),
        (500, [], "no JSON"),
        (201, {"iid": 1, "web_url": "javascript:alert(1)"}, "did not say where"),
        (201, {"iid": "1", "web_url": "https://h/1"}, "did not say where"),
    ],
)
def test_what_gitlab_says_when_it_refuses(status: int, told: Any, why: str) -> None:
    with pytest.raises(NoPullRequest) as refused:
        gitlab.read_answer(status, json.dumps(told).encode())
    assert why in str(refused.value)


async def test_a_merge_request_at_gitlab_waits_for_people_too(inside: Inside, host: GitHost) -> None:
    await inside.decide(granted=[OWN], api=f"{host.url}/api/v4")
    await inside.commit(OWN, "two")
    assert (await inside.git("push"))[0] == 0
    asking = asyncio.create_task(inside.git("merge-request", "Fix it", "Because"))
    asked = await inside.asked()
    assert (asked["what"], asked["title"], asked["base"]) == ("pull request", "Fix it", "main")
    assert not host.merges
    await inside.decide(answers={asked["request"]: True})
    code, said = await asking
    assert code == 0, said
    wanted = {"title": "Fix it", "description": "Because", "source_branch": OWN, "target_branch": "main"}
    assert host.merges == [{**wanted, "repository": "acme/app"}]
    url = f"{host.url}/acme/app/-/merge_requests/1"
    assert said.strip() == f"Opened {url} 1 file changed"
    (opened,) = inside.opened
    assert (opened["number"], opened["called"], opened["url"]) == (1, "merge request", url)
    await inside.decide(pulls=True)
    code, said = await inside.git("pull-request", "Fix it")  # the alias that Claude knows from elsewhere
    assert code != 0
    assert "HTTP 409): Another open merge request already exists" in said
    await inside.decide(password="wrong")
    assert "401 Unauthorized" in (await inside.git("merge-request", "Fix it"))[1]
    assert not host.pulls


async def test_rules_and_the_host_decide_on_pull_requests(inside: Inside, host: GitHost) -> None:
    await inside.decide(pulls=True, own="never-pushed")
    code, said = await inside.git("pull-request", "Fix it")
    assert code != 0
    assert "refused it (HTTP 422): Validation Failed invalid" in said
    for changes, why in [
        ({"pulls": False}, "a rule of Flow's"), ({"pulls": True, "push": "never"}, "FLOW_PUSH=never"),
        ({"push": "ask", "password": ""}, "no token"), ({"password": "wrong"}, "Bad credentials"),
        ({"url": f"{host.url}/app"}, "not of the form"),
    ]:  # fmt: skip
        await inside.decide(**changes)
        code, said = await inside.git("pull-request", "Fix it")
        assert code != 0
        assert why in said
    assert not host.pulls
    assert not inside.events


# ---- what a push asks for, without anybody to push to

ZERO, ONE = b"0" * 40, b"1" * 40


def line(text: bytes) -> bytes:
    return b"%04x" % (len(text) + 4) + text


def test_a_push_is_read_as_far_as_its_flush() -> None:
    data = line(ZERO + b" " + ONE + b" refs/heads/a/b\0 report-status side-band-64k agent=git/2\n")
    data += line(ONE + b" " + ZERO + b" refs/heads/c") + b"0000"
    expected = Push(
        ("a/b", "c"), frozenset({"report-status", "side-band-64k", "agent=git/2"}), len(data), frozenset({"c"})
    )
    assert read_push(data + b"PACK0000") == expected
    for end in range(len(data)):
        assert read_push(data[:end]) is None
    assert read_push(b"0000") == Push((), frozenset(), 4)
    assert read_push(line(b"shallow " + ONE) + data) is not None
    with pytest.raises(NotAPush):
        read_push(line(b"shallow " + ONE) * 257 + data)


def test_each_line_of_a_push_is_looked_at_once() -> None:
    reading, data = Reading(), line(b"shallow " + ONE) * 200 + line(ZERO + b" " + ONE + b" refs/heads/a\0 x") + b"0000"
    for end in range(len(data)):
        assert reading.read(data[:end]) is None
    assert reading._shallow == 200
    assert reading.read(data) == Push(("a",), frozenset({"x"}), len(data))


@pytest.mark.parametrize(
    "text",
    [
        ZERO + b" " + ONE + b" refs/tags/v1\0 x", ZERO + b" " + ONE + b" HEAD\0 x", ZERO + b" " + ONE + b"\0 x",
        ZERO + b" " + ONE + b" refs/heads/a\nb\0 x", ZERO + b" " + ONE + b" refs/heads/../main\0 x",
        ZERO + b" " + ONE + b" refs/heads//main\0 x", ZERO + b" " + ONE + b" refs/heads/a/.b\0 x",
        ZERO + b" " + ONE + b" refs/heads/a.lock/b\0 x",
        ZERO + b" " + ONE + b" refs/heads/-x\0 x", ZERO + b" " + ONE + b" refs/heads/a.lock\0 x",
        ZERO + b" " + ONE + b" refs/heads/\xff\0 x", ZERO + b" " + ONE + b" refs/heads/a\0 push-options",
        ZERO + b" " + ONE + b" refs/heads/a\0 push-cert=x", ZERO + b" " + ONE + b" refs/heads/a\0 \x01",
        b"push-cert\0x", ZERO[:-1] + b" " + ONE + b" refs/heads/a\0 x", ZERO + b"  " + ONE + b" refs/heads/a\0 x",
        ZERO + b" " + ONE + b" refs/heads/a\0 x\0object-format=sha1",
    ],
)  # fmt: skip
def test_what_is_not_plainly_a_push_of_branches_is_none(text: bytes) -> None:
    with pytest.raises(NotAPush):
        read_push(line(text) + b"0000")


def test_a_second_line_has_no_words_behind_a_nul() -> None:
    first = line(ZERO + b" " + ONE + b" refs/heads/a\0 x")
    with pytest.raises(NotAPush):
        read_push(first + line(ZERO + b" " + ONE + b" refs/heads/b\0 push-options") + b"0000")
    with pytest.raises(NotAPush):
        read_push(first * 33 + b"0000")


def test_a_refusal_has_the_form_that_the_client_asked_for() -> None:
    plain = refused(Push(("a", "b"), frozenset(), 0), {"a": "not\nnow"})
    assert (
        plain
        == b"000eunpack ok\n"
        + line(b"ng refs/heads/a not now\n")
        + line(b"ng refs/heads/b refused with the others\n")
        + b"0000"
    )
    banded = refused(Push(("a",), frozenset({"side-band-64k"}), 0), {"a": "no"})
    assert banded.startswith(line(b"\x02Flow: a: no\n"))
    assert banded.endswith(b"0000" + b"0000")
