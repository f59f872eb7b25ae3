"""`python -m kvprogram '{"source": …, "rate": …, "port": …, "path": …}'`: a gateway that tests and benchmarks may kill.

It says `ready` on standard output when it listens, and ends when its standard input closes: with whoever started it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import structlog
from kvserving import Source, serve

from kvstore.gateway.tokens import Verifier


async def main(asked: dict[str, Any]) -> None:
    # Nobody reads standard output after `ready`.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    source = Source(**asked["source"])
    backend = await source.backend()
    runner = await serve(backend, Verifier(source.signing_key), asked["rate"], port=asked["port"], path=asked["path"])
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(sys.stdin, lambda: sys.stdin.buffer.read1(4096) or over.set())  # type: ignore[union-attr]
    print("ready", flush=True)
    await over.wait()
    loop.remove_reader(sys.stdin)
    await runner.cleanup()
    await backend.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
