"""What a thread reads when its idle worklet was ended because nobody answered in it."""

from __future__ import annotations

from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncSlackResponse, AsyncWebClient
from slackdoor import Flow

from bot.watching import tell_silence


async def test_the_thread_is_told_why_its_worklet_was_ended(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    (session,) = await flow.sessions.store.live()
    await tell_silence(flow.door.client, session)
    said = flow.slack.visible_text(flow.slack.messages("#general", ts)[-1])
    assert "did not answer any more" in said
    assert "write again" in said
    process.answer("done")


async def test_it_is_told_after_slack_had_too_much(flow: Flow) -> None:
    class Busy(AsyncWebClient):
        tries = 0

        async def chat_postMessage(self, **what: Any) -> AsyncSlackResponse:
            self.tries += 1
            if self.tries < 2:
                answer = AsyncSlackResponse(
                    client=self, http_verb="POST", api_url="", req_args={}, data={"ok": False, "error": "ratelimited"},
                    headers={"Retry-After": "0"}, status_code=429,
                )  # fmt: skip
                raise SlackApiError("ratelimited", answer)
            return await flow.door.client.chat_postMessage(**what)

    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    (session,) = await flow.sessions.store.live()
    await tell_silence(Busy(), session)
    texts = [flow.slack.visible_text(one) for one in flow.slack.messages("#general", ts)]
    assert sum("did not answer any more" in text for text in texts) == 1
    process.answer("done")
