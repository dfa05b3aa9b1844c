"""What `up` runs: the broker, the API, the workers and the sweeper, each in a process of its own.

Knows what each program is told and the order in which they start and end. Must not know HTTP routes, models or shards.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from broker.embedded import Embedded
from cli.devices import ask_torch, cuda_ids, gpu_driver_present
from cli.listening import bracketed, what_is_missing
from cli.supervise import Program, Signals, Watched, end, say
from corpusmill.errors import InvalidSettings
from corpusmill.settings import PREFIX, Settings, environ_of

#: In the API's environment: the number of the listening socket that it inherits.
LISTEN_FD = "LISTEN_FD"
#: Seconds each group gets to end, together below 10. A worker gives its shard back after 5.
_WORKER_SECONDS, _API_SECONDS, _BROKER_SECONDS = 6.5, 2.0, 1.0
_LOOK_SECONDS = 0.25
#: How often it is said what is still missing while the service is not ready.
_TELL_SECONDS = 20.0


class Service:
    """All programs of one data directory. `listener` is the descriptor of the API's listening socket, which outlives
    the API's process: while that is started again, callers wait and none is refused.

    Raises InvalidSettings where a device is asked for that is not there.
    """

    def __init__(self, settings: Settings, listener: int) -> None:
        self._broker = None if settings.broker_url else Embedded(settings.data_dir)
        if self._broker:
            settings = settings.model_copy(update={"broker_url": self._broker.url})
        # One file for several programs would say nothing of any of them; here they are watched themselves.
        self._settings = settings = settings.model_copy(update={"pulse_file": None})
        self._logs = settings.data_dir / "logs"
        self._workers = {
            name: self._program("worker", environ_of(given) | extra, log=name)
            for name, given, extra in worker_plans(settings, cuda_devices(settings))
        }
        plain = environ_of(settings) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._rest = {
            "sweep": self._program("sweep", plain),
            "api": self._program("api", plain | {LISTEN_FD: str(listener)}, pass_fds=(listener,)),
        }

    def run(self, signals: Signals) -> None:
        """Start everything, keep it running until a signal comes, end it. Raises BrokerUnavailable where the embedded
        broker does not come up."""
        watched = [Watched(name=name, part=part) for name, part in (self._rest | self._workers).items()]
        if self._broker:
            watched.insert(0, Watched(name="broker", part=self._broker))
        try:
            for one in watched:
                one.start(time.monotonic())
            self._watch(watched, signals)
        finally:
            self._end(signals)

    def _watch(self, watched: list[Watched], signals: Signals) -> None:
        host, port = self._settings.host, self._settings.port
        ready, told = False, time.monotonic() + _TELL_SECONDS
        while not signals.count:
            for one in watched:
                one.look(time.monotonic(), say)
            if not ready:
                missing = what_is_missing(host, port)
                ready = not missing
                if ready:
                    print(f"ready http://{bracketed(host)}:{port}", flush=True)
                elif time.monotonic() > told:
                    told = time.monotonic() + _TELL_SECONDS
                    say(f"not ready yet: {missing}. The programs' logs are in {self._logs}.")
            signals.wait(_LOOK_SECONDS)

    def _end(self, signals: Signals) -> None:
        """Workers first, while the database, the broker and the API are still there; the broker last. The sweeper ends
        with the workers, who do not need it: it takes a while to be done with its sweep, and to give its runs back."""
        asked = signals.count

        def hurry() -> bool:
            return signals.count > max(asked, 1)

        say("stopping")
        late = end([*self._workers.values(), self._rest["sweep"]], patience=_WORKER_SECONDS, hurry=hurry)
        late += end([self._rest["api"]], patience=_API_SECONDS, hurry=hurry)
        for program in late:
            say(f"{program.log.stem} did not end in time and was killed; what it had not written is run again.")
        if self._broker:
            self._broker.stop(0.0 if hurry() else _BROKER_SECONDS)
        say("stopped")

    def _program(
        self, name: str, environ: dict[str, str], *, log: str | None = None, pass_fds: tuple[int, ...] = ()
    ) -> Program:
        return Program(
            command=[sys.executable, "-m", "cli", name],
            environ=_inherited() | environ,
            log=self._logs / f"{log or name}.log",
            pass_fds=pass_fds,
        )


def worker_plans(settings: Settings, devices: Sequence[str]) -> list[tuple[str, Settings, dict[str, str]]]:
    """Each worker's name, settings and further environment: one for each CUDA device, or one on the CPU, or as many as
    the settings say, taking turns on the devices; the cores are shared out among them."""
    count = settings.workers or max(1, len(devices))
    threads = settings.threads or max(1, _cores() // count)
    plans = []
    for number in range(count):
        name = "worker" if count == 1 else f"worker-{number}"
        device = devices[number % len(devices)] if devices else ""
        given = settings.model_copy(update={"device": "cuda" if devices else "cpu", "threads": threads})
        plans.append((name, given, {"CUDA_VISIBLE_DEVICES": device, "OMP_NUM_THREADS": str(threads)}))
    return plans


def cuda_devices(settings: Settings) -> list[str]:
    """The CUDA devices to use, as CUDA_VISIBLE_DEVICES writes them; none where the workers run on the CPU.

    Raises InvalidSettings where CUDA is asked for and not there.
    """
    if settings.device == "cpu" or (settings.device == "auto" and not gpu_driver_present()):
        return []
    found = ask_torch()
    if settings.device == "cuda" and not found.cuda:
        raise InvalidSettings(
            "CORPUSMILL_DEVICE is cuda, but there is no CUDA device that torch can use "
            f"({found.fault or f'torch {found.torch} sees none'}); use `auto` or `cpu`."
        )
    return cuda_ids(len(found.cuda))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _inherited() -> dict[str, str]:
    """Our environment for a child: without settings, which it gets whole, and with our own packages ahead of any in the
    directory that `up` was started in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    here = str(Path(__file__).parents[1])
    paths = [here, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return kept | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
