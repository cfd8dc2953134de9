"""A virtual arm64 board: qemu's `virt` machine with a board's device tree, reached through ssh on loopback."""

from __future__ import annotations

import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.system.substrate import devicetree, host
from tests.system.substrate.computer import Computer

BOOT = 240
# What a kernel does against eavesdroppers at each entry is work for an emulated processor.
TRUSTING = "mitigations=off kpti=off"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What stays the same from boot to boot."""

    kernel: Path
    initrd: Path
    disk: Path
    tree: Path
    share: Path
    key: Path
    processors: int = 2
    megabytes: int = 1024
    parameters: str = "rknpu.misc=1"
    disk_format: str = "raw"
    flushes: bool = False  # whether what the guest flushes is on the disk: where the power will be cut
    wire: int = 0  # a port for frames: boards with the same one are on one network
    number: int = 0  # the board's place on it


class Machine(Computer):
    """`start` boots what the disk holds, `cut` takes the power away. The disk keeps what was written to it."""

    slowness = 6.0

    def __init__(self, name: str, hardware: Hardware, folder: Path) -> None:
        self.name = name
        self._hardware = hardware
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._disk = folder / "disk.qcow2"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        # A socket's path has 108 bytes at most, and pytest's folders are long.
        self._sockets = tempfile.TemporaryDirectory(prefix="rkllm-")
        backing = ["-b", str(hardware.disk), "-F", hardware.disk_format, str(self._disk)]
        host.run("qemu-img", "create", "-q", "-f", "qcow2", *backing)

    @property
    def console(self) -> str:
        path = self._folder / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Machine:
        hardware = self._hardware
        self._port = free_port()
        with (self._folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._qemu(hardware)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=host.environment(),
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def _qemu(self, hardware: Hardware) -> Sequence[str]:
        cache = "writeback" if hardware.flushes else "unsafe"
        disk = f"file={self._disk},if=none,id=disk,format=qcow2,cache={cache}"
        share = f"file={hardware.share},if=none,id=share,format=raw,readonly=on"
        # `restrict` holds IPv4 back only, and a cluster on this machine's network must not be heard.
        user = f"user,id=user,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{self._port}-:22"
        return [
            "qemu-system-aarch64",
            *("-machine", devicetree.MACHINE, "-cpu", devicetree.PROCESSOR, "-accel", "tcg,thread=multi,tb-size=512"),
            *("-smp", str(hardware.processors), "-m", str(hardware.megabytes), "-dtb", str(hardware.tree)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-serial", f"file:{self._folder / 'console.log'}"),
            *("-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd)),
            *("-append", f"root=/dev/vda rw console=ttyAMA0 {TRUSTING} {hardware.parameters}"),
            *("-drive", disk, "-device", "virtio-blk-pci,drive=disk"),
            *("-drive", share, "-device", "virtio-blk-pci,drive=share"),
            *("-netdev", user, "-device", "virtio-net-pci,netdev=user,romfile="),
            *_wire(hardware),
            *("-device", "virtio-rng-pci"),
        ]

    def _wait(self) -> None:
        end = time.monotonic() + BOOT
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                raise host.Broken(f"qemu ended: {(self._folder / 'qemu.log').read_text()}\n{self.console[-3000:]}")
            if " login:" in self.console and self._reachable():
                self.run("mkdir -p /srv/share && mountpoint -q /srv/share || mount -o ro /dev/vdb /srv/share")
                # ssh answers before everything has been started.
                state = self.ask("systemctl is-system-running --wait", timeout=BOOT).out.strip()
                if state not in ("running", "degraded"):
                    raise host.Broken(f"{self.name} does not boot: it is {state or 'silent'}.\n{self.console[-4000:]}")
                return
            time.sleep(0.2)
        raise host.Broken(f"{self.name} does not boot:\n{self.console[-4000:]}")

    def _reachable(self) -> bool:
        return self.ask("true", timeout=30).code == 0

    def command(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "20",
            # One connection carries all commands: setting up another costs an emulated processor a second.
            "ControlMaster": "auto",
            "ControlPath": f"{self._sockets.name}/ssh",
            "ControlPersist": "yes",
            "IdentityFile": str(self._hardware.key),
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        given = [f"-o{name}={value}" for name, value in options.items()]
        return ["ssh", "-F", "none", *given, "-p", str(self._port), "root@127.0.0.1"]

    def _quoted(self, words: list[str]) -> list[str]:
        """ssh hands one line to a shell over there."""
        return [*self.command(), shlex.join(words)]

    def lend(self, port: int) -> None:
        """A server on this machine's loopback is found at the same place on the board's, until it is switched off."""
        *options, there = self.command()
        host.run(*options, "-O", "forward", "-R", f"{port}:127.0.0.1:{port}", there)

    def switch_off(self) -> Hardware:
        """Orderly; the disk as it is now is one to boot other boards from."""
        self.ask("systemctl poweroff")
        if self._process is not None:
            self._process.wait(BOOT)
        self.stop()
        return replace(self._hardware, disk=self._disk, disk_format="qcow2")

    def cut(self) -> None:
        """As if the plug were pulled: nothing is flushed that the guest has not flushed."""
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        # The connection's own process ends with its socket's other end; -O exit only makes it quick.
        subprocess.run([*self.command()[:-1], "-O", "exit", "root@127.0.0.1"], capture_output=True)

    def discard(self) -> None:
        self.stop()
        self._sockets.cleanup()
        self._disk.unlink(missing_ok=True)


def _wire(hardware: Hardware) -> Sequence[str]:
    """Frames as multicast datagrams that do not leave loopback."""
    if not hardware.wire:
        return ()
    frames = f"socket,id=wire,mcast=230.0.0.1:{hardware.wire},localaddr=127.0.0.1"
    return (
        *("-netdev", frames),
        *("-device", f"virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:00:01:{hardware.number:02x}"),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
