"""A port for a server that is started later, or started again at the same address."""

from __future__ import annotations

import random
import socket

#: Below those that the kernel gives to whoever asks for any (net.ipv4.ip_local_port_range): so nobody else gets it
#: before the server has begun to listen, or while it is being started again.
_RANGE = range(20_000, 32_000)
_dice = random.SystemRandom()  # not the tests' own seeds: several processes choose at the same time


def free_port() -> int:
    while True:
        port = _dice.choice(_RANGE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just closed will do
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
