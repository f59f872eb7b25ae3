"""The page in a real browser: people write, messages grow, buttons and modals work, nothing leaves the machine."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Page, WebSocketRoute, async_playwright, expect
from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from simulator.slack import SlackSimulator

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]  # one browser for all of them

CHROMIUM = "/usr/bin/chromium"
SLOW = 60_000  # milliseconds that a browser may take for one step on a busy machine
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MARKDOWN = """# Result

1. first
   - nested **bold**
2. second

- [x] done

| a | b |
|---|--:|
| `x\\|y` | 2 |

~~~python
print("<b>") # <!channel>
```
~~~

<img src=x onerror="document.title='broken into'"> [ok](https://example.org/a_(b)) [bad](javascript:alert(1)) 2 * 3 * 4
"""


@pytest_asyncio.fixture(loop_scope="module")
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(limits=None) as simulator:
        bolt = AsyncApp(client=AsyncWebClient(token=simulator.bot_token, base_url=simulator.api_url))
        register(bolt)
        handler = AsyncSocketModeHandler(bolt, simulator.app_token)
        await handler.connect_async()
        await simulator.wait_connected()
        yield simulator
        await handler.close_async()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=SLOW)
        expect.set_options(timeout=SLOW)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(slack: SlackSimulator, browser: Browser) -> AsyncIterator[Page]:
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(SLOW)
    requested: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(slack.url)
    await expect(page.get_by_test_id("channel-general")).to_be_visible()
    yield page
    await page.close()
    assert errors == []
    assert [url for url in requested if not url.startswith(slack.url)] == []


def register(bolt: AsyncApp) -> None:
    @bolt.command("/flow")
    async def flow(ack, command, client):
        if command["text"] == "help":
            await ack(text="*Help* for you")
        elif command["text"] == "search":
            await ack()
            await client.views_open(trigger_id=command["trigger_id"], view=SEARCH)
        elif command["text"] == "modal":
            await ack()
            await client.views_open(trigger_id=command["trigger_id"], view=MODAL)
        else:
            await ack()
            root = await client.chat_postMessage(channel=command["channel_id"], text=f"Asked: {command['text']}")
            await client.chat_postMessage(channel=command["channel_id"], thread_ts=root["ts"], text="Working")

    @bolt.event("app_mention")
    async def mentioned(event, say):
        await say(text="You called?", thread_ts=event.get("thread_ts", event["ts"]))

    @bolt.event(re.compile("message|app_home_opened"))
    async def other(): ...

    @bolt.action("go")
    async def pressed(ack, respond):
        await ack()
        await respond(text="Pressed", replace_original=True)

    @bolt.action("tick")
    async def ticked(ack):
        await ack()

    @bolt.action("boxes")
    async def open_boxes(ack, body, client):
        await ack()
        values = body["state"]["values"]["ticks"]["tick"]["selected_options"]
        await client.chat_postMessage(channel="#general", text="Ticked " + ",".join(o["value"] for o in values))
        await client.views_open(trigger_id=body["trigger_id"], view=CHOICES)

    @bolt.options("pick")
    async def searched(ack, payload):
        assert "trigger_id" not in payload
        found = [one for one in OPTIONS if payload["value"] in one["text"]["text"]]
        await ack(option_groups=[{"label": {"type": "plain_text", "text": "Found"}, "options": found}])

    @bolt.view("search")
    async def picked(ack, view, client):
        await ack()
        chosen = view["state"]["values"]["pick"]["pick"]["selected_option"]
        await client.chat_postMessage(channel="#general", text=f"Picked {chosen['text']['text']}")

    @bolt.view("choices")
    async def chosen(ack, view, client):
        state = view["state"]["values"]["one"]["one"]["selected_option"]
        if state is None:
            await ack(response_action="errors", errors={"one": "Choose one."})
            return
        await ack()
        await client.chat_postMessage(channel="#general", text=f"Chose {state['value']}")

    @bolt.view("ask")
    async def submitted(ack, view, client, body):
        name = view["state"]["values"]["name"]["input"]["value"]
        if name == "nobody":
            await ack(response_action="errors", errors={"name": "Somebody else, please."})
            return
        await ack()
        await client.chat_postMessage(channel="#general", text=f"Hi {name}")


OPTIONS = [
    {
        "text": {"type": "plain_text", "text": f"Option {n}"},
        "value": str(n),
        "description": {"type": "plain_text", "text": "d"},
    }
    for n in range(3)
]
BOXES = [
    {
        "type": "actions",
        "block_id": "ticks",
        "elements": [{"type": "checkboxes", "action_id": "tick", "options": OPTIONS}],
    },
    {
        "type": "actions",
        "elements": [{"type": "button", "action_id": "boxes", "text": {"type": "plain_text", "text": "Submit"}}],
    },
]
CHOICES = {
    "type": "modal",
    "callback_id": "choices",
    "title": {"type": "plain_text", "text": "Choose"},
    "submit": {"type": "plain_text", "text": "Send"},
    "blocks": [
        {
            "type": "input",
            "block_id": "one",
            "optional": True,
            "label": {"type": "plain_text", "text": "Which?"},
            "element": {"type": "radio_buttons", "action_id": "one", "options": OPTIONS},
        }
    ],
}
SEARCH = CHOICES | {
    "callback_id": "search",
    "blocks": [
        {
            "type": "input",
            "block_id": "pick",
            "label": {"type": "plain_text", "text": "Search"},
            "element": {"type": "external_select", "action_id": "pick", "min_query_length": 2},
        }
    ],
}
MODAL = {
    "type": "modal",
    "callback_id": "ask",
    "title": {"type": "plain_text", "text": "Who?"},
    "submit": {"type": "plain_text", "text": "OK"},
    "blocks": [
        {
            "type": "input",
            "block_id": "name",
            "label": {"type": "plain_text", "text": "Name"},
            "element": {"type": "plain_text_input", "action_id": "input"},
        }
    ],
}


async def write(page: Page, text: str, *, where: str = "") -> None:
    await page.get_by_test_id(f"{where}composer").fill(text)
    await page.get_by_test_id(f"{where}send").click()


async def test_a_command_opens_its_thread_and_the_answer_grows_in_place(slack: SlackSimulator, page: Page) -> None:
    await write(page, "/flow fix it")
    thread = page.get_by_test_id("thread")
    answer = thread.get_by_test_id("message").nth(1)
    await expect(answer).to_contain_text("Working")
    ts = await answer.get_attribute("data-ts")
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    channel = slack.channel("general").id
    for text in ("Working on", "Working on it", "Done"):
        await client.chat_update(channel=channel, ts=ts, text=text, blocks=[{"type": "markdown", "text": text}])
        await expect(thread.locator(f'[data-ts="{ts}"] [data-testid=body]')).to_have_text(text)
    await expect(thread.get_by_test_id("message")).to_have_count(2)
    await page.get_by_test_id("close-thread").click()
    await expect(thread).to_be_hidden()
    await page.get_by_test_id("open-thread").click()
    await expect(thread).to_contain_text("Done")


async def test_what_is_written_before_the_workspace_is_known_waits_for_it(
    slack: SlackSimulator, browser: Browser
) -> None:
    known = asyncio.Event()
    async with await browser.new_page() as page:
        await _hold_connections(page, known)
        await page.goto(slack.url)
        await expect(page.get_by_test_id("composer")).to_be_disabled()
        writing = asyncio.create_task(page.get_by_test_id("composer").fill("/flow early", timeout=SLOW))
        known.set()
        await writing
        await page.get_by_test_id("send").click()
        await expect(page.get_by_test_id("thread")).to_contain_text("Asked: early")


async def test_a_thread_that_started_without_a_connection_opens_with_the_next_one(
    slack: SlackSimulator, browser: Browser
) -> None:
    known = asyncio.Event()
    known.set()
    async with await browser.new_page() as page:
        connections = await _hold_connections(page, known)
        await page.goto(slack.url)
        await page.get_by_test_id("composer").fill("/flow cut off", timeout=SLOW)
        known.clear()
        await connections[0].close()
        await expect(page.get_by_text("The simulator does not answer")).to_be_visible()
        await page.get_by_test_id("send").click()
        while not any(message["text"] == "Asked: cut off" for message in slack.messages("general")):
            await asyncio.sleep(0.05)
        await expect(page.get_by_test_id("thread")).to_be_hidden()
        known.set()
        await expect(page.get_by_test_id("thread")).to_contain_text("Working")


async def test_what_did_not_reach_the_simulator_stays_written(slack: SlackSimulator, page: Page) -> None:
    await page.route("**/page/act", lambda route: route.abort())
    box, messages = page.get_by_test_id("composer"), page.get_by_test_id("messages")
    await box.fill("/flow lost?")
    await page.get_by_test_id("send").click()
    await expect(messages).to_contain_text("That did not work: the simulator does not answer")
    await expect(box).to_have_value("/flow lost?")
    await box.fill("with a file")
    await page.get_by_test_id("file").set_input_files(FilePayload(name="kept.txt", mimeType="text/plain", buffer=b"x"))
    await page.get_by_test_id("send").click()
    await expect(box).to_have_value("with a file")
    await page.unroute("**/page/act")
    await page.get_by_test_id("send").click()
    await expect(messages).to_contain_text("kept.txt")
    assert [file.name for file in slack.workspace.files.values()] == ["kept.txt"]


async def _hold_connections(page: Page, until: asyncio.Event) -> list[WebSocketRoute]:
    """The page's connections to the workspace, each of which comes about only when `until` is set."""
    connections: list[WebSocketRoute] = []

    async def connect(socket: WebSocketRoute) -> None:
        connections.append(socket)
        await until.wait()
        socket.connect_to_server()

    await page.route_web_socket(re.compile("/page/live"), connect)
    return connections


async def test_markdown_is_rendered_and_cannot_break_in(slack: SlackSimulator, page: Page) -> None:
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    await client.chat_postMessage(channel="#general", text="x", blocks=[{"type": "markdown", "text": MARKDOWN}])
    body = page.get_by_test_id("message").get_by_test_id("body")
    await expect(body.locator("h2")).to_have_text("Result")
    await expect(body.locator("ol > li")).to_have_count(2)
    await expect(body.locator("ol > li ul li strong")).to_have_text("bold")
    await expect(body.locator("li.task input")).to_be_checked()
    await expect(body.locator("td").first).to_have_text("x|y")
    await expect(body.locator("pre")).to_have_text('print("<b>") # <!channel>\n```')
    await expect(body).to_contain_text("<img src=x onerror=")
    await expect(body).to_contain_text("2 * 3 * 4")
    assert await body.locator("img").count() == 0
    assert await body.locator("a").evaluate_all("links => links.map(a => a.href)") == ["https://example.org/a_(b)"]
    assert await page.title() == slack.workspace.name


