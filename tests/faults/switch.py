"""A network switch between virtual cables, which loses, delays and cuts off what it is told to.

    python -m tests.faults.switch PORT=INTERFACE …

Knows Ethernet frames and Linux's packet sockets. What is to happen between two ports is read from stdin, one object of JSON
a line: `{"a>b": {"cut": true, "loss": 0.3, "delay": 0.1}}`, in one direction, with loss as a share and delay in seconds.
It stands in for `tc netem`, which many kernels are built without; what TCP sees is the same.
"""

from __future__ import annotations

import heapq
import json
import random
import selectors
import socket
import sys
import time
from contextlib import suppress
from typing import Any

_EVERY_PROTOCOL = 3
_SOL_PACKET, _VNET_HEADER, _IGNORE_OUTGOING = 263, 15, 23
#: With each frame come ten bytes that say which checksums are still to be made, and into what it is still to be cut.
_HEADER = 10
_LARGEST = 1 << 17


class Switch:
    """Ports, and where each station was last heard."""

    def __init__(self, ports: dict[str, str], seed: int = 1) -> None:
        self.rules: dict[str, dict[str, Any]] = {}
        self._sockets = {name: _port(interface) for name, interface in ports.items()}
        self._stations: dict[bytes, str] = {}
        self._late: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        self._random = random.Random(seed)

    def run(self) -> None:
        """Forward until stdin ends."""
        with selectors.DefaultSelector() as selector:
            for name, port in self._sockets.items():
                selector.register(port, selectors.EVENT_READ, name)
            selector.register(sys.stdin, selectors.EVENT_READ, None)
            while True:
                for key, _ in selector.select(self._patience()):
                    if key.data is None:
                        line = sys.stdin.readline()
                        if not line:
                            return
                        self.rules = json.loads(line)
                        sys.stdout.write("done\n")
                        sys.stdout.flush()
                    else:
                        self._receive(key.data)
                self._deliver()

    def _patience(self) -> float | None:
        return max(0.0, self._late[0][0] - time.monotonic()) if self._late else None

    def _receive(self, source: str) -> None:
        try:
            frame = self._sockets[source].recv(_LARGEST)
        except OSError:
            return  # the cable's other end has gone
        target, sender = frame[_HEADER : _HEADER + 6], frame[_HEADER + 6 : _HEADER + 12]
        self._stations[sender] = source
        known = self._stations.get(target)
        for name in [known] if known else [name for name in self._sockets if name != source]:
            self._forward(source, name, frame)

    def _forward(self, source: str, target: str, frame: bytes) -> None:
        rule = self.rules.get(f"{source}>{target}", {})
        if rule.get("cut") or self._random.random() < rule.get("loss", 0.0):
            return
        if rule.get("delay"):
            self._count += 1
            heapq.heappush(self._late, (time.monotonic() + rule["delay"], self._count, target, frame))
        else:
            self._send(target, frame)

    def _deliver(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(self._late)
            self._send(target, frame)

    def _send(self, target: str, frame: bytes) -> None:
        with suppress(OSError):  # a full queue loses frames, as any switch does
            self._sockets[target].send(frame)


def _port(interface: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
    port.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    port.bind((interface, _EVERY_PROTOCOL))
    return port


if __name__ == "__main__":
    Switch(dict(argument.split("=", 1) for argument in sys.argv[1:])).run()
