"""A network link between the programs and a server, that can be cut, slowed and made to lose what matters most.

Knows bytes on sockets. What a lossy network does to TCP is waiting for retransmission, so loss is delay here.
"""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

#: PostgreSQL's word that a transaction is committed.
_COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"


class Link:
    """Forwards connections from one Unix socket to another.

    While `cut`, nothing passes and nothing is closed. `delay` is added to every piece in seconds; a share `loss` of the
    pieces waits for a retransmission besides. `commits` is the share of replies to COMMIT that are lost with their
    connection, once they are committed.
    """

    def __init__(self, listen: Path, target: Path, seed: int = 1) -> None:
        self.cut = False
        self.delay = 0.0
        self.loss = 0.0
        self.commits = 0.0
        self.lost_commits = 0
        self._random = random.Random(seed)
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        listen.unlink(missing_ok=True)
        self._listener.bind(str(listen))
        listen.chmod(0o777)
        self._listener.listen(128)
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End every connection, and take no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            self._end(one)

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(inner,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_UNIX)
        self._open |= {near, far}
        try:
            self._wait_while_cut()
            far.connect(str(self._target))
            self._forward(near, far)
        except OSError:
            pass  # one of the two has gone; so does the other
        finally:
            self._end(near)
            self._end(far)

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    piece = source.recv(1 << 16)
                    if not piece:
                        return
                    self._wait_while_cut()
                    if source is far and _COMMITTED in piece and self._random.random() < self.commits:
                        self.lost_commits += 1
                        return
                    if self.delay:
                        lost = self._random.random() < self.loss
                        time.sleep(self.delay + (self._random.uniform(0.2, 1.0) if lost else 0.0))
                    key.data.sendall(piece)

    def _wait_while_cut(self) -> None:
        while self.cut:
            time.sleep(0.02)

    def _end(self, one: socket.socket) -> None:
        self._open.discard(one)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
