"""The least that a Socket Mode app can do: `python -m benchmarks.echo <api url> <app token>` only acknowledges."""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp


async def main(api_url: str, app_token: str) -> None:
    headers = {"Authorization": f"Bearer {app_token}"}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{api_url}apps.connections.open", headers=headers) as answer:
            url = (await answer.json())["url"]
        async with http.ws_connect(url) as socket:
            async for message in socket:
                frame = json.loads(message.data)
                if "envelope_id" in frame:
                    await socket.send_str(json.dumps({"envelope_id": frame["envelope_id"]}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
