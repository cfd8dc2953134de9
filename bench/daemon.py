"""What the daemon costs before anybody asks it something: time to be ready, memory, and how soundly it sleeps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rig import LIBRARY
from bench.table import Row, show
from bench.usage import used
from exo_rkllm.client.control import Client
from simulator import boards
from simulator.model_file import SimModel, write

ROUNDS = 3
IDLE = 10.0
# For what it prepares once it is ready.
SETTLE = 1.0

HELLO = SimModel(reply="Hello")


@contextmanager
def daemon(
    folder: Path,
    profile: str = "orangepi-5-plus",
    demo: SimModel = HELLO,
    module: str = "exo_rkllm",
    **settings: str,
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """One on a simulated board with the model `demo`, and the seconds that it took to say READY=1."""
    board = boards.write(profile, folder / "board")
    model = folder / "models" / "demo"
    model.mkdir(parents=True)
    write(model / "m.rkllm", demo)
    (model / "model.toml").write_text('id = "demo"\ncontext = 2048\n[weights]\nfile = "m.rkllm"\n')
    (folder / "config.toml").write_text("")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EXO_RKLLM_")},
        "PYTHONDONTWRITEBYTECODE": "",  # a package's files are compiled, so those of a checkout are, too
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "NOTIFY_SOCKET": str(folder / "notify"),
        "RKLLM_SIM_ROOT": str(board),
        "EXO_RKLLM_CONFIG": str(folder / "config.toml"),
        "EXO_RKLLM_API_PORT": "0",
        "EXO_RKLLM_BOARD_ROOT": str(board),
        "EXO_RKLLM_CLUSTER_ENABLED": "false",
        "EXO_RKLLM_MODELS_DIRECTORY": str(folder / "models"),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(LIBRARY),
        **settings,
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(environment["NOTIFY_SOCKET"])
        manager.settimeout(60)
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", module, "serve"], env=environment, stderr=subprocess.DEVNULL)
        try:
            while manager.recv(4096) != b"READY=1":
                pass
            ready = time.perf_counter() - began
            # Nobody reads from here on, and sd_notify(3) waits for a reader where there is one that does not read.
            manager.close()
            yield process, ready
        finally:
            process.terminate()
            process.wait()


def client(folder: Path) -> Client:
    """Of the control socket of the daemon in that folder."""
    return Client(folder / "exo-rkllm/control.sock")


def address(folder: Path) -> str:
    """Where the daemon in that folder listens."""
    return str(client(folder).get("/control/status")["listening"][0])


def port(folder: Path) -> int:
    return int(address(folder).rpartition(":")[2])


def one_round() -> dict[str, float]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with daemon(folder) as (process, ready):
            time.sleep(SETTLE)
            alone = used(process.pid)
            time.sleep(IDLE)
            idle = used(process.pid) - alone
            client(folder).post("/control/load", model="demo")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            (child,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "rkllm-model\n")
            both = used(process.pid).rss + used(int(child)).rss
    return {
        "ready": ready,
        "alone": alone.rss / 1e6,
        "both": both / 1e6,
        "wakeups": idle.wakeups / IDLE,
        "cpu": idle.cpu / IDLE * 100,
    }


def main() -> None:
    rounds = [one_round() for _ in range(ROUNDS)]
    rows = (
        ("ready", "from start to ready, no model", "s", "0.35"),
        ("alone", "resident, no model", "MB", ""),
        ("both", "resident with one child, library and model", "MB", "70"),
        ("wakeups", "wake-ups a second, idle", "", "0"),
        ("cpu", "of a core, idle", "%", "0"),
    )
    show("daemon", [Row(what, unit, [one[key] for one in rounds], bar) for key, what, unit, bar in rows])
