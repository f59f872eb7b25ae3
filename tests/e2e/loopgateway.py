"""The gateway's process as Flow starts it, but for its dialer, which takes this machine's loopback for the outside.

    python loopgateway.py SHARE_DIR worklets.gatewayprocess

Flow finds it as it finds its own; the last argument is what it knows one by.
"""

import asyncio
import sys
from pathlib import Path

from config.logging import configure
from worklets.egressdial import Dialer
from worklets.gatewaycontrol import acquire, control_dir
from worklets.gatewayprocess import GatewayProcess


async def main(share_dir: Path) -> None:
    lock = acquire(control_dir(share_dir))
    assert lock is not None
    dialer = Dialer(lambda host: ["127.0.0.1"], lambda address: address == "127.0.0.1")
    await GatewayProcess(share_dir, lock, idle=600, empty=600, dialer=dialer).run()


configure("console", stream=sys.stderr)
asyncio.run(main(Path(sys.argv[1])))
