"""On a virtual Orange Pi 5 Plus: a real arm64 kernel, a driver that udev finds by the device tree, real limits.

One board a release, booted once: the tests stand in the order in which they leave it usable.
"""

from __future__ import annotations

import json
import math

from tests.system.substrate import owner, probe_unit
from tests.system.substrate.computer import Computer
from tests.system.substrate.workshop import Onboard
from tests.system.test_1_service import UNIT, answers, words

LIBRARY = "/usr/lib/exo-rkllm-simulator/1.3.1/librkllmrt.so"
RUNTIME = "/usr/lib/exo-rkllm/runtimes/librkllmrt-1.3.1.so"
DEVICE = "fdab0000.npu"
# The runtime wants a CPU for each NPU core, and an emulated board has two.
FITS = "--npu-cores 2"
COUNTERS = "rknpu_core_utilization_ratio"


def utilization(computer: Computer) -> list[float]:
    return [value for name, value in computer.metrics().items() if name.startswith(COUNTERS)]


# ── right after the installation ─────────────────────────────────────────────────────────────────


def test_the_driver_was_loaded_because_of_the_device_tree(onboard: Onboard) -> None:
    machine = onboard.machine
    assert machine.run("cat /sys/firmware/devicetree/base/model").rstrip("\0") == "Orange Pi 5 Plus"
    assert machine.run(f"basename $(readlink /sys/bus/platform/devices/{DEVICE}/driver)").strip() == "RKNPU"
    assert machine.run("cat /sys/module/rknpu/version").strip() == "0.9.8"


def test_device_nodes_are_in_their_groups_at_once(onboard: Onboard) -> None:
    """They were there before the rules: the package has udev look at them again."""
    assert "crw------- 1 root root" in onboard.nodes_before
    wanted = {
        "/dev/rknpu": "root:render 660",
        "/dev/dri/card0": "root:video 660",
        "/dev/dri/renderD128": "root:render 660",
    }
    for node, owned in wanted.items():
        assert onboard.machine.run(f"stat -c '%U:%G %a' {node}").strip() == owned, node


def test_board_and_npu_are_identified(onboard: Onboard) -> None:
    board = json.loads(onboard.machine.run("exo-rkllm board --json"))
    assert board["state"] == "vendor_ready"
    assert board["model"] == "Orange Pi 5 Plus"
    assert board["npu"]["device"] == DEVICE
    assert board["npu"]["driver"] == "RKNPU"
    assert board["npu"]["version"] == "0.9.8"
    assert board["npu"]["cores"] == 3


def test_without_the_runtime_the_daemon_runs_and_says_so_everywhere(onboard: Onboard) -> None:
    machine = onboard.machine
    assert machine.show(UNIT, "ActiveState") == "active"
    assert "librkllmrt.so" in machine.show(UNIT, "StatusText")
    assert machine.metrics()["rkllm_serving"] == 0
    assert "librkllmrt.so" in machine.ask("exo-rkllm doctor", timeout=30).out


def test_the_runtime_is_taken_up_without_a_restart_and_answers(onboard: Onboard) -> None:
    machine = onboard.machine
    pid = machine.show(UNIT, "MainPID")
    machine.run(f"exo-rkllm runtime --install {LIBRARY}")
    machine.until("serving", lambda: machine.metrics()["rkllm_serving"] == 1)
    owner.add_model(machine, options=FITS)
    assert "simulated model" in words(machine.run(owner.chat()))
    assert machine.show(UNIT, "MainPID") == pid
    children = machine.run(f"pgrep --parent {pid} rkllm-model").strip()
    assert RUNTIME in machine.run(f"cat /proc/{children}/maps")


# ── counters ─────────────────────────────────────────────────────────────────────────────────────


def test_the_sandboxed_service_reads_counters_that_only_root_may_read(onboard: Onboard) -> None:
    machine = onboard.machine
    assert machine.run("stat -c '%U %a' /sys/kernel/debug").strip() == "root 700"
    assert machine.ask("runuser -u exo-rkllm -- cat /sys/kernel/debug/rknpu/load").code != 0
    machine.run("echo 10,20,30 > /sys/module/rknpu/parameters/load")
    assert all(math.isclose(*pair) for pair in zip(sorted(utilization(machine)), (0.1, 0.2, 0.3), strict=True))
    machine.run("echo 0,0,0 > /sys/module/rknpu/parameters/load")
    series = machine.metrics()
    assert series[f'rknpu_frequency_hertz{{device="{DEVICE}"}}'] == 1e9
    assert series["rknpu_up"] == 1


