"""Every exported function of every generation is called: here, under AddressSanitizer, and on arm64."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.runtime import abi
from tests.runtime import abi_check, abi_table
from tests.simulated import REPOSITORY, VERSIONS, Library

DRIVER = Path(__file__).parent / "arm64_driver.py"
SYSROOT = REPOSITORY / "build" / "arm64-sysroot"
EMULATOR = "qemu-aarch64-static"


@pytest.fixture
def drive(
    library: Library, board_root: Path, make_model: Callable[..., Path], tmp_path: Path
) -> Callable[..., Mapping[str, Any]]:
    """The driver's report, by this command and environment."""

    def run(command: list[str], environment: Mapping[str, str], **which: Any) -> Mapping[str, Any]:
        libraries = library("1.3.0", **which).parent.parent
        model = make_model(reply="You said: {user}")
        lora = make_model(reply="You said: {user}")
        arguments = [*command, str(DRIVER), *map(str, (libraries, model, lora, tmp_path))]
        done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
        report: Mapping[str, Any] = json.loads(done.stdout)
        return report

    return run


def check(report: Mapping[str, Any]) -> None:
    """No figure differs, every function was called and answered 0 on a model, -1 without one."""
    assert report["mismatches"] == []
    assert report["figures"] == abi_check.figures()
    assert set(report["called"]) == set(VERSIONS)
    for release in VERSIONS:
        generation = abi.load(release).name
        called = report["called"][release]
        assert set(called) == set(abi_table.functions(generation)), release
        done = {answer for name, answers in called.items() if name != "rkllm_is_running" for answer in answers}
        assert done == {0}, called
        assert set(report["null"][release].values()) == {-1}


def test_every_function_of_every_generation(drive: Callable[..., Mapping[str, Any]]) -> None:
    check(drive([sys.executable], {}))


def test_under_address_sanitizer(drive: Callable[..., Mapping[str, Any]]) -> None:
    """Memory of ours that the library reads too far, or too late, ends the process with a report."""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("this gcc has no libasan")
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps its own until it ends
        "PYTHONMALLOC": "malloc",  # else buffers of ours lie in the interpreter's arenas, where nothing is watched
    }
    check(drive([sys.executable], environment, sanitize=True))


def test_on_arm64(drive: Callable[..., Mapping[str, Any]]) -> None:
    """An arm64 interpreter with the arm64 simulator: the boards' own calling convention."""
    if platform.machine() == "aarch64":
        pytest.skip("this machine is arm64: the test above was it")
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed (qemu-user-static)")
    made = subprocess.run([REPOSITORY / "tests" / "system" / "arm64-sysroot", SYSROOT], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no arm64 files to run: {made.stderr.strip()}")
    interpreter = [EMULATOR, "-L", str(SYSROOT), str(SYSROOT / "usr" / "bin" / "python3")]
    # What points to this machine's own Python is of no use to that one.
    report = drive(interpreter, {"PYTHONHOME": str(SYSROOT / "usr"), "LD_LIBRARY_PATH": ""}, machine="aarch64")
    assert report["machine"] == "aarch64"
    check(report)