async def test_an_ephemeral_is_seen_by_one_person_only(slack: SlackSimulator, page: Page) -> None:
    await write(page, "/flow help")
    await expect(page.get_by_text("Only visible to you")).to_be_visible()
    await page.get_by_test_id("person-jonas").click()
    await expect(page.get_by_text("Only visible to you")).to_be_hidden()
    await write(page, "hello from jonas")
    await expect(page.get_by_test_id("message").last).to_contain_text("jonas")
    assert slack.messages("general")[-1]["user"] == slack.user("jonas").id


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


async def test_files_go_up_and_pictures_are_shown(slack: SlackSimulator, page: Page) -> None:
    chosen: list[FilePayload] = [
        {"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL},
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"},
    ]
    await page.get_by_test_id("file").set_input_files(chosen)
    await page.get_by_test_id("send").click()
    message = page.get_by_test_id("message").last
    await expect(message).to_contain_text("notes.txt")
    picture = message.get_by_role("img", name="dot.png")
    await expect(picture).to_be_visible()
    assert await picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
    files = slack.messages("general")[-1]["files"]
    assert [slack.workspace.files[file["id"]].content for file in files] == [PIXEL, b"hello"]
    await slack.delete_file("maya", files[0]["id"])
    await expect(message).to_contain_text("This file was deleted.")


async def test_a_permalink_leads_to_its_thread(slack: SlackSimulator, page: Page) -> None:
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    root = await client.chat_postMessage(channel="#engineering", text="the root of it")
    reply = await client.chat_postMessage(channel="#engineering", text="a reply", thread_ts=root["ts"])
    link = (await client.chat_getPermalink(channel=root["channel"], message_ts=reply["ts"]))["permalink"]
    await client.chat_postMessage(channel="#general", text=f"see <{link}|over there>")
    await page.get_by_role("link", name="over there").click()
    await expect(page.get_by_test_id("thread")).to_contain_text("the root of it")
    await page.goto(link)
    await expect(page.get_by_test_id("thread")).to_contain_text("a reply")
    assert page.url == slack.url
    response = await page.goto(link.replace("/p", "/p9"))
    assert response is not None
    assert response.ok, "a message that is not there opens the workspace"


async def test_a_mention_is_answered_and_the_thread_is_continued_but_takes_no_command(
    slack: SlackSimulator, page: Page
) -> None:
    await write(page, "@Flow are you there?")
    await page.get_by_test_id("open-thread").first.click()
    thread = page.get_by_test_id("thread")
    await expect(thread.get_by_test_id("message").last).to_contain_text("You called?")
    await write(page, "yes @Flow", where="thread-")
    await expect(thread.get_by_test_id("message")).to_have_count(4)
    await write(page, "/flow stop", where="thread-")
    await expect(thread).to_contain_text("/flow is not supported in threads. Sorry!")
    assert slack.core.calls[-1].method == "chat.postMessage"


async def test_what_is_searched_for_in_a_modal_is_the_apps_to_answer(slack: SlackSimulator, page: Page) -> None:
    await write(page, "/flow search")
    modal = page.get_by_test_id("modal")
    await modal.get_by_label("Search").fill("O")  # too little to ask for
    await modal.get_by_label("Search").fill("tion 2")
    await expect(modal.locator("datalist option")).to_have_count(1)
    await expect(modal.locator("datalist option")).to_have_text("Option 2")
    await modal.get_by_label("Search").fill("0")
    await page.get_by_test_id("modal-submit").click()
    await expect(modal).to_contain_text("does not offer '0'")
    await modal.get_by_label("Search").fill("2")
    await page.get_by_test_id("modal-submit").click()
    await expect(page.get_by_test_id("messages").get_by_text("Picked Option 2")).to_be_visible()
    asked = [one.payload["value"] for one in slack.deliveries if one.payload.get("type") == "block_suggestion"]
    assert "tion 2" in asked
    assert not {"O", "2", "0"} & set(asked), "Slack asks from two letters on"


async def test_buttons_and_modals_reach_the_app(slack: SlackSimulator, page: Page) -> None:
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    go = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}}
    await client.chat_postMessage(channel="#general", text="x", blocks=[{"type": "actions", "elements": [go]}])
    await page.get_by_role("button", name="Go", exact=True).click()
    await expect(page.get_by_test_id("message").last).to_contain_text("Pressed")

    await write(page, "/flow modal")
    modal = page.get_by_test_id("modal")
    await modal.get_by_label("Name").fill("nobody")
    await page.get_by_test_id("modal-submit").click()
    await expect(modal).to_contain_text("Somebody else, please.")
    await modal.get_by_label("Name").fill("Ada")
    await page.get_by_test_id("modal-submit").click()
    await expect(modal).to_be_hidden()
    await expect(page.get_by_test_id("message").last).to_contain_text("Hi Ada")