def test_being_read_does_not_keep_the_npu_awake(onboard: Onboard) -> None:
    machine = onboard.machine
    powered = f"/sys/bus/platform/devices/{DEVICE}/power/runtime_active_time"
    before = machine.run(f"cat {powered}")
    machine.metrics()
    machine.ask("exo-rkllm board; exo-rkllm doctor", timeout=30)
    assert machine.run(f"cat {powered}") == before


def test_the_sandbox_opens_the_npus_nodes_and_no_disk(onboard: Onboard) -> None:
    report = probe_unit.report(onboard.machine)
    opened = {path for path, end in report["devices"].items() if end == "done"}
    assert {"/dev/rknpu", "/dev/dri/card0", "/dev/dri/renderD128"} <= opened
    assert not any(
        path.startswith(("/dev/vd", "/dev/mem", "/dev/kmsg", "/dev/hwrng", "/dev/watchdog")) for path in opened
    )
    assert set(report["attempts"].values()).isdisjoint({"done"})


# ── the driver goes and comes ────────────────────────────────────────────────────────────────────


def test_unloading_the_driver_under_load_costs_answers_and_nothing_else(onboard: Onboard) -> None:
    machine = onboard.machine
    owner.add_model(machine, "slow", f"{FITS} --decode-tps 4 --endless")
    pid = machine.show(UNIT, "MainPID")
    machine.run(f"nohup {owner.chat(model='slow')} > /tmp/running 2>&1 < /dev/null & disown")
    machine.until("a running answer", lambda: machine.run("cat /tmp/running").count("data: ") > 3)
    machine.run("modprobe -r rknpu")
    machine.until("the daemon's notice", lambda: machine.metrics()["rkllm_serving"] == 0)
    refused = machine.run(owner.chat())
    assert "NPU" in refused and "error" in refused
    assert "[DONE]" not in refused
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.show(UNIT, "MainPID") == pid
    assert "NPU" in machine.show(UNIT, "StatusText")
    assert utilization(machine) == [], "what cannot be read is absent, not 0"
    assert machine.metrics()["rknpu_up"] == 0


def test_loading_it_again_brings_everything_back_without_a_restart(onboard: Onboard) -> None:
    machine = onboard.machine
    pid = machine.show(UNIT, "MainPID")
    machine.run("modprobe rknpu; udevadm settle; echo 40,50,60 > /sys/module/rknpu/parameters/load")
    machine.until("serving", lambda: machine.metrics()["rkllm_serving"] == 1)
    machine.until("an answer", lambda: answers(machine))
    machine.until("counters", lambda: len(utilization(machine)) == 3)
    assert all(math.isclose(*pair) for pair in zip(sorted(utilization(machine)), (0.4, 0.5, 0.6), strict=True))
    assert machine.show(UNIT, "MainPID") == pid
    machine.run("echo 0,0,0 > /sys/module/rknpu/parameters/load; exo-rkllm unload slow || true")


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


def test_a_model_beyond_memory_max_is_ended_and_the_daemon_stays(onboard: Onboard) -> None:
    machine = onboard.machine
    # Enough for what the daemon expects of the model, so that it is the kernel that says no.
    machine.run("printf '[models]\\nreserve_memory = 0\\n' > /etc/exo-rkllm/conf.d/test.toml")
    machine.run(f"exo-rkllm config reload; systemctl set-property --runtime {UNIT} MemoryMax=450M MemorySwapMax=0")
    owner.add_model(machine, "huge", f"{FITS} --malloc-bytes 600000000")
    pid = machine.show(UNIT, "MainPID")
    said = machine.run(owner.chat(model="huge"), timeout=60)
    assert "error" in said and "[DONE]" not in said, said
    assert "oom_kill 0\n" not in machine.run(
        f"cat /sys/fs/cgroup$(systemctl show -P ControlGroup {UNIT})/memory.events"
    )
    assert machine.show(UNIT, "MainPID") == pid
    assert answers(machine)


# ── away with it ─────────────────────────────────────────────────────────────────────────────────


def test_a_purge_leaves_nothing_behind(onboard: Onboard) -> None:
    machine = onboard.machine
    machine.run("echo exo-rkllm exo-rkllm/purge-models boolean true | debconf-set-selections")
    owner.apt(machine, "purge exo-rkllm exo-rkllm-simulator")
    assert (
        machine.run(
            "find / -xdev -iname '*rkllm*' -not -path '/root/*' -not -path '/etc/apt/*' -not -path '/usr/local/*'"
        )
        == ""
    )
    assert machine.ask("getent passwd exo-rkllm || getent group exo-rkllm").out == ""
    assert machine.run("systemctl --failed --quiet") == ""
