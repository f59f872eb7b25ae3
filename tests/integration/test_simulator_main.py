"""`python -m simulator` as people start it."""

import asyncio
import sys

from slack_sdk.web.async_client import AsyncWebClient


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "simulator",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_it_prints_where_it_listens_and_takes_fixed_tokens() -> None:
    process = await start("--bot-token", "xoxb-demo", "--app-token", "xapp-demo")
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = [(await process.stdout.readline()).decode().split() for _ in range(4)]
        values = {line[0]: line[1] for line in lines}
        assert (values["SLACK_BOT_TOKEN"], values["SLACK_APP_TOKEN"]) == ("xoxb-demo", "xapp-demo")
        client = AsyncWebClient(token="xoxb-demo", base_url=values["SLACK_API_URL"])
        answer = await client.auth_test()
        assert answer["url"] == values["Page"]
        second = await start("--port", values["Page"].rstrip("/").rpartition(":")[2])
        _, error = await second.communicate()
        assert second.returncode == 1
        assert error.decode().startswith("The simulator cannot start: ")
        assert error.decode().count("\n") == 1
    finally:
        process.terminate()
        await process.communicate()
