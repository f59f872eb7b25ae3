"""A server's answer streamed on to whoever asked: nothing is collected, and half of one does not look whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import ClientResponse, web


async def stream_on(
    request: web.BaseRequest,
    response: web.StreamResponse,
    answer: ClientResponse,
    heard: Callable[[bytes], None] = lambda _chunk: None,
) -> Exception | None:
    """Sends `response`, which has its status and headers, with the body of `answer`; `heard` is given each piece first.

    Returns what cut the answer off, and then the asker's connection is cut too; None: it ended, or the asker went away.
    """
    from aiohttp import ClientError

    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            heard(chunk)  # first: whoever leaves now has had it made all the same
            await response.write(chunk)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the asker went away; that error of aiohttp's is a ClientError too
    except (ClientError, TimeoutError) as error:
        # A proper end would pass off half an answer as a whole one.
        if request.transport is not None:
            request.transport.abort()
        return error
    return None