async def test_the_home_tab_and_invitations(slack: SlackSimulator, page: Page) -> None:
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    text = {"type": "mrkdwn", "text": "No sessions *yet*"}
    home = {"type": "home", "blocks": [{"type": "section", "text": text}]}
    await client.views_publish(user_id=slack.user("maya").id, view=home)
    await page.get_by_test_id("channel-Flow").click()
    await page.get_by_test_id("tab-home").click()
    await expect(page.get_by_test_id("home").locator("b")).to_have_text("yet")
    await slack.wait_for(lambda: [d for d in slack.deliveries if d.payload.get("event", {}).get("tab") == "home"])

    await page.get_by_test_id("channel-random").click()
    await expect(page.get_by_text("@Flow is not here yet")).to_be_visible()
    await write(page, "/invite @Flow")
    await slack.wait_for(lambda: slack.bot_user_id in slack.channel("random").members)


async def test_other_sites_cannot_write_here(slack: SlackSimulator, page: Page) -> None:
    wish = {"as": "maya", "do": "post", "channel": "general", "text": "injected"}
    foreign = {"Origin": "https://example.org"}
    refused = await page.request.post(slack.url + "page/act", data=wish, headers=foreign)
    assert refused.status == 403
    as_form = await page.request.post(slack.url + "page/act", form={"do": "post"})
    assert as_form.status == 415
    assert slack.messages("general") == []


