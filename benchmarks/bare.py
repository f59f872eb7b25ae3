"""The least that a process with Flow's libraries can do: `python -m benchmarks.bare <api url> <bot token>`.

It imports them, asks Slack who it is, and says so.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import sqlalchemy.ext.asyncio
from slack_sdk.web.async_client import AsyncWebClient


async def main(api_url: str, token: str) -> None:
    async with aiohttp.ClientSession() as http:
        answer = await AsyncWebClient(token=token, base_url=api_url, session=http).auth_test()
    print(answer["user_id"], sqlalchemy.__version__, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
