"""Loading and unloading at once leaves every model loadable; a model that is stuck all the same is seen from outside.

`TESTS_SECONDS=60 pytest tests/daemon/test_wedge.py` lets the clients load and unload for that long.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exo_rkllm.client.control import Client
from exo_rkllm.errors import ExoRkllmError
from tests.daemon.running import Daemon, House

CLIENTS = 8
SECONDS = float(os.environ.get("TESTS_SECONDS", "4"))
MODELS = ("qwen", "gemma")
# The wedge of before: an engine that is closed, and nobody hears of it.
CODE = """\
import sys
sys.argv[0] = "exo-rkllm"
from exo_rkllm.dispatch import life, stuck
life.EngineLife._over = lambda self, task: None
stuck.LIMITS = {"loading": 60.0, "closing": 1.0}
from exo_rkllm.cli import main
raise SystemExit(main())
"""
WEDGED = (sys.executable, "-c", CODE)


def readiness(daemon: Daemon) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/readyz", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_clients_that_load_and_unload_two_models_leave_both_loadable(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    """A load and an unload in the same turn of the loop left a model closing for ever."""
    for name in MODELS:
        board_house.simulated(name, make_model, reply="{user}", template="none", decode_tps=400)
    daemon = board_house.start(EXO_RKLLM_MODELS_MAX_LOADED="1")
    end = time.monotonic() + SECONDS
    done: Counter[str] = Counter()
    finished: list[int] = []
    lock = threading.Lock()

    def client(seed: int) -> None:
        try:
            work(seed)
        finally:
            finished.append(seed)

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < end:
            verb = dice.choice(["load", "load", "unload", "unload", "ask"])
            name = dice.choice(MODELS)
            try:
                if verb == "ask":
                    assert daemon.answer(name, "one two").split()[-2:] == ["one", "two"]
                else:
                    Client(daemon.house.socket, 30.0).post(f"/control/{verb}", model=name)
            except ExoRkllmError as error:  # such as a load that another client's unload ended
                verb = error.code
            except TimeoutError:
                raise AssertionError(f"{verb} {name} hangs: {daemon.status()['models']}\n{daemon.text}") from None
            with lock:
                done[verb] += 1

    def hear() -> None:
        """As systemd does: who tells it something waits while its queue of ten is full."""
        while len(finished) < CLIENTS:
            daemon.hear()
            time.sleep(0.01)

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        hearing = pool.submit(hear)
        for one in [pool.submit(client, seed) for seed in range(CLIENTS)]:
            one.result(SECONDS + 60.0)
        hearing.result()
    assert done["load"] and done["unload"] and done["ask"], done
    for name in MODELS:
        assert daemon.answer(name, "one two").split()[-2:] == ["one", "two"]
        daemon.client.post("/control/unload", model=name)
    assert [model["state"] for model in daemon.status()["models"]] == ["cold", "cold"]
    assert readiness(daemon) == (200, "ready\n")


def test_stuck_model_is_named_by_readyz_and_ends_the_watchdogs_peace(board_house: House) -> None:
    name = board_house.words()
    board_house.program = WEDGED
    daemon = board_house.start(WATCHDOG_USEC="1000000")
    daemon.answer(name, "one")
    assert readiness(daemon) == (200, "ready\n")
    daemon.until("WATCHDOG=1")
    with ThreadPoolExecutor() as pool:
        unloading = pool.submit(daemon.client.post, "/control/unload", model=name)
        daemon.wait_for(lambda status: status["models"][0]["state"] == "closing")
        deadline = time.monotonic() + 15.0
        while (answer := readiness(daemon))[0] == 200:
            assert time.monotonic() < deadline
            daemon.hear()
            time.sleep(0.1)
        assert answer[0] == 503
        assert answer[1].startswith(f"{name} has been closing for ")
        assert answer[1].endswith(" sudo systemctl restart exo-rkllm\n")
        time.sleep(1.0)  # what was told before it was stuck
        daemon.hear()
        with pytest.raises(AssertionError, match="never said"):
            daemon.until("WATCHDOG=1", 2.0)
        (line,) = (line for line in daemon.text.splitlines() if "starts the daemon anew" in line)
        assert f"{name} has been closing" in line
        assert "has been closing" in board_house.command("doctor").stdout
        daemon.process.kill()  # which is what systemd does then
        with pytest.raises(ExoRkllmError):
            unloading.result(10)
