"""A gateway that takes this machine's loopback for the outside, and waits for the one before it to die.

    python outgateway.py SHARE_DIR worklets.gatewayprocess

Flow finds it as it finds its own, and starts none where one holds the lock; the last argument is what it knows one by.
"""

import asyncio
import sys
import time
from pathlib import Path

from config.logging import configure
from worklets.egressdial import Dialer
from worklets.gatewaycontrol import acquire, control_dir
from worklets.gatewayprocess import GatewayProcess


def main(share_dir: Path) -> None:
    configure("console", stream=sys.stderr)
    while (lock := acquire(control_dir(share_dir))) is None:
        time.sleep(0.005)
    dialer = Dialer(lambda host: ["127.0.0.1"], lambda address: address == "127.0.0.1")
    asyncio.run(GatewayProcess(share_dir, lock, idle=600, empty=600, dialer=dialer).run())


main(Path(sys.argv[1]))