async def test_check_boxes_and_radio_buttons(slack: SlackSimulator, page: Page) -> None:
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    await client.chat_postMessage(channel="#general", text="Which?", blocks=BOXES)
    message = page.get_by_test_id("message").filter(has_text="Option 0").last
    await message.get_by_label("Option 0").check()
    await message.get_by_label("Option 1").check()
    await message.get_by_label("Option 0").uncheck()
    await message.get_by_label("Option 2").check()
    await page.locator("[data-action-id=boxes]").click()
    await expect(page.get_by_text("Ticked 1,2")).to_be_visible()
    modal = page.get_by_test_id("modal")
    await page.get_by_test_id("modal-submit").click()
    await expect(modal).to_contain_text("Choose one.")
    await modal.get_by_label("Option 1").check()
    await modal.get_by_label("Option 2").check()
    await page.get_by_test_id("modal-submit").click()
    await expect(modal).to_be_hidden()
    await expect(page.get_by_text("Chose 2")).to_be_visible()


def plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text}


def rich(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "rich_text", "elements": list(elements)}


def words(text: str, **style: bool) -> dict[str, Any]:
    return {"type": "text", "text": text, **({"style": style} if style else {})}


LONG = "all done " + "x" * 400  # a line of a tool's output
ALL_BLOCKS: list[dict[str, Any]] = [
    {
        "type": "plan",
        "title": "Plan: 1 of 3",
        "tasks": [
            {"type": "task_card", "task_id": str(n), "title": f"Step {n}", "status": state}
            for n, state in enumerate(("complete", "in_progress", "error"))
        ],
    },
    {
        "type": "task_card",
        "task_id": "alone",
        "title": "Look around",
        "status": "pending",
        "details": rich({"type": "rich_text_section", "elements": [words("3 tools")]}),
    },
    rich(
        {
            "type": "rich_text_section",
            "elements": [words("struck", strike=True), words(" and "), words("code", code=True)],
        },
        {"type": "rich_text_preformatted", "elements": [words("<b>make</b>\n  all")]},
        {
            "type": "rich_text_list",
            "style": "bullet",
            "elements": [{"type": "rich_text_section", "elements": [words("☑ done")]}],
        },
        {"type": "rich_text_quote", "elements": [words("said")]},
    ),
    {
        "type": "table",
        "rows": [
            [{"type": "raw_text", "text": "a"}, {"type": "raw_text", "text": "b"}],
            [{"type": "raw_text", "text": "1"}, {"type": "raw_text", "text": "2"}],
        ],
    },
    {"type": "context", "elements": [{"type": "mrkdwn", "text": f"✓ Bash `make`\n```\n{LONG}\n```"}]},
    {
        "type": "actions",
        "elements": [
            {"type": "static_select", "action_id": "tick", "placeholder": plain("Level"), "options": OPTIONS},
            {"type": "radio_buttons", "action_id": "ring", "options": OPTIONS},
        ],
    },
    {
        "type": "context_actions",
        "elements": [
            {
                "type": "feedback_buttons",
                "action_id": "opinion",
                "positive_button": {"text": plain("Good"), "value": "up"},
                "negative_button": {"text": plain("Bad"), "value": "down"},
            }
        ],
    },
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_block_that_flow_sends_is_drawn(slack: SlackSimulator, browser: Browser, scheme: Any) -> None:
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    await client.chat_postMessage(channel="#general", text="x", blocks=ALL_BLOCKS)
    page = await browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)
    await page.goto(slack.url)
    body = page.get_by_test_id("message").get_by_test_id("body")
    await expect(body.locator(".plan .task-card")).to_have_count(3)
    await expect(body.locator(".plan .task-card.in_progress")).to_have_text("Step 1")
    await expect(body.locator(":scope > .task-card")).to_contain_text("3 tools")
    await expect(body.locator("s")).to_have_text("struck")
    await expect(body.locator("pre").first).to_have_text("<b>make</b>\n  all")
    await expect(body.locator("blockquote")).to_have_text("said")
    await expect(body.locator(".table td")).to_have_text(["1", "2"])
    await expect(body.locator(".context pre")).to_have_text(LONG)
    assert await body.locator(".context").first.evaluate("node => node.scrollWidth <= node.clientWidth")
    await expect(body.locator("select option")).to_have_count(4)
    await expect(body.locator("input[type=radio]")).to_have_count(3)
    await expect(body.get_by_role("button", name="Good")).to_be_visible()
    assert await body.get_by_text(re.compile(r"^\([a-z_]+\)$")).count() == 0, "a block that the page does not know"
    for part in (".plan", "pre", ".context", ".button"):  # whatever the scheme, what is written can be read
        assert await body.locator(part).first.evaluate(_CONTRAST) > 4, part
    await page.close()


#: WCAG's contrast ratio of an element's text and what it stands on.
_CONTRAST = """node => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  let below = node;
  while (below && (rgb(getComputedStyle(below).backgroundColor)[3] ?? 1) === 0) below = below.parentElement;
  const [a, b] = [light(rgb(getComputedStyle(node).color)), light(rgb(getComputedStyle(below).backgroundColor))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
