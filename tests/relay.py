"""Pass Ethernet frames between two interfaces, late and with losses: python relay.py FIRST SECOND SECONDS SHARE.

The delay is that of each direction, the share that of the frames lost in each direction. What tc's netem does, for
kernels without it.
"""

from __future__ import annotations

import collections
import random
import select
import socket
import sys
import time

_LONGEST_FRAME = 70_000
_PACKET_VNET_HDR = 15
"""linux/if_packet.h: a header before each frame says which checksums are still to be computed."""
_PACKET_OUTGOING = 4


def relay(names: tuple[str, str], delay: float, loss: float) -> None:
    """Pass frames for ever."""
    ends = [_open(name) for name in names]
    chance = random.Random(0)  # noqa: S311 - losses, not secrets
    waiting: collections.deque[tuple[float, socket.socket, bytes]] = collections.deque()
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], pause)[0]:
            frame, address = end.recvfrom(_LONGEST_FRAME)
            if address[2] != _PACKET_OUTGOING and chance.random() >= loss:
                waiting.append((time.monotonic() + delay, ends[1] if end is ends[0] else ends[0], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            try:
                end.send(frame)
            except OSError:  # the cable is out
                continue


def _open(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    end.setsockopt(263, _PACKET_VNET_HDR, 1)  # SOL_PACKET
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    end.bind((name, 0))
    return end


if __name__ == "__main__":
    relay((sys.argv[1], sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
