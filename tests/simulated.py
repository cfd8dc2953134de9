"""Fixtures that stand in for the hardware: the simulated runtime, boards and models.

The library is built once a session (`make -C simulator`, instant when nothing changed).

    def test_it_answers(library, board_root, make_model):
        so = library("1.3.0")                      # Path of librkllmrt.so, or library("1.2.3", sanitize=True)
        model = make_model(reply="Hi {user}", decode_tps=20, faults=("segv@token:5",))
        ...

* `library(version)`: VERSIONS has one version of each supported generation, REFUSED has a 1.0.1 and an unknown 9.9.0.
* `board_root`: an RK3588 board's file tree, and RKLLM_SIM_ROOT set to it, so that the library finds a board.
* `make_board(soc, driver)`: another tree; set RKLLM_SIM_ROOT to it yourself, or pass it to a child's environment.
* `make_model(**fields)`: a model file; the fields are those of `simulator.model_file.SimModel`.

A situation is made by making a model: text, speed, crashes and hangs are fields of it (see simulator/README.md).
"""

from __future__ import annotations

import fcntl
import itertools
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from simulator.model_file import SimModel, write

REPOSITORY = Path(__file__).parent.parent
VERSIONS = ("1.1.4", "1.2.0", "1.2.1b1", "1.2.3", "1.3.0", "1.3.1")
REFUSED = ("1.0.1", "9.9.0")

BOARDS = {
    "rk3588": (b"xunlong,orangepi-5-plus\0rockchip,rk3588\0", b"Xunlong Orange Pi 5 Plus\0"),
    "rk3576": (b"armsom,sige5\0rockchip,rk3576\0", b"ArmSoM Sige5\0"),
    "rk3562": (b"rockchip,rk3562-evb1\0rockchip,rk3562\0", b"Rockchip RK3562 EVB1\0"),
    "rk3566": (b"radxa,zero3\0rockchip,rk3566\0", b"Radxa ZERO 3\0"),
}


class Library(Protocol):
    def __call__(self, version: str, *, sanitize: bool = False, machine: str = "") -> Path: ...


def build(*, sanitize: bool = False, machine: str = "") -> Path:
    """Builds every version, alone even when several test sessions run, and returns the folder."""
    machine = machine or platform.machine()
    arguments = ["SANITIZE=1"] if sanitize else []
    if machine != platform.machine():
        arguments.append({"aarch64": "ARCH=arm64"}[machine])
    out = REPOSITORY / "build" / "simulator"
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-C", str(REPOSITORY / "simulator"), "-j2", "--no-print-directory", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"the simulator does not build:\n{done.stdout}{done.stderr}", pytrace=False)
    return out / (machine + ("-sanitize" if sanitize else ""))


def write_board(root: Path, soc: str = "rk3588", driver: str = "0.9.8") -> Path:
    """The files that a board's runtime looks at, below `root`; an empty driver version means no driver."""
    compatible, name = BOARDS[soc]
    base = root / "sys" / "firmware" / "devicetree" / "base"
    base.mkdir(parents=True)
    (base / "compatible").write_bytes(compatible)
    (base / "model").write_bytes(name)
    if driver:
        module = root / "sys" / "module" / "rknpu"
        module.mkdir(parents=True)
        (module / "version").write_text(f"{driver}\n")
    return root


@pytest.fixture(scope="session")
def library() -> Library:
    """Path of a simulated runtime by version."""
    built: dict[tuple[bool, str], Path] = {}

    def path(version: str, *, sanitize: bool = False, machine: str = "") -> Path:
        key = (sanitize, machine)
        if key not in built:
            built[key] = build(sanitize=sanitize, machine=machine)
        return built[key] / version / "librkllmrt.so"

    return path


@pytest.fixture
def make_board(tmp_path: Path) -> Callable[..., Path]:
    """Trees of boards: `make_board("rk3576", driver="0.9.6")`."""
    count = itertools.count()

    def make(soc: str = "rk3588", driver: str = "0.9.8") -> Path:
        return write_board(tmp_path / f"board-{next(count)}", soc, driver)

    return make


@pytest.fixture
def board_root(make_board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An RK3588 board, found by the simulated runtime of this process and its children."""
    root = make_board()
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(root))
    return root


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Model files: `make_model(reply="Hi", decode_tps=20)`; `file="name.rkllm"` chooses the name."""
    count = itertools.count()

    def make(*, file: str = "", **fields: Any) -> Path:
        number = next(count)
        return write(tmp_path / (file or f"model-{number}.rkllm"), SimModel(**fields))

    return make
