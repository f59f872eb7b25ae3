"""Pictures of a conversation for the documentation: what Flow makes of events, shown by the simulator's page.

    python scripts/screenshots.py docs

writes conversation-light.png and conversation-dark.png into that directory. Needs Chromium.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, async_playwright
from slack_sdk.web.async_client import AsyncWebClient

from bot.renderer import TurnView
from sessions.events import Queued, Settled, Started
from sessions.types import Done, TurnId
from simulator.slack import SlackSimulator
from worklets.events import Text, ToolFinished, ToolStarted, TurnEnded, Usage

CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

_QUESTION = "Why is the report slow since Tuesday? Please mend it, with a test."
_TODOS = ("Measure the report", "Find the query that grew", "Add the index, with a test", "Measure again")
_NEXT = ("Read the migration", "See how the index is built", "Try it beside eight writers", "Say when to run it")
_FOUND = "Since Tuesday the report runs **one query per order**: `orders.customer` is loaded lazily in the loop."
_ANSWER = """## What I changed

The loop asked the database once for each order. Now it asks once for all, and the query has its index:

```python
def report(session: Session, since: date) -> list[Row]:
    orders = select(Order).options(joinedload(Order.customer))
    found = session.scalars(orders.where(Order.placed >= since))
    return [Row(one.number, one.customer.name) for one in found]
```

| orders | before | after | queries |
|-------:|-------:|------:|--------:|
| 100 | 0.4 s | 0.03 s | 2 |
| 1,000 | 4.1 s | 0.09 s | 2 |
| 10,000 | 43 s | 0.6 s | 2 |

- `tests/test_report.py` counts the queries, so that this cannot come back unseen
- the migration builds the index *without* locking the table

> Nothing else reads `orders.customer` in a loop; I looked through all of `app/`.
"""


def _view(*, done: bool) -> TurnView:
    view = TurnView(TurnId("turn"), plan=True)
    states = ["completed", "completed", "in_progress", "pending"] if not done else ["completed"] * 4
    todos = [
        {"content": text, "status": state, "activeForm": text}
        for text, state in zip(_TODOS if done else _NEXT, states, strict=True)
    ]
    todo: list[Any] = [
        Queued(0),
        Started(),
        ToolStarted("todo", "TodoWrite", {"todos": todos}),
        ToolFinished("todo", True),
    ]
    usage = Usage(18_300, 2_140, 96_000, 4_100, 0.21)
    worked: list[Any] = [
        ToolStarted("grep", "Grep", {"pattern": "orders.customer", "path": "app"}),
        ToolFinished("grep", True, "app/report.py:41: name = order.customer.name", {"hits": 1, "files": 1}),
        Text(_FOUND),
        ToolStarted("edit", "Edit", {"file_path": "app/report.py", "old_string": "a", "new_string": "b"}),
        ToolFinished("edit", True, "", {"added": 3, "removed": 5, "patch": ["-a", "+b"]}),
        ToolStarted("test", "Bash", {"command": "pytest -q tests/test_report.py"}),
        ToolFinished("test", True, "....\n4 passed in 0.31s", {"exit_code": 0}),
        Text(_ANSWER),
        TurnEnded("done", ("turn",), usage, 94.0),
        Settled(Done(), 94.0),
    ]
    working: list[Any] = [
        Text("Let me see what the lock does to a writer meanwhile."),
        ToolStarted("run", "Bash", {"command": "python tools/load.py --writers 8 --during migration"}),
    ]
    events = [*todo, *(worked if done else working)]
    for event in events:
        view.apply(event)
    return view


async def _furnish(slack: SlackSimulator) -> str:
    """The thread's ts."""
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    ts = await slack.post("maya", "#general", f"@flow {_QUESTION}")
    for part in _view(done=True).parts():
        await client.chat_postMessage(channel="#general", thread_ts=ts, text=part.text, blocks=list(part.blocks))
    await slack.post("jonas", "#general", "Thank you! Is the migration safe while orders come in?", thread_ts=ts)
    for part in _view(done=False).parts():
        await client.chat_postMessage(channel="#general", thread_ts=ts, text=part.text, blocks=list(part.blocks))
    return ts


async def _shoot(browser: Browser, slack: SlackSimulator, ts: str, scheme: Any, target: Path) -> None:
    page = await browser.new_page(
        viewport={"width": 1480, "height": 1520}, color_scheme=scheme, device_scale_factor=1.5
    )
    await page.goto(slack.url)
    await page.locator(f'[data-ts="{ts}"]').get_by_test_id("open-thread").first.click()
    await page.get_by_test_id("thread").get_by_text("Say when to run it").first.wait_for()
    await page.locator("#replies").evaluate("list => list.scrollTo(0, 0)")
    await page.mouse.move(0, 0)
    await page.screenshot(path=target)
    await page.close()


async def main(directory: Path) -> None:
    async with SlackSimulator(limits=None) as slack, async_playwright() as playwright:
        ts = await _furnish(slack)
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        for scheme in ("light", "dark"):
            await _shoot(browser, slack, ts, scheme, directory / f"conversation-{scheme}.png")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")))
