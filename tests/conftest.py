"""What all tests share: nothing from the machine's own settings, the same examples in every run, a quick collector of
garbage, and `--resume`."""

from __future__ import annotations

import gc
import os
import signal

import hypothesis
import pytest

from tests.databases import postgresql_server

__all__ = ["postgresql_server"]
pytest_plugins = ["tests.resume"]


def pytest_configure(config: pytest.Config) -> None:
    # A developer's own settings must not decide what the tests see; Hub look-ups must not leave the machine.
    for name in [name for name in os.environ if name.startswith("CORPUSMILL_")]:
        del os.environ[name]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The same examples in every run, however long a busy machine takes over one: what is red is red for everybody.
    # `pytest --hypothesis-profile=default` looks for new ones.
    hypothesis.settings.register_profile(
        "house", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("house")
    # A shell starts what runs in the background deaf to Ctrl-C, and so would be the programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported lives to the end: the garbage collector need not look at it again and again.

    With torch and transformers each full collection takes 0.2 s otherwise.
    """
    gc.collect()
    gc.freeze()
