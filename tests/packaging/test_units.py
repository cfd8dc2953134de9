"""The units as systemd reads them, offline, and what is promised of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

UNITS = sorted(path.name for path in (ROOT / "systemd").iterdir())
# The lowest systemd that the package is installed under, Ubuntu 22.04's; newer keys would be a warning in its journal.
OLDEST = 249
# Key, and the version of systemd that brought it.
NEWER = {
    "RestartSteps": 254,
    "RestartMaxDelaySec": 254,
    "OpenFile": 253,
    "ImportCredential": 254,
    "MemoryZSwapMax": 253,
    "ProtectControlGroupsEx": 258,
    "PrivatePIDs": 257,
    "DeviceWants": 999,
}


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root with the units and what they start, so that nothing of this machine is looked at."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for name in UNITS:
        shutil.copy(ROOT / "systemd" / name, units)
    for program in ("usr/bin/exo-rkllm", "usr/bin/python3"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for name in ("sysinit.target", "basic.target", "shutdown.target", "sockets.target", "network.target",
                 "multi-user.target", "umount.target", "local-fs.target", "system.slice", "-.slice"):  # fmt: skip
        (units / name).write_text("[Unit]\nDescription=Stand-in\n")
    return tmp_path


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_every_line(installed: Path, name: str) -> None:
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={installed}", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr and "nvalid" not in done.stderr, done.stderr


def test_unknown_unit_line_is_detected(installed: Path) -> None:
    unit = installed / "usr/lib/systemd/system/exo-rkllm.service"
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTemp=yes"))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={installed}", unit.name]
    assert "PrivateTemp" in subprocess.run(command, capture_output=True, text=True).stderr


# As systemd ships it: what creates /run/rkllm waits for every local file system.
TMPFILES_SETUP = """[Unit]
DefaultDependencies=no
After=local-fs.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3
"""
BOOT = """[Unit]
DefaultDependencies=no
Wants=local-fs.target systemd-tmpfiles-setup.service run-rkllm-npu.mount
[Service]
Type=oneshot
ExecStart=/usr/bin/python3
"""


def test_boot_with_the_driver_has_no_ordering_cycle(installed: Path) -> None:
    """systemd broke it by leaving systemd-tmpfiles-setup out of the boot: a mount comes before local-fs by default."""
    units = installed / "usr/lib/systemd/system"
    (units / "systemd-tmpfiles-setup.service").write_text(TMPFILES_SETUP)
    (units / "boot.service").write_text(BOOT)
    command = ["systemd-analyze", "verify", "--man=no", f"--root={installed}", "boot.service"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    assert "cycle" not in said
    mount = units / "run-rkllm-npu.mount"
    mount.write_text(mount.read_text().replace("DefaultDependencies=no", ""))
    assert "ordering cycle" in subprocess.run(command, capture_output=True, text=True).stderr, "a cycle would be seen"


@pytest.mark.parametrize("name", UNITS)
def test_no_unit_key_is_newer_than_the_oldest_systemd(name: str) -> None:
    assert not {key for key in settings(name) if NEWER.get(key, 0) > OLDEST}


def exposure(path: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=100", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)
    assert found is not None, shown
    return float(found[1])


def test_daemon_exposure_stays_low(installed: Path) -> None:
    unit = installed / "usr/lib/systemd/system/exo-rkllm.service"
    assert exposure(unit) <= 1.5
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "").replace("NoNewPrivileges=yes", ""))
    assert exposure(unit) > 1.5, "what is left out is seen"


def test_daemon_gets_no_device_but_the_npu() -> None:
    service = settings("exo-rkllm.service")
    assert service["User"] == ["exo-rkllm"] and service["CapabilityBoundingSet"] == [""]
    assert service["PrivateDevices"] == ["yes"] and service["DevicePolicy"] == ["closed"]
    allowed = {line.split()[0] for line in service["DeviceAllow"]}
    assert allowed == {"char-226", "char-261", "char-10", "char-dma_heap", "char-rk_dma_heap"}
    assert all(path.startswith("-/dev/") for line in service["BindPaths"] for path in line.split())
    kept = (ROOT / "packaging/debian/exo-rkllm.tmpfiles").read_text()
    assert "f /dev/dri/.exo-rkllm " in kept and "f /dev/accel/.exo-rkllm " in kept
    sysusers = (ROOT / "packaging/debian/exo-rkllm.sysusers").read_text()
    assert "m exo-rkllm video" in sysusers and "m exo-rkllm render" in sysusers


def test_system_calls_of_the_daemon_are_allowed() -> None:
    """Affinity for the vendor's threads, and no W^X, which its library was never seen under."""
    service = settings("exo-rkllm.service")
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources", "sched_setaffinity"]
    assert "MemoryDenyWriteExecute" not in service
    assert "AF_NETLINK" in service["RestrictAddressFamilies"][0], "udev's events"


def test_counters_are_bound_where_the_daemon_looks() -> None:
    from exo_rkllm.board.detect import DRIVER_FOLDERS

    (bound,) = settings("exo-rkllm.service")["BindReadOnlyPaths"]
    source, _, target = bound.removeprefix("-").partition(":")
    mount = settings("run-rkllm-npu.mount")
    assert source == mount["What"][0] == "/sys/kernel/debug/rknpu"
    assert {target[1:], mount["Where"][0][1:]} <= set(DRIVER_FOLDERS)


def test_restart_backoff_needs_a_recent_systemd(tmp_path: Path) -> None:
    fake = tmp_path / "bin/systemctl"
    fake.parent.mkdir()
    for version, there in (("252 (252.39-1)", False), ("257 (257.13-1)", True)):
        fake.write_text(f"#!/bin/sh\necho 'systemd {version}'\n")
        fake.chmod(0o755)
        folder = tmp_path / version.split()[0]
        folder.mkdir()
        command = ["/bin/sh", str(ROOT / "packaging/debian/back-off"), str(folder)]
        subprocess.run(command, env={"PATH": f"{fake.parent}:/usr/bin:/bin"}, check=True)
        drop_in = folder / "exo-rkllm.service.d/50-back-off.conf"
        assert drop_in.exists() == there
        if there:
            assert "RestartMaxDelaySec=60" in drop_in.read_text()
