"""A board whose NPU only the kernel's log knows to be stuck, with a pipe in the place of /dev/kmsg."""

from __future__ import annotations

import itertools
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exo_rkllm.errors import ExoRkllmError
from tests.daemon.running import Daemon, House

BOUND = "[drm] Initialized rknpu 0.9.8 20240828 for fdab0000.npu on minor 1"
TIMEOUT = "RKNPU: switch iommu domain time out, failed to switch from 1 to 2"
SWITCH = "RKNPU: failed to switch iommu domain"
SUBMIT = "RKNPU: failed to submit job"


class Kernel:
    """Writes records as the kernel does, one a write."""

    def __init__(self, root: Path) -> None:
        path = root / "dev/kmsg"
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
        self._numbers = itertools.count()
        self.pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def say(self, *lines: str, priority: int = 3) -> None:
        for line in lines:
            number = next(self._numbers)
            os.write(self.pipe, f"{priority},{number},{number}000,-;{line}\n SUBSYSTEM=platform\n".encode())


@pytest.fixture
def kernel(board_house: House) -> Iterator[Kernel]:
    one = Kernel(Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"]))
    yield one
    os.close(one.pipe)


def fault_of(daemon: Daemon) -> str:
    """Waits until there is one; nobody who follows the status is told of a fault that forbids nothing."""
    for _ in range(200):
        if fault := daemon.status()["kernel_log"]["fault"]:
            return str(fault)
        time.sleep(0.05)
    raise AssertionError(daemon.text)


def metrics(daemon: Daemon) -> str:
    with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/metrics", timeout=5) as response:
        text: str = response.read().decode()
    return text


@pytest.mark.parametrize(
    ("line", "fault", "helps"),
    [
        (TIMEOUT, "domain_switch_timeout", "sudo poweroff"),
        (SWITCH, "domain_switch", "echo fdab0000.npu | sudo tee /sys/bus/platform/drivers/RKNPU/unbind"),
        (SUBMIT, "submit", "exo-rkllm unload NAME"),
    ],
)
def test_npu_that_cannot_compute_is_named_and_loads_wait_for_a_rebound_driver(
    board_house: House, kernel: Kernel, make_model: Callable[..., Path], line: str, fault: str, helps: str
) -> None:
    board_house.simulated("qwen", make_model, reply="Hello")
    kernel.say(BOUND, "RKNPU: switch iommu domain from 0 to 1")
    daemon = board_house.start()
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert daemon.status()["kernel_log"]["fault"] is None
    kernel.say(line)
    status = daemon.wait_for(lambda status: status["unavailable_reason"])
    assert status["kernel_log"]["fault"] == fault
    assert status["kernel_log"]["errors"] == {fault: 1}
    assert helps in status["hint"]
    with pytest.raises(ExoRkllmError) as refusal:
        daemon.answer("qwen", "Hi")
    assert str(refusal.value).startswith(status["unavailable_reason"])
    assert helps in refusal.value.hint
    lease = board_house.command("npu", "run", "--", "true")
    assert (lease.returncode, status["unavailable_reason"] in lease.stderr) == (1, True), "nobody's program, either"
    page = metrics(daemon)
    assert f'rknpu_fault{{kind="{fault}"}} 1.0' in page
    assert f'rknpu_job_errors_total{{kind="{fault}"}} 1.0' in page
    assert "rkllm_serving 0.0" in page
    doctor = " ".join(board_house.command("doctor").stdout.split())
    assert status["unavailable_reason"] in doctor
    kernel.say(BOUND)
    daemon.wait_for(lambda status: not status["unavailable_reason"])
    assert daemon.status()["kernel_log"]["fault"] == fault, "nothing has worked yet"
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert daemon.status()["kernel_log"]["fault"] is None
    assert daemon.text.count("The NPU works again.") == 1


def test_running_answer_ends_with_the_reason_when_the_npu_gets_stuck(
    board_house: House, kernel: Kernel, make_model: Callable[..., Path]
) -> None:
    board_house.simulated("slow", make_model, reply="word " * 200, decode_tps=10)
    daemon = board_house.start()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.answer, "slow", "Hi")
        daemon.wait_for(lambda status: status["models"] and status["models"][0]["running"])
        kernel.say(TIMEOUT)
        error = running.exception(15)
    assert isinstance(error, ExoRkllmError)
    assert "switch of its IOMMU domain" in str(error)
    assert "sudo poweroff" in error.hint


def test_models_off_the_npu_go_on_and_clear_nothing(board_house: House, kernel: Kernel) -> None:
    board_house.words()
    daemon = board_house.start()
    kernel.say(SWITCH, BOUND)
    fault_of(daemon)
    assert daemon.answer("words", "still here") == "still here"
    assert daemon.status()["kernel_log"]["fault"] == "domain_switch"


def test_hung_job_is_named_until_an_answer_succeeds(
    board_house: House, kernel: Kernel, make_model: Callable[..., Path]
) -> None:
    board_house.simulated("qwen", make_model, reply="Hello")
    daemon = board_house.start()
    kernel.say("RKNPU: failed to wait job, task counter: 0, flags: 0x5, ret = 0, elapsed time: 6163us")
    kernel.say("RKNPU: soft reset, num: 1")
    assert fault_of(daemon) == "hung_job"
    assert not daemon.status()["unavailable_reason"]
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert daemon.status()["kernel_log"] == {
        "errors": {"hung_job": 1, "soft_reset": 1},
        "fault": None,
        "stops": False,
        "sentence": "",
        "hint": "",
        "absent": "",
    }


def test_fault_from_before_the_daemon_started_counts(board_house: House, kernel: Kernel) -> None:
    kernel.say(BOUND, TIMEOUT)
    assert "IOMMU domain" in board_house.start().status()["unavailable_reason"]


def test_lines_that_a_program_wrote_into_the_log_do_not_count(board_house: House, kernel: Kernel) -> None:
    kernel.say(TIMEOUT, priority=27)  # facility daemon: systemd writes there while it starts
    kernel.say("RKNPU: failed to allocate IOVA: -12")
    status = board_house.start().status()
    assert status["kernel_log"]["errors"] == {"allocation": 1}
    assert status["unavailable_reason"] == ""


def test_unreadable_log_leaves_everything_out(board_house: House) -> None:
    daemon = board_house.start()
    value = daemon.status()["kernel_log"]
    assert value["errors"] is None
    assert value["absent"] == "there is no /dev/kmsg"
    page = metrics(daemon)
    assert "rknpu_job_errors" not in page
    assert "rknpu_fault" not in page


def test_log_that_ends_does_not_spin_the_daemon(board_house: House, kernel: Kernel) -> None:
    daemon = board_house.start()
    kernel.say(SWITCH)
    daemon.wait_for(lambda status: status["unavailable_reason"])
    writer, kernel.pipe = kernel.pipe, os.open(os.devnull, os.O_RDONLY)
    os.close(writer)
    before = cpu_ticks(daemon)
    daemon.answer(board_house.words(tokens_per_second=4), "a b c d")
    assert cpu_ticks(daemon) - before < 50
    assert daemon.status()["unavailable_reason"]


def cpu_ticks(daemon: Daemon) -> int:
    words = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
