"""What people ask for that leaves a worklet, or comes into it; and how they answer what they are asked.

Each deed has a tag of its own, by which what came of it is found outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
from law_shown import Message, of_turns
from outside import Outside
from storm import Storm

from simulator.errors import SlackError

KINDS = ("push", "tool", "vault", "host", "preview")
_REPOSITORY = ("push", "tool")
PREVIEW = "flow_preview"  # type of the metadata of a message that offers one
_SERVE = "python3 -m http.server 3000 --bind 127.0.0.1 --directory"
_ANSWERS = {
    "ask_reach_once": ("ask_reach_once", "ask_reach_session", "ask_reach_channel", "ask_deny"),
    "ask_allow_once": ("ask_allow_once", "ask_allow_once", "ask_allow_session", "ask_deny"),
}


@dataclass
class Deeds:
    storm: Storm
    outside: Outside
    dice: random.Random
    roots: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # by kind: channel and ts of threads
    tags: dict[str, str] = field(default_factory=dict)  # to the kind
    seen: list[str] = field(default_factory=list)  # what visitors of previews saw against the law
    visits: int = 0  # that showed the page

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS if self.outside.port is not None else KINDS[:3]

    async def ask(self, kind: str) -> None:
        """Somebody wants it, in a new thread or in one that has done the like."""
        tag = f"d{len(self.tags)}x"
        self.tags[tag] = kind
        place = "repository" if kind in _REPOSITORY else kind
        known = self.roots.setdefault(place, [])
        slack, text = self.storm.world.slack, "\n".join(self._lines(kind, tag))
        if known and kind != "preview" and self.dice.random() < 0.5:
            channel, root = self.dice.choice(known)
            await slack.post("maya", channel, text, thread_ts=root)
            return
        channel = self.dice.choice(("general", "engineering"))
        begin = {"repository": "repo=app ", "vault": "template=trusted "}.get(place, "")
        known.append((channel, await slack.post("maya", channel, f"@Flow {begin}{text}")))

    def _lines(self, kind: str, tag: str) -> Iterator[str]:
        yield f"SAY {tag} begins"
        count = f"echo x >> .{tag}; echo ran=$(wc -l < .{tag})"
        match kind:
            case "push":
                commit = f"echo {tag} > {tag} && git add {tag} && git commit -qm {tag}"
                yield f"BASH {commit} && timeout 100 git push -q origin HEAD 2>&1 | tail -c 300; {count}"
            case "tool":
                yield f'TOOL mcp__tickets__add {{"a": {int(tag[1:-1])}, "b": 0}}'
            case "vault":
                ask = 'curl -s -m 20 -H "X-Vault-Token: $VAULT_TOKEN" $VAULT_ADDR/v1/secret/data/team/db'
                yield f"BASH {ask} > /dev/null; {count}"
            case "host":
                # Twice, so that an answer given to the one is there for the other.
                fetch = f"curl -s -m 100 -o /dev/null http://{tag}.askable.test:{self.outside.port}/"
                yield f"BASH {fetch}; {fetch}; {count}"
            case "preview":
                made = f"mkdir -p s{tag} && echo page-{tag}- > s{tag}/index.html"
                wait = "for i in $(seq 100); do curl -s localhost:3000 > /dev/null && break; sleep 0.1; done"
                yield f"BASH {made}; (nohup {_SERVE} s{tag} > /dev/null 2>&1 &); {wait}; {count}"
                told = {"port": 3000, "title": tag, "command": f"{_SERVE} s{tag}"}
                yield f"TOOL mcp__flow__open_preview {json.dumps(told)}"
        yield f"SAY {tag} ends"

    # ---- answers ----

    async def answer_for_ever(self) -> None:
        """People press what they are asked, some twice and each as they think; and look at previews."""
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            while True:
                await asyncio.sleep(self.dice.uniform(0.1, 0.8))
                await asyncio.gather(*(self._press(message) for message in self._questions()))
                for link in self._links():
                    await self._visit(http, link)

    def _questions(self) -> list[Message]:
        return [
            message
            for messages in of_turns(self.storm.world.slack).values()
            for message in messages
            if message.asks and any(button.startswith("ask_") for button in message.buttons)
        ]

    async def _press(self, message: Message) -> None:
        answers = next((_ANSWERS[b] for b in message.buttons if b in _ANSWERS), ())
        for _ in range(self.dice.choice((1, 1, 2)) if answers else 0):
            with contextlib.suppress(KeyError, SlackError):  # the buttons went in this moment, or the program has died
                await self.storm.world.slack.click("maya", message.ts, self.dice.choice(answers))

    # ---- previews ----

    async def open_previews(self) -> None:
        """Somebody presses the button of each preview that is offered."""
        slack = self.storm.world.slack
        for channel in slack.workspace.channels.values():
            for record in list(channel.messages.values()):
                if (record.metadata or {}).get("event_type") == PREVIEW and not record.deleted:
                    with contextlib.suppress(KeyError, SlackError):
                        await slack.click("maya", record.ts, "preview_open")

    def _links(self) -> list[str]:
        shown = [str(one) for one in self.storm.world.slack.ephemerals("maya")]
        return [link for text in shown[-3:] for link in re.findall(r"http://[^'\"\s]+\.localhost:[^'\"\s]+", text)]

    async def _visit(self, http: aiohttp.ClientSession, link: str) -> None:
        """As a browser does: the link is traded for a cookie, then the page is asked for."""
        name = link.split("/")[2].partition(":")[0]
        base = self.storm.program.url
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(10)
            path = "/" + link.split("/", 3)[3]
            async with http.get(base + path, headers={"Host": name}, allow_redirects=False, timeout=timeout) as first:
                cookies = "; ".join(f"{key}={morsel.value}" for key, morsel in first.cookies.items())
            if not cookies:
                return
            asked = {"Host": name, "Cookie": cookies}
            async with http.get(base + "/", headers=asked, allow_redirects=False, timeout=timeout) as page:
                text = await page.text()
            self._judge(name, page.status, text)

    def _judge(self, name: str, status: int, text: str) -> None:
        pages = re.findall(r"page-(d\d+x)-", text)
        self.visits += bool(pages)
        first = self._first.setdefault(name, pages[0]) if pages else ""
        if pages and pages != [first]:
            self.seen.append(f"the preview {name} showed {pages}, and {first} before")
        if status >= 500 and status not in (502, 503, 504):
            self.seen.append(f"the preview {name} answered {status}: {text[:200]}")

    _first: dict[str, str] = field(default_factory=dict)  # by a preview's host: whose page it showed
